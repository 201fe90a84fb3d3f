"""One picture to share: how far a head came, how sure that is, and what was tried on the way."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from research.formatting import counted, shortened
from results.head_gain import ExpectedGain, interval_text
from results.plot import DARK_GREEN, DPI, FAR, GREEN, GREY, INK, mark_at_the_top, plain_text, save_png, silent_matplotlib
from results.verdict import figure as in_bpb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 12.0, 6.3
"""The picture's size in inches, in the proportion in which links are previewed."""

MUTED = "#6b6f68"

LEAST_SPAN = 1e-4
"""The least range of scores that is drawn, in bits per byte: narrower ones have no telling labels."""

PLOT = (0.075, 0.135, 0.88, 0.485)
"""Left, bottom, width and height of the curve, as shares of the picture."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """An experiment with a score."""

    at: int
    """How many experiments of its head's branches were made before it."""
    val_bpb: float
    is_kept: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the picture shows, as plain data."""

    name: str
    device: str
    profile: str
    experiments: int
    kept: int
    runs: int
    """Runs that the judge has scored."""
    gain: ExpectedGain | None
    """What all runs say; None before a head beside the baseline is known."""
    confirmed: str = ""
    """What fresh seeds say, in words; empty if they haven't run."""
    tried: tuple[Tried, ...] = ()
    steps: tuple[tuple[int, float], ...] = ()
    """Where the baseline and each head came about, as in `Tried.at`, and the val_bpb that was expected of it."""
    last: int = 0
    """The place of the last experiment."""

    @property
    def headline(self) -> str:
        """From where to where the score came."""
        if self.gain is None:
            return "no gain yet"
        return f"val_bpb {self.gain.baseline:.4f} \N{RIGHTWARDS ARROW} {self.gain.head:.4f}"

    @property
    def interval(self) -> str:
        """The gain with its 90% interval."""
        if self.gain is None:
            return "the head is still the baseline"
        return f"gain {interval_text(self.gain.gain, self.gain.low, self.gain.high)} bits per byte, 90% interval by all runs"

    @property
    def scale(self) -> str:
        """How much was tried, how much chance moves a score, and on what."""
        noise = "" if self.gain is None else f"sigma {in_bpb(self.gain.sigma)} between seeds"
        tried = f"{counted(self.experiments, 'experiment')}, {self.kept} kept, {counted(self.runs, 'scored run')}"
        return "   \N{MIDDLE DOT}   ".join(filter(None, (tried, noise, shortened(self.device, 36), f"profile {self.profile}")))


def write_card(path: Path, card: Card) -> Path | None:
    """Writes the picture as PNG, atomically. Returns where a file is now that was there and isn't the farm's."""
    with silent_matplotlib():
        return save_png(path, card_figure(card))


def card_figure(card: Card) -> "Figure":
    """The picture as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = PLOT[0]
    figure.text(left, 0.9, plain_text(card.name), fontsize=13, color=MUTED, va="center")
    figure.text(1 - 0.045, 0.9, "autoresearch farm", fontsize=13, color=MUTED, va="center", ha="right")
    figure.text(left, 0.815, card.headline, fontsize=32, color=INK, va="center", fontweight="bold")
    figure.text(left, 0.72, card.interval, fontsize=14, color=DARK_GREEN if card.gain else MUTED, va="center")
    figure.text(left, 0.665, card.confirmed, fontsize=11, color=MUTED, va="center")
    figure.text(left, 0.045, plain_text(card.scale), fontsize=10.5, color=MUTED, va="center")
    axes = figure.add_axes(PLOT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=10)
    axes.set_xlabel("experiment", loc="right", labelpad=1, fontsize=10, color=MUTED)
    axes.grid(alpha=0.15)
    axes.ticklabel_format(axis="y", useOffset=False)
    _draw_curve(axes, card)
    return figure


def _draw_curve(axes: "Axes", card: Card) -> None:
    """Draws discards, keeps and the head over the experiments, with the interval of the head's score at the end."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.02 * max(card.last, 1), 1.02 * max(card.last, 1))
    low, top = _limits(card) if card.tried or card.steps else (0.0, 1.0)
    kept = [one for one in card.tried if one.is_kept]
    others = [one for one in card.tried if not one.is_kept]
    for found, size, color, label in ((others, 16, GREY, "discarded"), (kept, 34, GREEN, "kept")):
        seen = [one for one in found if one.val_bpb <= top]
        if seen:
            axes.scatter([one.at for one in seen], [one.val_bpb for one in seen], s=size, color=color, label=label, zorder=3)
        mark_at_the_top(
            axes, [one.at for one in found if one.val_bpb > top], marker="^", color=color, label=f"{label}, further up"
        )
    if card.steps:
        x, y = [*(at for at, _ in card.steps), card.last], [*(value for _, value in card.steps), card.steps[-1][1]]
        axes.step(x, y, where="post", color=DARK_GREEN, linewidth=2, label="head: the val_bpb that is expected of it", zorder=2)
    if card.gain is not None:
        below, above = card.gain.high - card.gain.gain, card.gain.gain - card.gain.low
        axes.errorbar([card.last], [card.gain.head], yerr=[[max(0.0, below)], [max(0.0, above)]], color=DARK_GREEN, capsize=4,
                      label="the head by all runs, 90% interval of its gain")  # fmt: skip
    if card.tried or card.steps:
        axes.set_ylim(low, top)
        axes.legend(loc="upper right", fontsize=10, frameon=False, labelcolor=MUTED)


def _limits(card: Card) -> tuple[float, float]:
    """The lowest and highest score that has a place: those far above the heads don't stretch the picture, and are marked at
    its top.
    """
    scores = [one.val_bpb for one in card.tried]
    placed = [*(value for _, value in card.steps), *(one.val_bpb for one in card.tried if one.is_kept)] or scores
    low, top = min(*placed, *scores), max(placed)
    reach = max(top + FAR * 0.1 * (top - low), low + FAR * (median(scores or placed) - low))
    high = max([top, *(score for score in scores if score <= reach)])
    span = max(high - low, LEAST_SPAN)
    return low - 0.08 * span, high + 0.12 * span
