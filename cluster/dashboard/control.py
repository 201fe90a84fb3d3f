"""What a dashboard with `--control` may do, as the commands do: pause, resume or stop a loop, suggest an idea, and confirm an
experiment.
"""

from collections.abc import Mapping
from typing import Literal, cast, get_args
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.commands.steer import ask
from cluster.dashboard.confirming import start_confirmation
from cluster.dashboard.site import Site
from cluster.person_requests import Ask
from research.errors import UserError

What = Literal["pause", "resume", "stop loop", "suggest"]

CONFIRM = "confirm"
"""The request that goes to no loop: a process of its own does it."""

LONGEST_FORM = 2**16
"""Bytes of a form."""


def control_routes(site: Site) -> list[Route]:
    """The one address that changes something; none if the dashboard only reads."""

    async def control(request: Request) -> Response:
        form = dict(parse_qsl((await request.body())[:LONGEST_FORM].decode("utf-8", "replace")))
        said, problem = await run_in_threadpool(tell, site, form)
        status = 400 if problem else 200
        return await run_in_threadpool(
            lambda: site.page(request, "told.html", status_code=status, title="Told", said=said, problem=problem)
        )

    return [Route("/control", control, methods=["POST"])] if site.allows_changes else []


def tell(site: Site, form: Mapping[str, str]) -> tuple[str, str]:
    """Records what a form asks for. Returns what follows, or what is wrong, in one line."""
    what, group = form.get("what", ""), form.get("group", "")
    if what == CONFIRM:
        return confirm(site, form.get("experiment", ""))
    if what not in get_args(What):
        return "", f"A dashboard can {', '.join((*get_args(What), CONFIRM))}: it can't do {what or 'nothing'!r}."
    asked = Ask(what=cast(What, what), group=group, branch=form.get("branch", ""), text=form.get("text", ""))
    try:
        answer, is_running = ask(site.reader.home, asked)
    except UserError as error:
        return "", str(error)
    follows = answer.note or ("" if is_running else "no farm is running now")
    return f"{answer.recorded}{f' ({follows})' if follows else ''}.", ""


def confirm(site: Site, experiment: str) -> tuple[str, str]:
    """Starts the confirmation of an experiment. Returns what follows, or what is wrong, in one line."""
    if experiment not in site.snapshot().records:
        return "", "This home has no experiment of that name."
    try:
        return f"{start_confirmation(site.reader.home, experiment)}.", ""
    except UserError as error:
        return "", str(error)
