"""Small pictures that are drawn on the server, as coordinates for SVG: they need no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.dashboard.headlines import Fall
from results.experiment import ExperimentRecord

WIDTH, HEIGHT = 640.0, 150.0
"""The size of a picture's area in its own units."""

LEAST_CURVE = 2
"""Points of a curve that can be drawn."""

SKIPPED = 0.1
"""Share of a training curve that doesn't count for the upper edge: losses fall from far above."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a picture."""

    name: str
    points: str
    """As SVG's `points`."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Lines in an area of WIDTH by HEIGHT, with the values at its edges."""

    lines: tuple[Line, ...]
    left: float
    right: float
    bottom: float
    top: float
    area: str = ""
    """As SVG's `points`: the area under the first line; empty for none."""
    marks: tuple[tuple[float, float], ...] = ()
    """Places that are marked on the first line."""


def stairs(fall: Fall) -> Picture | None:
    """How the expected score of a group's heads fell; None before there is a head beside the baseline."""
    steps = fall.steps
    if len({value for _, value in steps}) < 2 or fall.experiments < 2:
        return None
    values = [value for _, value in steps]
    low, high, last = min(values), max(values), float(fall.experiments - 1)

    def place(at: float, value: float) -> tuple[float, float]:
        return (WIDTH * at / last, HEIGHT * (high - value) / (high - low))

    corners = [place(*steps[0])]
    for (_, before), (at, after) in pairwise(steps):
        corners += [place(at, before), place(at, after)]
    corners.append(place(last, steps[-1][1]))
    ends = f"{corners[-1][0]:.1f},{HEIGHT} {corners[0][0]:.1f},{HEIGHT}"
    return Picture(
        lines=(Line(name="expected", points=_points(corners)),),
        left=0,
        right=last,
        bottom=low,
        top=high,
        area=f"{_points(corners)} {ends}",
        marks=tuple(place(at, value) for at, value in steps[1:-1]),
    )


def curves(named: Sequence[tuple[str, ExperimentRecord]]) -> Picture | None:
    """The training losses that runs report, over seconds: of each experiment its last run with a curve. None without any."""
    found = [(name, curve) for name, record in named if (curve := _curve(record))]
    if not found:
        return None
    late = [loss for _, curve in found for seconds, loss in curve if seconds >= SKIPPED * curve[-1][0]]
    low, high = min(late), max(late)
    longest = max(curve[-1][0] for _, curve in found)
    if high <= low or longest <= 0:
        return None
    lines = tuple(
        Line(name=name, points=_points([
            (WIDTH * seconds / longest, max(0.0, HEIGHT * (high - loss) / (high - low))) for seconds, loss in curve
        ]))
        for name, curve in found
    )  # fmt: skip
    return Picture(lines=lines, left=0, right=longest, bottom=low, top=high)


def _curve(record: ExperimentRecord) -> list[tuple[float, float]]:
    for run in reversed(record.runs):
        curve = [(seconds, loss) for seconds, _, loss in run.reported_curve if loss == loss and abs(loss) != float("inf")]
        if len(curve) >= LEAST_CURVE:
            return curve
    return []


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
