"""`farm mcp --http`: streamable HTTP on loopback, with a bearer token that only this user can read."""

import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from mcp.server import MCPServer

from cluster.home import Home
from research.errors import UserError
from research.files import not_writable, write_atomically

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = "127.0.0.1"


def token_file(home: Home) -> Path:
    """The file with the token, which stays the same: an agent's settings name it."""
    return home.folder / "mcp.json"


def token_of(home: Home) -> str:
    """The home's token for outside agents, made if there is none. Raises UserError if it can't be written."""
    path = token_file(home)
    try:
        if path.stat().st_mode & 0o077 == 0 and len(known := str(json.loads(path.read_text())["token"])) >= 32:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    token = secrets.token_urlsafe(32)
    try:
        write_atomically(path, json.dumps({"token": token}), private=True)
    except OSError as error:
        raise not_writable("home", home.folder, error, option="--home") from None
    return token


def with_token(application: Application, token: str) -> Application:
    """An ASGI application that answers nothing to who doesn't send the token."""
    expected = f"Bearer {token}".encode()

    async def guarded(scope: Message, receive: Receive, send: Send) -> None:
        sent = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or (scope["type"] == "http" and hmac.compare_digest(sent, expected)):
            return await application(scope, receive, send)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": b'{"error": "wrong token"}'})
        else:
            await send({"type": "websocket.close"})

    return guarded


def application_of(server: MCPServer, home: Home) -> Application:
    """The server as an ASGI application that wants the home's token. Raises UserError if that can't be written."""
    return with_token(server.streamable_http_app(host=LOOPBACK), token_of(home))


def serve(server: MCPServer, home: Home, port: int) -> None:
    """Answers over HTTP on loopback until Ctrl-C. Raises UserError if the port is taken."""
    import socket

    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(f"Port {port} can't be used ({error.strerror}): give another one as --http.") from None
        application = application_of(server, home)
        address = f"http://{LOOPBACK}:{listening.getsockname()[1]}/mcp"
        print(f"{address} answers who sends the token in {token_file(home)} (Authorization: Bearer TOKEN); Ctrl-C ends it",
              flush=True)  # fmt: skip
        config = uvicorn.Config(application, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
