"""What programs ask a dashboard: `/sql` and `/status`, as the running farm's own server answers them, also once it has ended.

They send `Authorization: Bearer <token>` with the token of the printed link.
"""

import json

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cluster.dashboard.site import Site
from cluster.local_api import audience_of
from research.errors import UserError

LONGEST_REQUEST = 2**20
"""Bytes of a request."""

MOST_ROWS = 1_000
"""Rows of an answer, as many as the farm's own server gives."""


def tool_routes(site: Site) -> list[Route]:
    """The two addresses."""

    async def sql(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(answer, site, body)

    def status(request: Request) -> Response:
        running = site.reader.running()
        if running is None:
            return refusal(site.reader.silent() or f"No farm is running on {site.reader.home.folder}.", 503)
        return JSONResponse(json.loads(json.dumps(running, default=str)))

    return [Route("/sql", sql, methods=["POST"]), Route("/status", status)]


def answer(site: Site, body: bytes) -> Response:
    """The result of the query in a request `{"sql": ..., "audience": "agent" or "person"}`; an agent sees no audit scores."""
    try:
        sent = json.loads(body[:LONGEST_REQUEST])
        query, audience = str(sent["sql"]), audience_of(sent)
    except (ValueError, KeyError, TypeError) as error:
        return refusal(f"the request can't be read: {error!r}", 400)
    try:
        table = site.reader.table(query, max_rows=MOST_ROWS, audience=audience)
    except UserError as error:
        return refusal(str(error), 400)
    return Response(table.to_json(), media_type="application/json")


def refusal(text: str, status: int) -> Response:
    """Why there is no answer, as the farm's own server says it."""
    return JSONResponse({"error": text}, status_code=status)
