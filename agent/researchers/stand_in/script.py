"""The stand-in's answers in their order, from a JSON file: what it says, and what goes wrong."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from agent.researchers.stand_in.bodies import MODEL, Reply, as_reply, error_body, message
from agent.researchers.stand_in.edits import EDITOR, SUBMIT, Edits
from agent.researchers.stand_in.server import Request
from research.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answer. Without words or calls of its own it is an edit, as without a script; an error says nothing."""

    text: str | None = None
    edit: tuple[str, str] | None = None
    """(old, new): a passage of train.py that occurs once, and its replacement."""
    submit: str | None = None
    """The title of the idea that is submitted."""
    content: tuple[Mapping[str, Any], ...] = ()
    """Further blocks, as the API has them."""
    stop_reason: str | None = None
    """None: tool_use with a call, else end_turn."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Token counts that replace those that are counted."""
    error: int | None = None
    """A status from 400."""
    type: str | None = None
    """The error's type; None: the one that the API has for the status."""
    message: str = "the stand-in's script says so"
    """The error's text."""
    retry_after: float | None = None
    """Seconds that an error asks to wait."""
    cut: float | None = None
    """The share of the answer after which the connection ends."""
    stall_s: float = 0.0
    """Seconds of silence in the middle of the answer."""
    delay_s: float = 0.0
    """Seconds before the answer."""
    times: int = 1
    """How often this step comes, one time after another."""

    def blocks(self) -> list[dict[str, Any]]:
        """What the step says by itself."""
        said: list[dict[str, Any]] = [] if self.text is None else [{"type": "text", "text": self.text}]
        if self.edit is not None:
            old, new = self.edit
            arguments: dict[str, Any] = {"command": "str_replace", "path": "train.py", "old_str": old, "new_str": new}
            said.append({"type": "tool_use", "id": "toolu_edit", "name": EDITOR, "input": arguments})
        if self.submit is not None:
            arguments = {"title": self.submit, "hypothesis": "The script says so."}
            said.append({"type": "tool_use", "id": "toolu_submit", "name": SUBMIT, "input": arguments})
        return [*said, *map(dict, self.content)]


class Script:
    """Gives the answers of the steps, again from the first one after the last; without steps each is an edit."""

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps = tuple(step for step in steps for _ in range(step.times)) or (Step(),)
        self._edits, self._next, self._lock = Edits(), 0, threading.Lock()

    @classmethod
    def from_file(cls, path: Path) -> "Script":
        """Reads a JSON list of steps. Raises UserError."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"The script {path} can't be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"The script {path} is not JSON: {error}.") from None
        if not isinstance(entries, list) or not entries:
            raise UserError(f'The script {path} must hold a list of steps, such as [{{}}, {{"error": 529}}].')
        return cls([_step(entry, f"Step {number} of {path}") for number, entry in enumerate(entries, start=1)])

    def answer(self, request: Request) -> Reply:
        """The next step's response."""
        with self._lock:
            step = self.steps[self._next % len(self.steps)]
            self._next += 1
        body, stream = request.body, bool(request.body.get("stream"))
        if step.error is not None:
            wait = {} if step.retry_after is None else {"retry-after": f"{step.retry_after:g}"}
            return as_reply(step.error, error_body(step.error, step.message, step.type), headers=wait, delay_s=step.delay_s)
        silent = step.stop_reason in ("refusal", "model_context_window_exceeded")
        content = step.blocks() or ([] if silent else self._edits.content(body))
        calls = any(block.get("type") == "tool_use" for block in content)
        stop = step.stop_reason or ("tool_use" if calls else "end_turn")
        usage = {**self._edits.usage(body, content), **step.usage}
        told = message(content, stop, usage, model=str(body.get("model", MODEL)))
        reply = as_reply(200, told, stream=stream, delay_s=step.delay_s, stall_s=step.stall_s)
        if step.cut is None:
            return reply
        sent = int(len(reply.body) * step.cut)
        return changed(reply, body=reply.body[:sent], missing_bytes=len(reply.body) - sent)


def _step(entry: Any, where: str) -> Step:
    """Raises UserError."""
    if not isinstance(entry, dict):
        raise UserError(f'{where} must be an object, such as {{}} or {{"error": 529}}.')
    known = {field.name: field for field in fields(Step)}
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise UserError(f"{where} has unknown fields: {', '.join(unknown)}. There are {', '.join(known)}.")
    for name, value in entry.items():
        if not _CHECKS[name](value):
            raise UserError(f"{where}: {name} must be {_WHAT[name]}.")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Step(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(block, dict) and _is_text(block.get("type")) for block in value)


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 86_400


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_FORMS: Mapping[str, tuple[Any, str]] = {
    "text": (_is_text, "a text"),
    "edit": (_is_pair, "[old, new]"),
    "submit": (_is_text, "a title"),
    "content": (_is_blocks, "a list of the API's blocks"),
    "stop_reason": (_is_text, "a text, such as refusal"),
    "usage": (lambda value: isinstance(value, dict), "an object with token counts"),
    "error": (lambda value: _is_count(value, 400, 599), "a status from 400 to 599"),
    "type": (_is_text, "a text, such as overloaded_error"),
    "message": (_is_text, "a text"),
    "retry_after": (_is_seconds, "seconds"),
    "cut": (lambda value: _is_number(value) and 0 <= value < 1, "a share of the answer, from 0 to below 1"),
    "stall_s": (_is_seconds, "seconds"),
    "delay_s": (_is_seconds, "seconds"),
    "times": (lambda value: _is_count(value, 1, 100_000), "a whole number from 1"),
}
"""How a field of a step is checked, and what it must be, in words."""

_CHECKS = {name: check for name, (check, _) in _FORMS.items()}
_WHAT = {name: what for name, (_, what) in _FORMS.items()}
