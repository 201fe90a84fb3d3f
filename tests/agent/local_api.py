"""A Messages API on this machine that replays scripted answers to the real SDK, and records its requests."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "claude-opus-5-5"


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


Scripted = tuple[int, dict[str, Any]] | Reply


@dataclass
class LocalApi:
    """What is left to answer, and what was asked."""

    url: str
    left: list[Scripted] = field(default_factory=list)
    repeat_last: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)

    def play(self, answers: Sequence[Scripted], *, repeat_last: bool = False) -> None:
        """Forgets the requests so far, and serves these answers in order; with `repeat_last` the last one for ever."""
        self.left, self.repeat_last, self.requests = list(answers), repeat_last, []

    def next_reply(self) -> Reply:
        if not self.left:
            return _as_reply(error(500, "the script has ended"))
        return _as_reply(self.left[0] if self.repeat_last and len(self.left) == 1 else self.left.pop(0))


@contextmanager
def local_api(answers: Sequence[Scripted] = ()) -> Iterator[LocalApi]:
    """Serves the answers in order. Any further request gets a 500."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            _refuse_what_the_api_refuses(request)
            api.requests.append({**request, "path": self.path, "key": self.headers["authorization"]})
            self._answer(api.next_reply())

        def do_GET(self) -> None:
            page = Reply(body=b"<html>log in</html>", content_type="text/html")
            self._answer(Reply(status=302, headers={"location": "/again"}) if self.path == "/again" else page)

        def _answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("content-type", reply.content_type)
            self.send_header("content-length", str(len(reply.body) + reply.missing_bytes))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            time.sleep(reply.delay_s)
            try:
                self.wfile.write(reply.body)
            except OSError:  # the client has gone
                return
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = LocalApi(url=f"http://127.0.0.1:{server.server_port}")
    api.play(answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(*blocks: dict[str, Any], stop_reason: str = "tool_use", **usage: Any) -> tuple[int, dict[str, Any]]:
    return 200, message([{"type": "thinking", "thinking": "hm", "signature": "s"}, *blocks], stop_reason, usage)


def message(content: Any, stop_reason: Any, usage: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 100, **(usage or {})},
    }


def error(status: int, message: str, kind: str = "api_error") -> tuple[int, dict[str, Any]]:
    return status, {"type": "error", "error": {"type": kind, "message": message}}


def tool(name: str, identifier: str = "t1", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": arguments}


def edit(old: str, new: str, identifier: str = "t1") -> dict[str, Any]:
    arguments = {"command": "str_replace", "path": "train.py", "old_str": old, "new_str": new}
    return tool("str_replace_based_edit_tool", identifier, **arguments)


def submit(title: str = "deeper", **more: Any) -> dict[str, Any]:
    return tool("submit", "t9", title=title, hypothesis="depth helps", **more)


def _as_reply(scripted: Scripted) -> Reply:
    if isinstance(scripted, Reply):
        return scripted
    status, body = scripted
    return Reply(status=status, body=json.dumps(body).encode())


def _refuse_what_the_api_refuses(request: Mapping[str, Any]) -> None:
    """Fails on a conversation that the real API would answer with status 400."""
    asked: set[str] = set()
    for turn in request["messages"]:
        content = turn["content"]
        assert content, "a turn must have content"
        assert all(block.get("text", "x").strip() for block in content), "text must not be blank"
        calls = [block for block in content if block["type"] == "tool_use"]
        assert len({call["id"] for call in calls}) == len(calls), "ids must be unique"
        assert all(isinstance(call["input"], dict) and call["name"] for call in calls), "a tool's input is an object"
        if turn["role"] == "user":
            answered = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
            assert set(answered) == asked and len(answered) == len(asked), "each call needs one result"
        asked = {call["id"] for call in calls}
    assert request["messages"][-1]["role"] == "user"
