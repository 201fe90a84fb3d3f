"""The display while the farm runs: a live view on a terminal, plain lines elsewhere."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, Unpack

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.repo.branch_names import short_name
from research.formatting import duration
from results.counts import Counts
from results.experiment import Decision, ExperimentRecord
from results.head_gain import ExpectedGain, gain_text, interval_text

SHOWN_VERDICTS = 6

BAR_WIDTH = 16
COLUMNS = {"branch": 6, "doing": 9, "progress": BAR_WIDTH, "left": 7, "loss": 6}
"""Minimum widths, so that columns don't jump when a phase ends."""

WIDE = 120
"""Columns of a terminal on which an experiment's title fits beside the state of its loop."""

COLORS: dict[Decision, str] = {
    "keep": "green",
    "discard": "dim",
    "crash": "red",
    "invalid": "magenta",
    "lost": "yellow",
}


class LoopFields(TypedDict, total=False):
    """The state of one loop. An update gives only the fields that have changed."""

    phase: str
    """`proposing`, `starting`, a run's `startup`, `training`, `handover` or `scoring`, `paused` or `ended`."""
    experiment: str
    """Id of the experiment."""
    title: str
    run: int
    """Number of the run within its experiment, from 1."""
    seconds: float
    """Seconds since the phase began."""
    step: int | None
    loss: float | None
    """Training loss, nats per token."""
    fraction: float
    """Fraction of the time budget that is used, 0 to 1."""


RUNNING = ("starting", "startup", "training", "handover", "scoring")


class Display(Protocol):
    """What every display can do. Methods may be called from any thread."""

    def loop_state(self, branch: str, **fields: Unpack[LoopFields]) -> None:
        """Takes the fields of a loop's state that have changed."""

    def head_gain(self, group: str, gain: ExpectedGain) -> None:
        """Takes what all runs say of a group's head by now."""

    def counts(self, counts: Counts) -> None:
        """Takes how the experiments on the branches of this farm have ended so far."""

    def say(self, text: str) -> None:
        """Shows one line of text."""

    def verdict(self, record: ExperimentRecord) -> None:
        """Shows that an experiment has ended."""

    def seconds(self) -> float:
        """Seconds since the display was made, until it was closed."""

    def close(self) -> None:
        """Restores the terminal."""


def make_display(write: Callable[[str], None] | None = None) -> Display:
    """The display for this process's standard output; `write` prints the lines where it is no terminal."""
    console = Console()
    return TerminalDisplay(console) if console.is_terminal else PlainDisplay(write)


@dataclass
class _Clock:
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def seconds(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    def stop(self) -> None:
        self.ended = self.ended or time.monotonic()


class PlainDisplay:
    """A display that prints one line per event."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        """`write` gets each line (default: standard output)."""
        self._write = write or _print_now
        self._clock = _Clock()
        self._known: dict[str, LoopFields] = {}
        self._lock = threading.Lock()

    def loop_state(self, branch: str, **fields: Unpack[LoopFields]) -> None:
        with self._lock:
            known = self._known.setdefault(branch, {})
            before = _news(known)
            known.update(fields)
            phase, after = known.get("phase", ""), _news(known)
        if after != before and phase in RUNNING:
            self._write(f"{short_name(branch)}  run {known.get('run', 1)}: {_what(known)}")

    def head_gain(self, group: str, gain: ExpectedGain) -> None:
        pass

    def counts(self, counts: Counts) -> None:
        pass

    def say(self, text: str) -> None:
        self._write(text)

    def verdict(self, record: ExperimentRecord) -> None:
        self._write(verdict_line(record))

    def seconds(self) -> float:
        return self._clock.seconds()

    def close(self) -> None:
        self._clock.stop()


class TerminalDisplay:
    """A live view of the loops, the last verdicts and totals, redrawn in place. Lines of text scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._loops: dict[str, LoopFields] = {}
        self._gains: dict[str, ExpectedGain] = {}
        self._verdicts: deque[ExperimentRecord] = deque(maxlen=SHOWN_VERDICTS)
        self._clock = _Clock()
        self._counts: Counts | None = None
        self._closed = False
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self.render)

    def loop_state(self, branch: str, **fields: Unpack[LoopFields]) -> None:
        with self._lock:
            self._loops.setdefault(branch, {}).update(fields)
        if not self._closed:
            self._live.start()  # does nothing after the first time; not under the lock, since it draws at once

    def head_gain(self, group: str, gain: ExpectedGain) -> None:
        with self._lock:
            self._gains[group] = gain

    def counts(self, counts: Counts) -> None:
        with self._lock:
            self._counts = counts

    def say(self, text: str) -> None:
        with suppress(OSError):  # the terminal was closed
            self._console.print(text, markup=False, highlight=False)

    def verdict(self, record: ExperimentRecord) -> None:
        with self._lock:
            self._verdicts.append(record)

    def seconds(self) -> float:
        return self._clock.seconds()

    def close(self) -> None:
        self._closed = True
        self._clock.stop()
        with suppress(OSError):  # the terminal was closed
            self._live.stop()

    def render(self) -> RenderableType:
        """The whole view."""
        with self._lock:
            parts: list[RenderableType] = [self._loop_table()]
            told = [f"{short_name(group)}  {gain_text(gain)}" for group, gain in self._gains.items()]
            parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in told]
            for record in self._verdicts:
                decision = record.verdict.decision if record.verdict else "lost"
                whole = self._closed  # nothing is redrawn any more, so that lines may wrap
                parts.append(Text(verdict_line(record), style=COLORS[decision], no_wrap=not whole, overflow="ellipsis"))
            counts = self._counts.words() if self._counts else "no verdict yet"
            parts.append(Text(f"{duration(self.seconds())}: {counts}   (Ctrl-C stops cleanly)", style="bold"))
        return Group(*parts)

    def _loop_table(self) -> RenderableType:
        """The state of each loop; what it tries stands beside it on a wide terminal, and below the table on a narrow one."""
        wide = self._console.width >= WIDE
        table = Table(box=None, expand=wide, pad_edge=False)
        for header, width in COLUMNS.items():
            table.add_column(header, no_wrap=True, min_width=width)
        if wide:
            table.add_column("experiment", ratio=1, no_wrap=True, overflow="ellipsis")
        for branch, known in self._loops.items():
            training = known.get("phase") == "training"
            table.add_row(
                short_name(branch),
                known.get("phase", ""),
                ProgressBar(total=1.0, completed=known.get("fraction", 0.0), width=BAR_WIDTH) if training else "",
                time_left(known) if training else "",
                _number(known.get("loss") if training else None, "{:.3f}"),
                *([Text(_what(known))] if wide else []),
            )
        tried = {short_name(branch): _what(known) for branch, known in self._loops.items() if not wide and _what(known)}
        return Group(table, *(Text(f"{name}: {what}", no_wrap=True, overflow="ellipsis") for name, what in tried.items()))


def verdict_line(record: ExperimentRecord) -> str:
    """A finished experiment in one line: branch, number, decision, score, of an idea what decides, title and reason.

    Of an idea that the estimate decides upon the reason is its effect, and what else decides; `farm show` has all of it.
    """
    experiment = record.experiment
    outcome = record.outcome or "no verdict"
    score = _number(record.val_bpb, "{:.6f}") or "-"
    where = f"{short_name(experiment.branch)}  #{experiment.number:<5}"
    return f"{where} {outcome:<9}{score}{_what_decides(record)}  {_title_and_effect(record) or title_and_reason(record)}"


def _what_decides(record: ExperimentRecord) -> str:
    """What decides about an idea: the probability that it helps, or the gain of its score where that does."""
    verdict = record.verdict
    if verdict is None or not record.is_idea:
        return ""
    if verdict.helps is not None:
        return f", P(helps) {verdict.helps:.2f}"
    return "" if verdict.gain is None else f" ({verdict.gain:+.4f})"


def _title_and_effect(record: ExperimentRecord) -> str:
    """What was tried and its estimated effect, and what decides beside that; empty where no estimate decides."""
    verdict = record.verdict
    if verdict is None or not record.is_idea or verdict.effect is None or verdict.low is None or verdict.high is None:
        return ""
    first = reason_alone(verdict.reason, record).partition("; ")[0]
    why = "" if first.startswith("P(helps)") and first.endswith(" decides") else f"; {first}"
    return f"{record.experiment.title}: effect {interval_text(verdict.effect, verdict.low, verdict.high)}{why}"


def title_and_reason(record: ExperimentRecord) -> str:
    """What was tried, and the reason of its verdict."""
    title, verdict = record.experiment.title, record.verdict
    return title if verdict is None else f"{title}: {reason_alone(verdict.reason, record)}"


def reason_alone(reason: str, record: ExperimentRecord) -> str:
    """The reason of a verdict on an experiment without the decision and the title, which stand beside it."""
    decision = record.verdict.decision if record.verdict else ""
    for said in (decision, record.outcome, record.experiment.title):
        reason = reason.removeprefix(f"{said}: ")
    return reason


def _what(known: LoopFields) -> str:
    return f"{known.get('experiment', '')} {known.get('title', '')}".strip()


def _news(known: LoopFields) -> tuple[object, ...]:
    """The part of a loop's state whose change is worth a plain line."""
    phase = known.get("phase")
    return ("running" if phase in RUNNING else phase, known.get("experiment"), known.get("run"))


def time_left(known: LoopFields) -> str:
    """Time until the budget ends, estimated from the fraction that is used; empty at the start."""
    seconds, fraction = known.get("seconds", 0.0), known.get("fraction", 0.0)
    return duration(seconds * (1 - fraction) / fraction) if fraction > 0 else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _print_now(line: str) -> None:
    print(line, flush=True)
