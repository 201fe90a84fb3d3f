"""The stand-in for the Messages API with scripted answers of any kind, for tests with the real SDK; it records requests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.researchers.stand_in.bodies import MODEL, Reply, as_reply, error_body, message
from agent.researchers.stand_in.server import Request, StandIn

__all__ = ["MODEL", "LocalApi", "Reply", "Scripted", "answer", "edit", "error", "local_api", "message", "submit", "tool"]

Scripted = tuple[int, dict[str, Any]] | Reply


@dataclass
class LocalApi:
    """What is left to answer, and what was asked."""

    url: str = ""
    left: list[Scripted] = field(default_factory=list)
    repeat_last: bool = False
    streams: bool = True
    """Whether answers come as events where the request asks for that; some gateways send them in one piece."""
    requests: list[dict[str, Any]] = field(default_factory=list)

    def play(self, answers: Sequence[Scripted], *, repeat_last: bool = False) -> None:
        """Forgets the requests so far, and serves these answers in order; with `repeat_last` the last one for ever."""
        self.left, self.repeat_last, self.requests = list(answers), repeat_last, []

    def answer(self, request: Request) -> Reply:
        self.requests.append({**request.body, "path": request.path, "key": request.key})
        if not self.left:
            return _as_reply(error(500, "the script has ended"), stream=False)
        scripted = self.left[0] if self.repeat_last and len(self.left) == 1 else self.left.pop(0)
        return _as_reply(scripted, stream=self.streams and bool(request.body.get("stream")))


@contextmanager
def local_api(answers: Sequence[Scripted] = ()) -> Iterator[LocalApi]:
    """Serves the answers in order. Any further request gets a 500; none may be one that the real API refuses."""
    api = LocalApi()
    api.play(answers)
    with StandIn(api.answer, on_get=_page).running() as stand_in:
        api.url = stand_in.url
        yield api
    assert stand_in.refused is None, stand_in.refused


def _page(path: str) -> Reply:
    """A page to log in, and an address that leads to itself."""
    if path == "/again":
        return Reply(status=302, headers={"location": "/again"})
    return Reply(body=b"<html>log in</html>", content_type="text/html")


def answer(*blocks: dict[str, Any], stop_reason: str = "tool_use", **usage: Any) -> tuple[int, dict[str, Any]]:
    return 200, message([{"type": "thinking", "thinking": "hm", "signature": "s"}, *blocks], stop_reason, usage)


def error(status: int, message: str, kind: str = "api_error") -> tuple[int, dict[str, Any]]:
    return status, error_body(status, message, kind)


def tool(name: str, identifier: str = "t1", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": arguments}


def edit(old: str, new: str, identifier: str = "t1") -> dict[str, Any]:
    arguments = {"command": "str_replace", "path": "train.py", "old_str": old, "new_str": new}
    return tool("str_replace_based_edit_tool", identifier, **arguments)


def submit(title: str = "deeper", **more: Any) -> dict[str, Any]:
    return tool("submit", "t9", title=title, hypothesis="depth helps", **more)


def _as_reply(scripted: Scripted, *, stream: bool) -> Reply:
    return scripted if isinstance(scripted, Reply) else as_reply(*scripted, stream=stream)
