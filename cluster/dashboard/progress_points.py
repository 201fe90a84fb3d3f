"""The points of the progress chart: every experiment with a verdict, and the expected score of the heads."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from cluster.dashboard.headlines import Headline
from cluster.dashboard.reader import Estimates

POINTS = (
    "SELECT id, branch, number, kind, title, researcher, decision, val_bpb, runs, effect, helps, sigma FROM history "
    "WHERE decision IS NOT NULL ORDER BY created, number"
)

HALF_WIDTH = 1.645
"""Standard deviations on either side that a 90% interval covers."""

FAR = 3.0
"""Scores more than this many times as far from the best as their median are drawn at the upper edge."""


def progress_json(headlines: Sequence[Headline], rows: Iterable[Mapping[str, Any]], estimates: Estimates) -> str:
    """What the chart shows, for each head: `points` as lists in the order of `columns`, `steps` of its expected score, and the
    score `top` above which points are drawn at the edge.
    """
    columns = ("at", "val_bpb", "what", "id", "title", "researcher", "branch", "helps", "error")
    of_branch = {branch.name: headline.name for headline in headlines for branch in headline.group.branches}
    points: dict[str, list[list[Any]]] = {headline.name: [] for headline in headlines}
    near = {id for id, row in estimates.of.items() if row["is_near_miss"]}
    for row in rows:
        group = points.get(of_branch.get(str(row["branch"]), ""))
        if group is not None:
            group.append([len(group), row["val_bpb"], _what(row, near), row["id"], row["title"], row["researcher"],
                          row["branch"], row["helps"], _error(row)])  # fmt: skip
    groups = [
        {
            "name": headline.name,
            "platform": headline.branch.platform,
            "points": points[headline.name],
            "steps": (steps := _steps(headline, points[headline.name])),
            "top": top_of([point[1] for point in points[headline.name] if point[1] is not None], [value for _, value in steps]),
        }
        for headline in headlines
    ]
    return json.dumps({"columns": columns, "groups": groups})


def top_of(scores: Sequence[float], heads: Sequence[float]) -> float | None:
    """The score above which points would stretch the picture: above all heads'; None without a score."""
    if not scores:
        return None
    best, middle = min(scores), median(scores)
    edge = best + max(FAR * (middle - best), 1e-6)
    return max([min(max(scores), edge), *heads])


def _what(row: Mapping[str, Any], near: set[str]) -> str:
    """How a point is drawn: as kept, discarded, near-miss, crash, invalid or measured."""
    decision = str(row["decision"])
    if decision == "discard" and row["id"] in near:
        return "near-miss"
    return {"keep": "kept", "discard": "discarded"}.get(decision, decision)


def _error(row: Mapping[str, Any]) -> float | None:
    """Half the width of the 90% interval of a score for the seeds that it ran under."""
    if row["sigma"] is None or not row["runs"]:
        return None
    return HALF_WIDTH * float(row["sigma"]) / math.sqrt(row["runs"])


def _steps(headline: Headline, points: Sequence[Sequence[Any]]) -> list[tuple[int, float]]:
    """The expected scores of the heads, at the places of the experiments that made them."""
    place = {point[3]: point[0] for point in points}
    records = headline.group.records
    last = len(points) - 1
    return [(place.get(records[at].experiment.id, last), expected) for at, expected in headline.fall.steps] if points else []
