"""Who may ask the dashboard: this machine's browser that came by the printed link. The same headers go with every answer."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cluster.proxies import LOOPBACK

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

TOKEN = "token"
"""The parameter of the printed link that holds the token."""

FIXED = "/static/"
"""Where files are that a browser may keep, and asks whether they are still the same."""

READS = (("POST", "/sql"),)
"""Requests of programs that send the token themselves, as no page can, and that change nothing whatever their method is."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, a form's Origin would be null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer."""

REFUSED = {
    401: "This page needs the link that `farm dashboard` printed: open that one.",
    403: "Another site's page may not ask this one.",
    405: "This dashboard only reads: start it with `farm dashboard --control` to change anything.",
    421: "This server answers to 127.0.0.1 and localhost only.",
}
"""What is said of a request that is refused, by its status."""


class Guard:
    """An ASGI application in front of another one, to which it passes what may be answered."""

    def __init__(self, application: Application, *, token: str, cookie: str, allows_changes: bool) -> None:
        """`cookie` names the cookie that holds the token after the first visit."""
        self._application, self._token, self._cookie = application, token.encode(), cookie
        self._methods = ("GET", "HEAD", "POST") if allows_changes else ("GET", "HEAD")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._application(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        is_tool = self._is_token(headers.get("authorization", "").removeprefix("Bearer ")) and "origin" not in headers
        reads = is_tool and (scope["method"], scope["path"]) in READS
        status = self._refusal("GET" if reads else scope["method"], headers)
        if status is not None:
            return await _answer(send, status, REFUSED[status])
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == TOKEN), None)
        if given is not None and self._is_token(given):
            kept = urlencode([(name, value) for name, value in query if name != TOKEN])
            return await self._admit(scope, f"{scope['path']}{'?' + kept if kept else ''}", send)
        if not (is_tool or self._is_token(_cookie(headers.get("cookie", ""), self._cookie))):
            return await _answer(send, 401, REFUSED[401])
        is_fixed = scope["path"].startswith(FIXED)
        await self._application(scope, receive, _with_headers(send, "no-cache" if is_fixed else "no-store"))

    def _refusal(self, method: str, headers: dict[str, str]) -> int | None:
        """The status with which a request is refused, whoever sends it; None if it may be answered."""
        host = headers.get("host", "")
        if _name_of(host) not in LOOPBACK:  # a foreign page may have its own name resolved to this machine
            return 421
        origin = headers.get("origin")
        if origin not in (None, f"http://{host}") or (origin is None and method not in ("GET", "HEAD")):
            return 403 if method in self._methods or origin is not None else 405
        return None if method in self._methods else 405

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    async def _admit(self, scope: Message, target: str, send: Send) -> None:
        """Sends the browser to the page without the token in its address, which the cookie holds from then on."""
        cookie = f"{self._cookie}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
        location = "/" + target.lstrip("/\\")  # never another host
        await _answer(send, 303, "", {"location": quote(location, safe="/?&=%+~:,;@!$'()*"), "set-cookie": cookie})


def _name_of(host: str) -> str:
    """The name in a Host header, without its port; empty if it can't be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _with_headers(send: Send, caching: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", ())}
            added = {**HEADERS, "cache-control": caching}
            more = [(name.encode(), value.encode()) for name, value in added.items() if name.encode() not in present]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str, more: dict[str, str] | None = None) -> None:
    headers = {"content-type": "text/plain; charset=utf-8", **HEADERS, "cache-control": "no-store", **(more or {})}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
