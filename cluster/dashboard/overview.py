"""The overview: what was gained, what each device does, and the last verdicts, each as a part that is refreshed by itself."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.command_parser import DEFAULT_SEEDS
from cluster.dashboard.devices_now import DUTY_SECONDS, devices_now, loops_now, work_since
from cluster.dashboard.pictures import stairs
from cluster.dashboard.site import Site
from cluster.home import home_option
from research.command_hints import to_type

LAST_VERDICTS = """
SELECT v.experiment_id AS id, v.created, v.decision
FROM (SELECT * FROM verdicts ORDER BY seq DESC LIMIT 8) v ORDER BY v.seq DESC
"""

MOST_HEADLINES = 6
"""Heads that the overview shows, the newest ones."""


def overview_routes(site: Site) -> list[Route]:
    """The page and its parts."""

    def page(request: Request) -> Response:
        parts = headline_parts(site) | device_parts(site) | verdict_parts(site)
        return site.page(request, "overview.html", title="Overview", **parts)

    def headlines(request: Request) -> Response:
        return site.fragment("fragments/headlines.html", **headline_parts(site))

    def devices(request: Request) -> Response:
        return site.fragment("fragments/devices.html", **device_parts(site))

    def last_verdicts(request: Request) -> Response:
        return site.fragment("fragments/last_verdicts.html", **verdict_parts(site))

    def farm_state(request: Request) -> Response:
        return site.fragment("fragments/farm_state.html", **site.farm_state())

    return [
        Route("/", page),
        Route("/fragments/farm_state", farm_state),
        Route("/fragments/headlines", headlines),
        Route("/fragments/devices", devices),
        Route("/fragments/last_verdicts", last_verdicts),
    ]


def headline_parts(site: Site) -> dict[str, Any]:
    """What the headlines show."""
    found = site.snapshot().headlines
    option = home_option(site.reader.home)
    return {
        "headlines": [(one, stairs(one.fall)) for one in found[:MOST_HEADLINES]],
        "more_heads": len(found) - MOST_HEADLINES,
        "seeds": DEFAULT_SEEDS,
        "is_running": site.reader.is_in_use(),
        "confirm": to_type(f"farm confirm{option}"),
        "begin": [to_type(f"farm {name}{option}") for name in ("demo", "run")],
    }


def device_parts(site: Site) -> dict[str, Any]:
    """What the strip of devices shows."""
    running = site.reader.running()
    if running is None:
        return {"running": None, "silent": site.reader.silent(), "devices": [], "loops": [], "groups": {}}
    snapshot = site.snapshot()
    found = devices_now(running, site.reader.rows(work_since(DUTY_SECONDS)), residuals=snapshot.residuals)
    known = snapshot.outlines(device.experiment for device in found)
    devices = [
        (device, known[device.experiment].experiment.title if device.experiment in known else device.title) for device in found
    ]
    groups = {history.branch.name: history.branch.head_branch for history in snapshot.histories}
    return {"running": running, "devices": devices, "loops": loops_now(running), "groups": groups}


def verdict_parts(site: Site) -> dict[str, Any]:
    """What the last verdicts show."""
    records = site.snapshot().records
    rows = [row for row in site.reader.rows(LAST_VERDICTS) if row["id"] in records]
    return {"verdicts": [(row, records[row["id"]]) for row in rows]}
