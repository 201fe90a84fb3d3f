"""What the stand-in says without a script: one change of a constant of train.py after another, by the tools that it is offered.

It finds train.py in the conversation, takes the first step of `search` that the conversation doesn't mention yet, edits in one
turn and submits in the next. If a submission is refused, it asks for all titles first. Tokens are counted from the texts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.compare_programs import describe_changes
from agent.researchers.stand_in.prompt_cache import CHARACTERS_PER_TOKEN, PromptCache
from agent.search.knobs import knobs_of, settle
from agent.search.line_search import Curve, next_steps
from research.errors import UserError
from research.hyperparameters import read_constants, write_constants

EDITOR, SUBMIT, QUERY = "str_replace_based_edit_tool", "submit", "query_history"
"""The tools that it uses."""

ALL_TITLES = "SELECT DISTINCT title FROM history ORDER BY title"
"""What is asked where a title is missing in the conversation: which steps have been tried."""

ROW_TOKENS = 2048
"""Tokens in a row, of which a batch is a multiple, if the conversation doesn't say."""

_TRAIN_PY = re.compile(r"```python\n(.*?\n)```", re.S)
_ROWS = re.compile(r"MAX_SEQ_LEN ([0-9]{1,9})\b")


class Edits:
    """Answers a request with content, and tells its usage."""

    def __init__(self) -> None:
        self._cache = PromptCache()

    def content(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The model's turn: an edit, its submission, or text where there is nothing to do."""
        text = _all_text(request["messages"])
        found = _TRAIN_PY.search(text)
        tools = {tool.get("name") for tool in request.get("tools", ()) if isinstance(tool, dict)}
        if found is None or not {EDITOR, SUBMIT} <= tools:
            return [{"type": "text", "text": "This stand-in edits a train.py that it is shown, and does nothing else."}]
        begun = _last_edit(request["messages"])
        if begun is not None:
            why = "It is one step of a line search."
            return [_call(SUBMIT, len(request["messages"]), title=begun, hypothesis=why)]
        if QUERY in tools and _was_refused(request["messages"]) and ALL_TITLES not in json.dumps(request["messages"]):
            return [_call(QUERY, len(request["messages"]), sql=ALL_TITLES)]
        train_py, rows, turn = found[1].removesuffix("\n"), _ROWS.search(text), len(request["messages"])
        for edited in _steps(train_py, max_seq_len=int(rows[1]) if rows else ROW_TOKENS):
            title = describe_changes(train_py, edited)
            if title not in text:
                return [{"type": "text", "text": f"Edit: {title}"}, _edit(train_py, edited, turn)]
        return [{"type": "text", "text": "Every step of every constant is in the history."}]

    def usage(self, request: Mapping[str, Any], content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The tokens of an answer."""
        written = max(1, len(json.dumps(list(content))) // CHARACTERS_PER_TOKEN)
        return {**self._cache.usage(request), "output_tokens": written}


def _steps(train_py: str, *, max_seq_len: int) -> Iterator[str]:
    """train.py with each first step of each constant, those that promise most first."""
    try:
        constants = read_constants(train_py)
    except UserError:
        return
    ranked = []
    for knob in knobs_of(constants):
        head = knob.read(constants[knob.name])
        if head is not None:
            ranked += [(step.score, knob, step) for step in next_steps(knob, head, Curve(), keeps=0)]
    for _, knob, step in sorted(ranked, key=lambda item: -item[0]):
        value = knob.write(constants[knob.name], step.position)
        changes = None if value is None else settle(constants, {knob.name: value}, max_seq_len=max_seq_len)
        if changes:
            yield write_constants(train_py, changes)


def _edit(before: str, after: str, turn: int) -> dict[str, Any]:
    """The call that makes the edit: of one line in the first turn, else of the whole file, which earlier edits have changed."""
    old, new = before.split("\n"), after.split("\n")
    changed = [index for index, (one, other) in enumerate(zip(old, new, strict=False)) if one != other]
    if turn == 1 and len(old) == len(new) and len(changed) == 1 and before.count(old[changed[0]]) == 1:
        place = changed[0]
        return _call(EDITOR, turn, command="str_replace", path="train.py", old_str=old[place], new_str=new[place])
    return _call(EDITOR, turn, command="create", path="train.py", file_text=after)


def _call(name: str, number: int, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments}


def _last_edit(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """The title of the edit that the model's last turn made; None if it made none, or if that was refused."""
    if len(turns) < 2 or not isinstance(turns[-2].get("content"), list):
        return None
    said = next((block["text"] for block in turns[-2]["content"] if block.get("type") == "text"), "")
    failed = any(block.get("is_error") for block in turns[-1]["content"] if isinstance(block, dict))
    return said.removeprefix("Edit: ") if said.startswith("Edit: ") and not failed else None


def _was_refused(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last turn says that a call failed."""
    content = turns[-1]["content"]
    return isinstance(content, list) and any(block.get("is_error") for block in content)


def _all_text(turns: Sequence[Mapping[str, Any]]) -> str:
    """All text of the conversation: of texts, of results, and of the titles that were submitted."""
    parts = []
    for turn in turns:
        content = turn["content"]
        blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            told = block.get("text") or block.get("content") or (block.get("input") or {}).get("title")
            parts.append(told if isinstance(told, str) else json.dumps(told))
    return "\n".join(parts)
