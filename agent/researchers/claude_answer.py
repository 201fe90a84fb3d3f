"""An answer of the Messages API as plain data, read so that no odd answer is an error and no cost is overlooked.

Gateways answer with HTML, with half an answer or without usage; models call tools with input that is not an object. What is
sent back to the API is therefore made anew here, such that the API accepts it.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.researchers.claude_stream import Streamed, is_stream, streamed
from research.formatting import one_line

MAX_DEPTH = 64
"""Deeper JSON is refused: no answer needs it, and Python's recursion ends soon after."""

MAX_ANSWER_TOKENS = 10_000_000
"""A larger reported number of tokens isn't believed."""

CHARACTERS_PER_TOKEN = 3
"""For estimates; English text has about four, so an estimate is rather too high."""

_NOT_FOR_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of one answer."""

    input: int
    output: int
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    estimated: bool = False
    """Whether input or output is an estimate from the length of the texts."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool by the model."""

    id: str
    name: str
    input: Mapping[str, Any] | None
    """None if it is not an object."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer. `problem` says in a line why it can't be used; None if it can."""

    content: tuple[Mapping[str, Any], ...] = ()
    """What to send back as the model's turn; empty if it said nothing and called nothing."""
    calls: tuple[ToolCall, ...] = ()
    tokens: Tokens | None = None
    """None if no model was at work: an error, or text that is not the API's."""
    stop_reason: str = ""
    """Why the model stopped, as the API calls it; empty if it said nothing of the kind."""
    problem: str | None = None
    is_broken: bool = False
    """Whether the answer broke off on its way, so that the same request may succeed."""
    error: Mapping[str, Any] = field(default_factory=dict)
    """The API's error object, if it was sent as an answer."""


def read_answer(body: bytes, *, characters_sent: int) -> Answer:
    """The answer in the body of a response with status 200: a stream of events, or JSON as some gateways send it.

    Missing token counts are estimated from the length of the texts.
    """
    text = body.decode("utf-8-sig", errors="replace").strip()
    if is_stream(text):
        return _read_stream(streamed(text, plain_json), characters_sent)
    try:
        message = plain_json(text)
    except (ValueError, RecursionError):
        return _unreadable(text, characters_sent)
    if not isinstance(message, dict):
        return _unreadable(text, characters_sent)
    error = message.get("error")
    if message.get("type") == "error" or (error and "content" not in message):
        return Answer(error=error if isinstance(error, dict) else {"message": str(error)}, problem="The API answered an error.")
    return _of_message(message, characters_sent, len(text))


def plain_json(text: str) -> Any:
    """The data in a JSON text, whose strings are valid UTF-8 and whose numbers are finite.

    Raises ValueError, or RecursionError, for anything else.
    """
    return _plain(json.loads(text, parse_constant=_refuse, parse_float=_finite))


def _read_stream(found: Streamed, characters_sent: int) -> Answer:
    if found.error is not None:
        tokens = _tokens(found.message.get("usage"), characters_sent, found.characters) if found.message.get("usage") else None
        return Answer(error=found.error, tokens=tokens, problem="The API answered an error.")
    answer = _of_message(found.message, characters_sent, found.characters)
    if found.is_complete:
        return answer
    return Answer(tokens=answer.tokens, problem="The API's answer broke off.", is_broken=True)


def _of_message(message: Mapping[str, Any], characters_sent: int, characters_received: int) -> Answer:
    content, calls = _blocks(message.get("content"))
    tokens = _tokens(message.get("usage"), characters_sent, characters_received)
    reason = message.get("stop_reason")
    problem = "The model declined to answer." if reason == "refusal" else None
    stop_reason = reason if isinstance(reason, str) else ""
    return Answer(content=content, calls=calls, tokens=tokens, stop_reason=stop_reason, problem=problem)


def _unreadable(text: str, characters_sent: int) -> Answer:
    """An answer that isn't JSON. Half a JSON text is the work of a model, and was paid for."""
    if not text:
        return Answer(problem="The API's answer was empty.")
    paid = text.startswith("{")
    tokens = _tokens(None, characters_sent, len(text)) if paid else None
    return Answer(problem=f"The API's answer is not JSON, but: {one_line(text[:400], 100)}", tokens=tokens)


def _blocks(content: Any) -> tuple[tuple[Mapping[str, Any], ...], tuple[ToolCall, ...]]:
    """The blocks that can be sent back, and the calls among them."""
    raw = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks: list[Mapping[str, Any]] = []
    calls: list[ToolCall] = []
    for block in raw if isinstance(raw, list) else ():
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_use":
            call = _call(block, {call.id for call in calls})
            calls.append(call)
            name = _NOT_FOR_NAMES.sub("_", call.name)[:128] or "_"
            blocks.append({"type": "tool_use", "id": call.id, "name": name, "input": dict(call.input or {})})
        elif kind == "text":
            if isinstance(block.get("text"), str) and block["text"].strip():
                blocks.append(block)
        elif isinstance(kind, str):
            blocks.append(block)
    says_something = any(block["type"] not in ("thinking", "redacted_thinking") for block in blocks)
    return (tuple(blocks) if says_something else (), tuple(calls))


def _call(block: Mapping[str, Any], taken: set[str]) -> ToolCall:
    identifier = _NOT_FOR_NAMES.sub("_", str(block.get("id") or "call"))[:60]
    while identifier in taken:
        identifier += "_"
    arguments = block.get("input")
    if isinstance(arguments, str):  # some gateways send the object as text
        try:
            arguments = json.loads(arguments, parse_constant=_refuse, parse_float=_finite)
        except (ValueError, RecursionError):
            arguments = None
    name = block.get("name")
    return ToolCall(
        id=identifier,
        name=name if isinstance(name, str) else "",
        input=arguments if isinstance(arguments, dict) else None,
    )


def _tokens(usage: Any, characters_sent: int, characters_received: int) -> Tokens:
    reported: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
    read, written = _count(reported.get("input_tokens")), _count(reported.get("output_tokens"))
    creation = reported.get("cache_creation")
    cache_write = _count(reported.get("cache_creation_input_tokens")) or 0
    hour = _count(creation.get("ephemeral_1h_input_tokens")) if isinstance(creation, dict) else None
    cache_write_1h = min(hour or 0, cache_write)
    return Tokens(
        input=characters_sent // CHARACTERS_PER_TOKEN if read is None else read,
        output=characters_received // CHARACTERS_PER_TOKEN if written is None else written,
        cache_read=_count(reported.get("cache_read_input_tokens")) or 0,
        cache_write_5m=cache_write - cache_write_1h,
        cache_write_1h=cache_write_1h,
        estimated=read is None or written is None,
    )


def _count(value: Any) -> int | None:
    """A reported number of tokens; None if it isn't one."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ANSWER_TOKENS
    return value if valid else None


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON data whose strings are valid UTF-8. Raises ValueError if it is nested too deeply."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(_plain(name)): _plain(item, depth + 1) for name, item in value.items()}
    return value


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> float:
    """Raises ValueError for NaN and infinities, which JSON doesn't have and the API would not take back."""
    raise ValueError(f"{constant} is not JSON")
