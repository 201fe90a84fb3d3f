"""progress.png: every experiment of a branch, the keeps with their titles, and the head over time."""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from research.files import move_aside, replacing
from research.formatting import counted, one_line, shortened
from results.counts import count
from results.experiment import Decision, ExperimentRecord
from results.verdict import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREEN, DARK_GREEN, GREY, INK = "#2ecc71", "#1a7a3a", "#bdbdbd", "#333333"
RED, PURPLE = "#d98880", "#a685c0"

WIDTH, HEIGHT, DPI = 16.0, 8.0, 110
"""The picture's size in inches, and its dots per inch."""

LABEL_ANGLE = 32.0
"""Slope of the labels in degrees. They rise to the right, where a falling curve leaves room."""

LABEL_PITCH = 0.155
"""Inches between the baselines of neighbouring labels."""

RIGHT_ROOM = 1.12
"""Width of the plot relative to its data, which leaves room for the last labels."""

BELOW, ABOVE, TOP = 0.1, 0.18, 0.24
"""Margins as shares of the range of scores: below the lowest; above the highest, up to where discards are drawn at their score;
and up to the top edge, where all other experiments are marked."""

FAR = 3.0
"""Discards more than this many times as far from the lowest score as their median don't stretch the picture."""

FAILED = 1.5
"""Discards above this multiple of the first keep's score don't stretch it either: their training failed."""

LABEL_LENGTH, MAX_LABELS = 46, 60
"""Maximum characters per label, and maximum labels per picture."""

DRAWN_BY = "the autoresearch farm"
"""The PNG's field `Software`, and the generator of an HTML report: it tells the farm's files from a person's."""

MARKED_BYTES = 1024
"""Bytes at the beginning of such a file that hold it."""


EXPECTED, LAST_KEPT = "head: the val_bpb that is expected of it", "head: the last one kept"
"""What the line shows, with and without recorded heads."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An experiment that has a score, or a head at the number that its branch had reached."""

    number: int
    val_bpb: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture shows, as plain data, so that another process can draw it."""

    title: str
    keeps: tuple[Point, ...]
    discards: tuple[Point, ...]
    crashed: tuple[int, ...]
    invalid: tuple[int, ...]
    last: int
    """Number of the last experiment with a verdict."""
    heads: tuple[Point, ...]
    runs: int = 0
    """Runs that the judge has scored."""
    sigma: float | None = None
    """Standard deviation of val_bpb between seeds, as estimated; None before it is."""

    @property
    def scale(self) -> str:
        """How many runs there are and how much chance moves a score, in words."""
        noise = "" if self.sigma is None else f"; sigma {figure(self.sigma)}: what the seed alone moves a score by"
        return f"{counted(self.runs, 'scored run')}{noise}"


def picture_of(records: Sequence[ExperimentRecord], title: str, heads: Sequence[Point] = ()) -> Picture:
    """The picture of a branch's experiments. `title` stands before the counts of experiments and keeps.

    `heads` are those that the branch's group has had after its baseline: where on this branch each became the head, and what
    was expected of it. Without any, the line follows the keeps.
    """
    ideas = [record for record in records if record.is_done]
    return Picture(
        title=f"{title}: {counted(len(ideas), 'experiment')}, {count(records).keeps}",
        keeps=tuple(_points(records, "keep")),
        discards=tuple(_points(ideas, "discard")),
        crashed=tuple(_numbers(ideas, "crash")),
        invalid=tuple(_numbers(ideas, "invalid")),
        last=max((record.experiment.number for record in records if record.verdict is not None), default=0),
        heads=tuple(heads),
        runs=sum(run.status == "ok" for record in records for run in record.runs),
        sigma=next(
            (v.sigma for record in reversed(records) if (v := record.verdict) is not None and v.sigma is not None), None
        ),
    )


def write_progress_png(path: Path, picture: Picture) -> Path | None:
    """Writes the picture atomically.

    A file that isn't the farm's is moved to `progress.png.1`, or the next free number, and that path is returned.
    """
    with silent_matplotlib():
        return save_png(path, progress_figure(picture))


def save_png(path: Path, figure: "Figure") -> Path | None:
    """Writes a figure as a picture of the farm's, atomically. Returns where a file of a person's is now that was there."""
    aside = None if is_free(path) else move_aside(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": DRAWN_BY})
    return aside


def is_free(path: Path) -> bool:
    """Whether nothing of a person's is lost if the path is written: it is missing, empty, or a file of the farm's own."""
    try:
        with path.open("rb") as file:
            beginning = file.read(MARKED_BYTES)
    except FileNotFoundError:
        return not path.is_symlink()
    except IsADirectoryError:
        return False
    return not beginning or DRAWN_BY.encode() in beginning


@contextmanager
def silent_matplotlib() -> Iterator[None]:
    """Keeps off the terminal what matplotlib says of a home that it can't write and of letters that its fonts lack."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def progress_figure(picture: Picture) -> "Figure":
    """The picture as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    keeps, discards, heads, last = picture.keeps, picture.discards, picture.heads, picture.last
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, picture)
    if keeps:
        line = [keeps[0], *heads] if heads else keeps
        _set_limits(axes, [*keeps, *heads], discards, last=last)
        _draw_keeps(axes, keeps)
        _draw_heads(axes, line, last=last, label=EXPECTED if heads else LAST_KEPT)
        _draw_discards(axes, keeps, discards)
        mark_at_the_top(axes, picture.crashed, marker="x", color=RED, label="crashed")
        mark_at_the_top(axes, picture.invalid, marker="D", color=PURPLE, label="invalid")
        figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=10, labelcolor=INK)
        figure.draw_without_rendering()  # settles the layout that labels are placed in
        _draw_labels(axes, keeps)
    else:
        axes.text(0.5, 0.5, "no keep yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=16)
    return figure


def _numbers(records: Sequence[ExperimentRecord], decision: Decision) -> list[int]:
    return [r.experiment.number for r in records if r.verdict is not None and r.verdict.decision == decision]


def _points(records: Sequence[ExperimentRecord], decision: Decision) -> list[Point]:
    return [
        Point(number=r.experiment.number, val_bpb=r.val_bpb, title=one_line(r.experiment.title))
        for r in records
        if r.verdict is not None and r.verdict.decision == decision and r.val_bpb is not None
    ]


def _style(axes: "Axes", picture: Picture) -> None:
    axes.set_title(plain_text(picture.title), fontsize=15, color=INK, pad=30)
    axes.text(
        0.5, 1.02, picture.scale, transform=axes.transAxes, ha="center", va="bottom", fontsize=10.5, color=INK, alpha=0.75
    )
    axes.set_xlabel("experiment", fontsize=12, color=INK)
    axes.set_ylabel("validation bits per byte (lower is better)", fontsize=12, color=INK)
    axes.grid(alpha=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.ticklabel_format(axis="y", useOffset=False)


def score_range(keeps: Sequence[Point], discards: Sequence[Point]) -> tuple[float, float]:
    """Lowest and highest score that the picture shows.

    The highest is a keep's or, if no keep beats the first one, a discard's that is not FAR off.
    """
    scores, others = [point.val_bpb for point in keeps], [point.val_bpb for point in discards]
    lowest, highest = min(scores + others), max(scores)
    if others and min(scores) == scores[0]:
        reach = min(lowest + FAR * (median(others) - lowest), FAILED * scores[0])
        highest = max(score for score in scores + others if score <= max(reach, highest))
    return lowest, highest


def _set_limits(axes: "Axes", keeps: Sequence[Point], discards: Sequence[Point], *, last: int) -> None:
    """Sets both axes' limits, with room for labels above and on the right."""
    from matplotlib.ticker import MaxNLocator

    lowest, highest = score_range(keeps, discards)
    span = highest - lowest or 0.001 * abs(highest) or 0.001
    axes.set_ylim(lowest - BELOW * span, highest + TOP * span)
    axes.set_xlim(-0.03 * max(last, 1), RIGHT_ROOM * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_keeps(axes: "Axes", keeps: Sequence[Point]) -> None:
    x, y = [p.number for p in keeps], [p.val_bpb for p in keeps]
    axes.scatter(x, y, s=52, color=GREEN, edgecolors="white", linewidths=0.8, zorder=4, label="kept (mean of its runs)")


def _draw_heads(axes: "Axes", line: Sequence[Point], *, last: int, label: str) -> None:
    """Draws the head over time, which is not always the best: it is the one that is likely to be, or that is simpler."""
    x, y = [p.number for p in line], [p.val_bpb for p in line]
    axes.step([*x, last], [*y, y[-1]], where="post", color=GREEN, linewidth=2, alpha=0.75, label=label)


def _draw_discards(axes: "Axes", keeps: Sequence[Point], discards: Sequence[Point]) -> None:
    """Draws discards at their scores, and marks at the top edge for those further up."""
    lowest, highest = score_range(keeps, discards)
    limit = highest + ABOVE * (highest - lowest)
    seen = [point for point in discards if point.val_bpb <= limit]
    above = [point.number for point in discards if point.val_bpb > limit]
    if seen:
        axes.scatter([p.number for p in seen], [p.val_bpb for p in seen], s=18, color=GREY, alpha=0.8, label="discarded")
    mark_at_the_top(axes, above, marker="^", color=GREY, label="discarded, further up")


def mark_at_the_top(axes: "Axes", numbers: Sequence[int], *, marker: str, color: str, label: str) -> None:
    """Marks experiments without a place among the scores at the top edge; the legend counts them."""
    if numbers:
        top, where = [1.0] * len(numbers), axes.get_xaxis_transform()
        label = f"{label} ({len(numbers)})"
        axes.scatter(numbers, top, s=24, marker=marker, color=color, label=label, transform=where, clip_on=False)


def _draw_labels(axes: "Axes", keeps: Sequence[Point]) -> None:
    """Draws a label for each keep, rising from its point; one that would cover its neighbour moves right, with a leader."""
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
            _label(point.title),
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
    """Indices of the keeps to label: all of them, or the MAX_LABELS that gained most."""
    gains = [math.inf, *(before.val_bpb - after.val_bpb for before, after in pairwise(keeps))]
    return set(sorted(range(len(keeps)), key=lambda i: -gains[i])[:MAX_LABELS])


def _label(title: str) -> str:
    """A keep's title, as a label."""
    return plain_text(shortened(title, LABEL_LENGTH))


def plain_text(text: str) -> str:
    """A text as matplotlib takes it: a plain $ would start a formula."""
    return text.replace("$", r"\$")
