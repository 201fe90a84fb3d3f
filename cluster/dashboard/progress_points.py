"""The points of the progress chart: experiments with a verdict (of a long history not all) and the heads' expected scores."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.dashboard.headlines import Headline
from cluster.dashboard.reader import MOST_ROWS, Estimates, listed, quoted

MOST_SAMPLED = 8_000
"""Points of all charts of a page beside those that are always drawn; each chart has an equal part of them."""

MOST_HEADS_SHOWN = 1_000
"""Heads of a group whose experiments are always drawn, the latest ones."""

HALF_WIDTH = 1.645
"""Standard deviations on either side that a 90% interval covers."""

FAR = 3.0
"""Scores more than this many times as far from the best as their median are drawn at the upper edge."""


def points_sql(headlines: Sequence[Headline], estimates: Estimates) -> str:
    """The query for the points of the charts, each with what all experiments of its group come to.

    A point is drawn of each keep, head and near-miss, and of one in so many others: a power of two, so that the same ones stay
    when more are recorded.
    """
    groups = ", ".join(f"({quoted(branch.name)}, {quoted(one.name)})" for one in headlines for branch in one.group.branches)
    always = [id for one in headlines for id in (head.experiment_id for head in one.group.heads[-MOST_HEADS_SHOWN:])]
    always += [id for id, row in estimates.of.items() if row["is_near_miss"]]
    return f"""
        WITH groups(branch, name) AS (VALUES {groups}), placed AS (
            SELECT h.id, h.created, h.number, h.decision, h.val_bpb, g.name,
                   row_number() OVER (PARTITION BY g.name ORDER BY h.created, h.number) - 1 AS at
            FROM history h JOIN groups g ON g.branch = h.branch WHERE h.decision IS NOT NULL
        ), totals AS (
            SELECT name, count(*) AS total, min(val_bpb) AS best, median(val_bpb) AS middle, max(val_bpb) AS worst,
                   CAST(pow(2, greatest(0, ceil(log2(count(*) / {max(1, MOST_SAMPLED // len(headlines))})))) AS BIGINT) AS every
            FROM placed GROUP BY name
        ), chosen AS (
            SELECT p.id, p.at, t.*, p.decision = 'keep' OR p.id IN {listed(always)} AS is_always
            FROM placed p JOIN totals t ON t.name = p.name
            WHERE p.decision = 'keep' OR p.at % t.every = 0 OR p.id IN {listed(always)}
            ORDER BY is_always DESC, p.at % t.every = 0 DESC, p.at DESC LIMIT {MOST_ROWS}
        )
        SELECT c.name, c.total, c.best, c.middle, c.worst, c.every, c.at,
               h.id, h.branch, h.title, h.researcher, h.decision, h.val_bpb, h.runs, h.helps, h.sigma
        FROM chosen c JOIN history h ON h.id = c.id ORDER BY c.name, c.at
    """


def progress_json(headlines: Sequence[Headline], rows: Iterable[Mapping[str, Any]], estimates: Estimates) -> str:
    """What the chart shows, for each head: `points` as lists in the order of `columns`, `steps` of its expected score, and the
    score `top` above which points are drawn at the edge. Of `total` experiments one in `every` has a point, and each keep, head
    and near-miss.
    """
    columns = ("at", "val_bpb", "what", "id", "title", "researcher", "branch", "helps", "error")
    points: dict[str, list[list[Any]]] = {headline.name: [] for headline in headlines}
    near = {id for id, row in estimates.of.items() if row["is_near_miss"]}
    of_group: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        of_group[row["name"]] = row
        points[row["name"]].append([row["at"], row["val_bpb"], _what(row, near), row["id"], row["title"], row["researcher"],
                                    row["branch"], row["helps"], _error(row)])  # fmt: skip
    groups = []
    for headline in headlines:
        shown, told = points[headline.name], of_group.get(headline.name, {"total": 0, "every": 1, "best": None})
        steps = _steps(headline, shown, told["total"] - 1)
        heads = [value for _, value in steps]
        top = None if told["best"] is None else top_of(told["best"], told["middle"], told["worst"], heads)
        groups.append({"name": headline.name, "platform": headline.branch.platform, "points": shown, "steps": steps, "top": top,
                       "total": told["total"], "every": told["every"]})  # fmt: skip
    return json.dumps({"columns": columns, "groups": groups})


def top_of(best: float, middle: float, worst: float, heads: Sequence[float]) -> float:
    """The score above which points would stretch the picture, from the lowest score, the median and the highest: above all
    heads'.
    """
    edge = best + max(FAR * (middle - best), 1e-6)
    return max([min(worst, edge), *heads])


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


def _steps(headline: Headline, points: Sequence[Sequence[Any]], last: int) -> list[tuple[int, float]]:
    """The expected scores of the heads, at the places of the experiments that made them."""
    place = {point[3]: point[0] for point in points}
    outlines = headline.group.outlines
    return [(place.get(outlines[at].experiment.id, last), expected) for at, expected in headline.fall.steps] if points else []
