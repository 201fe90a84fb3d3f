"""The stand-in's HTTP server, on the loopback interface alone."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agent.researchers.stand_in.bodies import Reply, as_reply, error_body, problem_with

ADDRESS = "127.0.0.1"
MAX_REQUEST_BYTES = 32_000_000
"""The API's own limit."""

MESSAGES, TOKENS = "/v1/messages", "/v1/messages/count_tokens"
"""What can be asked for."""

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that the real API would answer."""

    body: Mapping[str, Any]
    path: str
    key: str


def nothing_there(path: str) -> Reply:
    """The answer to a GET."""
    return as_reply(404, error_body(404, f"there is nothing at {path}"))


class StandIn:
    """A server that asks `answer` for each response; what the real API would refuse gets status 400."""

    def __init__(self, answer: Callable[[Request], Reply], *, port: int = 0, on_get: Callable[[str], Reply] = nothing_there,
                 log: Callable[[str], object] = lambda line: None) -> None:  # fmt: skip
        """With port 0 a free one is taken. `log` gets a line for each response. Raises OSError if the port is in use."""
        self.answer, self.on_get, self.log = answer, on_get, log
        self.refused: str | None = None
        """Why the last request that got status 400 was refused; None if none was."""
        stand_in = self

        class Handler(_Handler):
            server_of = stand_in

        self.server = ThreadingHTTPServer((ADDRESS, port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{ADDRESS}:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator["StandIn"]:
        """Serves in a thread, until the end of the block."""
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()

    def reply_to(self, path: str, key: str | None, body: bytes) -> Reply:
        """The response to a POST."""
        place = path.partition("?")[0]
        if place not in (MESSAGES, TOKENS):
            return nothing_there(place)
        if not key:
            return as_reply(401, error_body(401, "x-api-key or authorization is missing; any value will do"))
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None
        if place == TOKENS:
            return as_reply(200, {"input_tokens": len(body) // CHARACTERS_PER_TOKEN})
        problem = problem_with(request)
        if problem is not None:
            self.refused = problem
            return as_reply(400, error_body(400, problem))
        return self.answer(Request(body=request, path=path, key=key))


class _Handler(BaseHTTPRequestHandler):
    server_of: StandIn

    def do_POST(self) -> None:
        length = self.headers.get("content-length") or ""
        if not length.isdigit() or int(length) > MAX_REQUEST_BYTES:
            self._send(as_reply(413, error_body(413, "content-length is missing or too large")))
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the client has gone, and asked for nothing
            return
        key = self.headers.get("authorization") or self.headers.get("x-api-key")
        self._send(self.server_of.reply_to(self.path, key, body))

    def do_GET(self) -> None:
        self._send(self.server_of.on_get(self.path))

    def _send(self, reply: Reply) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(reply.status)
            self.send_header("content-type", reply.content_type)
            self.send_header("content-length", str(len(reply.body) + reply.missing_bytes))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            time.sleep(reply.delay_s)
            middle = len(reply.body) // 2 if reply.stall_s else 0
            self.wfile.write(reply.body[:middle])
            time.sleep(reply.stall_s)
            self.wfile.write(reply.body[middle:])
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        self.server_of.log(f"{self.command} {self.path.partition('?')[0]}: {reply.status}, {len(reply.body)} bytes")

    def log_message(self, format: str, *args: Any) -> None:
        pass
