"""The dashboard as one ASGI application."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cluster.dashboard.changes import Changes
from cluster.dashboard.console import console_routes
from cluster.dashboard.control import control_routes
from cluster.dashboard.experiments import experiment_routes
from cluster.dashboard.guard import Guard
from cluster.dashboard.insights import insight_routes
from cluster.dashboard.integrity import integrity_routes
from cluster.dashboard.overview import overview_routes
from cluster.dashboard.reader import HomeReader
from cluster.dashboard.site import FOLDER, Site, make_environment
from cluster.dashboard.tools import tool_routes
from cluster.home import Home
from research.errors import UserError

PING_SECONDS = 15
"""How often a page that listens hears that the dashboard is still there."""


def make_application(reader: HomeReader, *, token: str, allows_changes: bool = False) -> Guard:
    """The application, behind the guard that lets in who has the token. It closes the reader at its end."""
    site = Site(reader=reader, environment=make_environment(), allows_changes=allows_changes)
    changes = Changes(reader)

    def events(request: Request) -> Response:
        return EventSourceResponse(changes.events(), ping=PING_SECONDS)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(changes.watch())
        try:
            yield
        finally:
            watching.cancel()
            reader.close()

    routes = [
        *overview_routes(site),
        *experiment_routes(site),
        *insight_routes(site),
        *console_routes(site),
        *integrity_routes(site),
        *control_routes(site),
        *tool_routes(site),
        Route("/events", events),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]

    def not_found(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        detail = error.detail if isinstance(error, HTTPException) else str(error)
        return site.page(request, "problem.html", status_code=status, title="Not found", problem=detail)

    def refused(request: Request, error: Exception) -> Response:
        return site.page(request, "problem.html", status_code=503, title="Not now", problem=str(error))

    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: not_found, UserError: refused})
    return Guard(application, token=token, cookie=cookie_of(reader.home), allows_changes=allows_changes)


def cookie_of(home: Home) -> str:
    """The name of the cookie: another one for each home, since a browser sends a host's cookies to all of its ports."""
    return f"farm_{hashlib.sha256(str(home.folder).encode()).hexdigest()[:12]}"
