"""What the Messages API sends: messages whole and as streams of events, and errors; and what it refuses to be sent."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import uuid4

MODEL = "claude-opus-5-5"
"""The model that a message names if the request names none."""

KINDS: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)
"""The type of an error by its status; others are an api_error."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A response of any kind."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    missing_bytes: int = 0
    """How many bytes more than the body are promised; the connection ends without them."""
    reset: bool = False
    """Whether the connection is reset after the body."""
    delay_s: float = 0.0
    """Pause before the body."""
    stall_s: float = 0.0
    """Pause in the middle of the body."""


def message(content: Any, stop_reason: Any, usage: Mapping[str, Any] | None = None, *, model: str = MODEL) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "id": f"msg_{uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 100, **(usage or {})},
    }


def error_body(status: int, text: str, kind: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"type": "error", "error": {"type": kind or KINDS.get(status, "api_error"), "message": text}}


def as_reply(status: int, body: Any, *, stream: bool = False, **more: Any) -> Reply:
    """A response with this JSON; a message as a stream of events if the request asked for one."""
    if stream and status == 200 and _can_be_streamed(body):
        return Reply(status=status, body=b"".join(map(_event, _events(body))), content_type="text/event-stream", **more)
    return Reply(status=status, body=json.dumps(body).encode(), **more)


def _can_be_streamed(body: Any) -> bool:
    """Whether a body is a message of the API's form; a script may have anything else, which is sent in one piece."""
    if not isinstance(body, dict) or body.get("type") != "message" or not isinstance(body.get("usage"), dict):
        return False
    content = body.get("content")
    fields = {"text": "text", "thinking": "thinking"}
    return isinstance(content, list) and all(
        isinstance(block, dict) and isinstance(block.get(fields.get(str(block.get("type")), "type")), str) for block in content
    )


def problem_with(request: Any) -> str | None:
    """Why the real API would answer a request with status 400; None if it wouldn't."""
    if not isinstance(request, dict):
        return "the body must be a JSON object"
    if not isinstance(request.get("max_tokens"), int) or not isinstance(request.get("model"), str):
        return "model and max_tokens are required"
    turns = request.get("messages")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return "messages must be a list of turns, and not empty"
    asked: set[str] = set()
    for turn in turns:
        content = turn.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
            return "a turn must have content"
        if turn.get("role") == "system":  # instructions between turns
            continue
        problem = _problem_with_turn(turn.get("role"), blocks, asked)
        if problem is not None:
            return problem
        asked = {block["id"] for block in blocks if block.get("type") == "tool_use"}
    return "the last turn must be the user's" if turns[-1].get("role") == "assistant" else None


def _problem_with_turn(role: object, blocks: Sequence[Mapping[str, Any]], asked: set[str]) -> str | None:
    """`asked` are the calls of the turn before, each of which needs one result."""
    if any(block.get("type") == "text" and not str(block.get("text", "")).strip() for block in blocks):
        return "text must not be blank"
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    if len({call.get("id") for call in calls}) != len(calls):
        return "ids of calls must be unique"
    if not all(isinstance(call.get("input"), dict) and call.get("name") for call in calls):
        return "the input of a call must be an object"
    answered = [block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    if role == "user" and (set(answered) != asked or len(answered) != len(asked)):
        return "each call needs one result in the next turn"
    return None


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def _events(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a message's stream."""
    started = {**body["usage"], "output_tokens": 1}
    yield {"type": "message_start", "message": {**body, "content": [], "stop_reason": None, "usage": started}}
    for index, block in enumerate(body["content"]):
        begin, deltas = _parts(block)
        yield {"type": "content_block_start", "index": index, "content_block": begin}
        yield from ({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": body.get("stop_reason"), "stop_sequence": None},
        "usage": {"output_tokens": body["usage"].get("output_tokens")},
    }
    yield {"type": "message_stop"}


def _parts(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How a block begins, and what follows piece by piece."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in _halves(block["text"])]
        case "tool_use":
            pieces = _halves(json.dumps(block.get("input")))
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
            return {**block, "thinking": "", "signature": ""}, deltas
        case _:
            return dict(block), []


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]
