"""The page on whether scores can be trusted: audit, invalid runs with their evidence, sandbox, controls, machine."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.dashboard.site import Site
from results.overfitting import ALARM_STANDARD_ERRORS
from results.residuals import controls_in_words

MOST_INVALID, MOST_UNEQUAL, MOST_CONTROLS = 50, 20, 20
"""Rows of the lists, the newest ones."""

MOST_CONTROLS_READ = 500
"""Controls of a group that are compared with what was expected of them, the latest ones."""

MOST_RUNS = 10_000
"""Runs whose whole records are looked through, the latest ones."""

SANDBOXES = f"""
SELECT CAST(record -> '$.sandbox' AS VARCHAR[]) AS layers, count(*) AS runs, max(created) AS last
FROM (SELECT * FROM runs ORDER BY seq DESC LIMIT {MOST_RUNS}) WHERE status <> 'lost' GROUP BY 1 ORDER BY runs DESC
"""

INVALID = f"""
SELECT r.id, r.experiment_id, r.reason, r.created, r.consistency_mean, r.consistency_max, e.title, e.researcher
FROM runs r JOIN experiments e ON e.id = r.experiment_id WHERE r.status = 'invalid' ORDER BY r.seq DESC LIMIT {MOST_INVALID}
"""

STATUSES = "SELECT status, count(*) AS runs FROM runs GROUP BY status ORDER BY runs DESC"

MACHINES = f"""
SELECT device, count(*) AS runs, median(CAST(record ->> '$.gpu_tflops' AS DOUBLE)) AS tflops,
       min(CAST(record ->> '$.gpu_tflops' AS DOUBLE)) AS least_tflops,
       median(CAST(record ->> '$.cpu_share' AS DOUBLE)) AS share, min(CAST(record ->> '$.cpu_share' AS DOUBLE)) AS least_share,
       count(DISTINCT record -> '$.software') AS software
FROM (SELECT * FROM runs ORDER BY seq DESC LIMIT {MOST_RUNS}) WHERE status = 'ok' GROUP BY device ORDER BY device
"""

WORKERS = """
SELECT worker, state, reason FROM workers WHERE state IN ('quarantined', 'refused') ORDER BY changed DESC
"""


def integrity_routes(site: Site) -> list[Route]:
    """The page."""

    def page(request: Request) -> Response:
        return site.page(request, "integrity.html", title="Integrity", **integrity_parts(site))

    return [Route("/integrity", page)]


def integrity_parts(site: Site) -> dict[str, Any]:
    """What the page shows."""
    found = site.snapshot().headlines
    controls_of = [one.group.latest(lambda outline: outline.experiment.kind == "control", MOST_CONTROLS_READ) for one in found]
    controls = [record for of_group in controls_of for record in of_group]
    rows = site.reader.rows
    ended = rows(STATUSES)
    return {
        "headlines": found,
        "most_runs": MOST_RUNS if sum(row["runs"] for row in ended) > MOST_RUNS else None,
        "alarm_errors": ALARM_STANDARD_ERRORS,
        "sandboxes": rows(SANDBOXES),
        "statuses": ended,
        "invalid": rows(INVALID),
        "machines": rows(MACHINES),
        "workers": rows(WORKERS),
        "controls": controls[::-1][:MOST_CONTROLS],
        "controls_in_words": [(one, controls_in_words(its)) for one, its in zip(found, controls_of, strict=True)],
        "unequal": [(one, one.group.unequal_shares[::-1][:MOST_UNEQUAL], len(one.group.unequal_shares)) for one in found],
    }
