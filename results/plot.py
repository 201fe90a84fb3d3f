"""progress.png: every experiment of a branch, the keeps by name, and the best so far."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from results.experiment import ExperimentRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN, DARK_GREEN, GREY, INK = "#2ecc71", "#1a7a3a", "#bdbdbd", "#333333"

WIDTH, HEIGHT, DPI = 16.0, 8.0, 110
"""Inches, inches, dots an inch."""

LABEL_ANGLE = 32.0
"""Degrees: labels rise to the right, where a falling curve leaves room."""

LABEL_PITCH = 0.155
"""Inches between the base lines of neighbouring labels."""

RIGHT_ROOM = 1.12
"""Width of the plot in widths of its data."""

LABEL_LENGTH, MAX_LABELS = 46, 60


@dataclass(frozen=True, kw_only=True)
class Point:
    """An experiment that has a score."""

    number: int
    val_bpb: float
    title: str


def write_progress_png(path: Path, records: Sequence[ExperimentRecord], title: str) -> None:
    """Replaces `path` at once by the picture. `title` goes before the counts of experiments and keeps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    decided = [r for r in records if r.verdict is not None and r.verdict.decision != "lost"]
    keeps, discards = _points(decided, "keep"), _points(decided, "discard")
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, f"{title}: {_count(len(decided), 'experiment')}, {_count(len(keeps), 'keep')}")
    if keeps:
        _set_limits(axes, keeps, discards, last=max(r.experiment.number for r in decided))
        _draw_points(axes, keeps, discards)
        figure.draw_without_rendering()  # settles the layout that labels are placed in
        _draw_labels(axes, keeps)
    else:
        axes.text(0.5, 0.5, "no keep yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=16)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def running_best(keeps: Sequence[Point]) -> list[float]:
    """The lowest score up to each keep."""
    best, lowest = [], math.inf
    for point in keeps:
        lowest = min(lowest, point.val_bpb)
        best.append(lowest)
    return best


def _points(records: Sequence[ExperimentRecord], decision: str) -> list[Point]:
    return [
        Point(number=r.experiment.number, val_bpb=r.val_bpb, title=" ".join(r.experiment.title.split()))
        for r in records
        if r.verdict is not None and r.verdict.decision == decision and r.val_bpb is not None
    ]


def _style(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=15, color=INK, pad=14)
    axes.set_xlabel("experiment", fontsize=12, color=INK)
    axes.set_ylabel("validation bits per byte (lower is better)", fontsize=12, color=INK)
    axes.grid(alpha=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.ticklabel_format(axis="y", useOffset=False)


def score_range(keeps: Sequence[Point], discards: Sequence[Point]) -> tuple[float, float]:
    """The scores that fill the picture: of the keeps, or where nothing beats the first one, of it and the better half of the
    rest.
    """
    scores, others = [point.val_bpb for point in keeps], sorted(point.val_bpb for point in discards)
    if min(scores) == scores[0]:
        scores += others[: math.ceil(len(others) / 2)]
    return min(scores + others[:1]), max(scores)


def _set_limits(axes: "Axes", keeps: Sequence[Point], discards: Sequence[Point], *, last: int) -> None:
    """What room there is above, and on the right, is for the labels."""
    from matplotlib.ticker import MaxNLocator

    lowest, highest = score_range(keeps, discards)
    span = highest - lowest or 0.001 * abs(highest) or 0.001
    axes.set_ylim(lowest - 0.08 * span, highest + 0.22 * span)
    axes.set_xlim(-0.02 * max(last, 1), RIGHT_ROOM * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_points(axes: "Axes", keeps: Sequence[Point], discards: Sequence[Point]) -> None:
    top = axes.get_ylim()[1]
    seen = [point for point in discards if point.val_bpb <= top]
    above = [point for point in discards if point.val_bpb > top]
    axes.scatter([p.number for p in seen], [p.val_bpb for p in seen], s=16, color=GREY, alpha=0.65, label="discarded")
    if above:
        label = f"discarded, further up ({len(above)})"
        axes.scatter([p.number for p in above], [top] * len(above), s=22, marker="^", color=GREY, label=label, clip_on=False)
    x, y = [p.number for p in keeps], [p.val_bpb for p in keeps]
    end = axes.get_xlim()[1] / RIGHT_ROOM
    best = running_best(keeps)
    axes.step([*x, end], [*best, best[-1]], where="post", color=GREEN, linewidth=2, alpha=0.75, label="best so far")
    axes.scatter(x, y, s=52, color=GREEN, edgecolors="white", linewidths=0.8, zorder=4, label="kept")
    axes.legend(loc="upper right", frameon=False, fontsize=10, labelcolor=INK)


def _draw_labels(axes: "Axes", keeps: Sequence[Point]) -> None:
    """A label for each keep, rising from its point; one that would cover its neighbour moves right, on a leader."""
    from matplotlib.patheffects import withStroke

    angle = math.radians(LABEL_ANGLE)
    inches = axes.transData.transform([(point.number, point.val_bpb) for point in keeps]) / DPI
    wanted = _most_telling(keeps)
    next_free = -math.inf
    for index, (point, (x, y)) in enumerate(zip(keeps, inches, strict=True)):
        if index not in wanted:
            continue
        across = x * math.sin(angle) - y * math.cos(angle)  # distance from a label's line, to the lower right
        shift = max(0.0, next_free - across) / math.sin(angle)
        next_free = max(across, next_free) + LABEL_PITCH
        axes.annotate(
            _shortened(point.title),
            (point.number, point.val_bpb),
            xytext=((0.07 + shift) * 72, 0.06 * 72),
            textcoords="offset points",
            rotation=LABEL_ANGLE,
            rotation_mode="anchor",
            fontsize=9,
            color=DARK_GREEN,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": DARK_GREEN, "alpha": 0.35, "linewidth": 0.7} if shift else None,
        )


def _most_telling(keeps: Sequence[Point]) -> set[int]:
    """Indices of the keeps to label: all, or those that gained most where there are too many."""
    best = running_best(keeps)
    gains = [math.inf, *(before - after for before, after in pairwise(best))]
    return set(sorted(range(len(keeps)), key=lambda i: -gains[i])[:MAX_LABELS])


def _shortened(title: str) -> str:
    title = title.replace("$", r"\$")  # no mathematics
    return title if len(title) <= LABEL_LENGTH else title[: LABEL_LENGTH - 1].rstrip() + "…"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
