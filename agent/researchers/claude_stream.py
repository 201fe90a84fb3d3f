"""An answer of the Messages API that arrives as a stream of events, put together as far as it came."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""The field of a delta that holds its piece, and of the block that the pieces add up to, by the delta's type."""

_INPUT = "input_json_delta"
"""The type of deltas whose pieces together are a call's input as JSON."""


@dataclass
class Streamed:
    """A message as far as its events tell of it."""

    message: dict[str, Any] = field(default_factory=dict)
    """The message as it would have been sent in one piece; its usage has no output tokens unless the stream told the sum."""
    error: Mapping[str, Any] | None = None
    """The error object that the stream ended with; None if it told none."""
    is_complete: bool = False
    """Whether the message's end has arrived."""
    characters: int = 0
    """Characters that the model has written."""
    _blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    _inputs: dict[int, str] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes one event; those of kinds that are not known say nothing."""
        match event.get("type"):
            case "message_start" if isinstance(event.get("message"), dict):
                self.message = dict(event["message"])
                self.message["usage"] = {**_object(self.message.get("usage")), "output_tokens": None}
            case "content_block_start" if isinstance(event.get("content_block"), dict):
                self._blocks[_index(event)] = dict(event["content_block"])
            case "content_block_delta":
                self._take_delta(_index(event), _object(event.get("delta")))
            case "message_delta":
                self.message.update(_object(event.get("delta")))
                told = {name: count for name, count in _object(event.get("usage")).items() if count is not None}
                self.message["usage"] = {**_object(self.message.get("usage")), **told}
            case "message_stop":
                self.is_complete = True
            case "error":
                told_error = event.get("error")
                self.error = told_error if isinstance(told_error, dict) else {"message": str(told_error)}

    def finish(self, read: Callable[[str], Any]) -> None:
        """Puts the blocks into the message. The input of a call that is not JSON, or broke off, is None."""
        for index, text in self._inputs.items():
            if index in self._blocks:
                self._blocks[index]["input"] = _read_or_none(text, read)
        self.message["content"] = [self._blocks[index] for index in sorted(self._blocks)]

    def _take_delta(self, index: int, delta: Mapping[str, Any]) -> None:
        kind = str(delta.get("type"))
        piece = delta.get("partial_json" if kind == _INPUT else _TEXTS.get(kind, ""))
        if not isinstance(piece, str) or index not in self._blocks:
            return
        self.characters += len(piece)
        if kind in _TEXTS:
            block, name = self._blocks[index], _TEXTS[kind]
            block[name] = f"{block.get(name) or ''}{piece}"
        else:
            self._inputs[index] = self._inputs.get(index, "") + piece


def is_stream(text: str) -> bool:
    """Whether a body is a stream of events, as opposed to JSON or anything else."""
    return text.startswith(("event:", "data:", ":"))


def streamed(text: str, read: Callable[[str], Any]) -> Streamed:
    """The message of a stream. `read` reads an event's JSON; what it can't read, it raises ValueError or RecursionError for.

    An event that can't be read ends the stream there, since what follows may be built on it.
    """
    found = Streamed()
    for data in _data(text):
        try:
            event = read(data)
        except (ValueError, RecursionError):
            found.is_complete = False
            break
        if isinstance(event, dict):
            found.take(event)
    found.finish(read)
    return found


def _data(text: str) -> Iterator[str]:
    """The data of each event."""
    lines: list[str] = []
    for line in [*text.replace("\r\n", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            lines.append(line.removeprefix("data:").strip())
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else -1


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_or_none(text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
