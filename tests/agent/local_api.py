"""A Messages API on this machine that replays scripted answers to the real SDK, and records its requests."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "claude-opus-5-5"


@dataclass
class LocalApi:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def local_api(answers: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[LocalApi]:
    """Serves the answers (status, body) in order. Any further request gets a 500 that is not retried."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            api.requests.append({**request, "path": self.path, "key": self.headers["authorization"]})
            status, body = left.pop(0) if left else error(500, "the script has ended")
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.send_header("retry-after-ms", "10")
            if not left:
                self.send_header("x-should-retry", "false")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api = LocalApi(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(*blocks: dict[str, Any], stop_reason: str = "tool_use", **usage: Any) -> tuple[int, dict[str, Any]]:
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, *blocks],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 100, **usage},
    }
    return 200, body


def error(status: int, message: str, kind: str = "api_error") -> tuple[int, dict[str, Any]]:
    return status, {"type": "error", "error": {"type": kind, "message": message}}


def tool(name: str, identifier: str = "t1", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": arguments}


def edit(old: str, new: str, identifier: str = "t1") -> dict[str, Any]:
    arguments = {"command": "str_replace", "path": "train.py", "old_str": old, "new_str": new}
    return tool("str_replace_based_edit_tool", identifier, **arguments)


def submit(title: str = "deeper", **more: Any) -> dict[str, Any]:
    return tool("submit", "t9", title=title, hypothesis="depth helps", **more)
