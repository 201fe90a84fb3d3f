"""What an idea must pay for time outside the clock: what as many seconds of training would gain. Pure functions.

So a run gains nothing by training before the clock, after it, or while it is scored. Times vary on their own, more so on a busy
machine, and an idea pays only for what no run of the untouched train.py took, measured as if it had had as much of its machine,
and for what most of its own runs took.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median_low

from research.result import RunResult

FREE_TIMES, FREE_TIMES_DISTURBED, FREE_SHARE = 1.5, 3.0, 0.005
"""An idea's run may take this multiple of the most seconds that an untouched train.py took, and this share of the budget more,
to start and to answer the validation rows without paying for it; a larger multiple if it had less of its machine than usual,
or than the group's first run, since other programs on the same core slow it down, too, without taking its time."""


@dataclass(frozen=True, kw_only=True)
class RunTimes:
    """Seconds of a run, without those that other programs made it wait for the CPU where that is known."""

    startup: float
    training: float
    answers: float
    share: float | None = None
    """What it had of its machine (`machine_shares.share_of`); None if unknown."""

    def part_of(self, share: float | None) -> float:
        """What it had of its machine as a part of this share; 1 where it had no less, or that isn't known."""
        return min(1.0, self.share / share) if share and self.share else 1.0


@dataclass(frozen=True, kw_only=True)
class UsualTimes:
    """The most seconds that runs of the untouched train.py took, each measured with its share of the machine."""

    share: float = 0.0
    """The largest share of the machine that one of them had; 0: it isn't known of any."""
    work: tuple[float, float] = (0.0, 0.0)
    """Seconds to start and to answer the validation rows, times the share that the run had."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """Seconds to start and to answer the validation rows, of runs whose share isn't known."""
    training: float = 0.0
    step: float = 0.0
    """Seconds of a step: a run may end as much later than these did, by chance."""

    @property
    def are_known(self) -> bool:
        """Whether there was such a run."""
        return self.training > 0

    @property
    def longest(self) -> tuple[float, float]:
        """Seconds to start and to answer the validation rows, as with the largest share."""
        startup, answers = (part / self.share if self.share else 0.0 for part in self.work)
        return max(startup, self.seconds[0]), max(answers, self.seconds[1])

    def with_run(self, times: RunTimes, steps: int | None) -> "UsualTimes":
        """With one more run; the first one's report says what a step takes: it is the user's own train.py."""
        step = times.training / steps if not self.are_known and steps else self.step
        training, took = max(self.training, times.training), (times.startup, times.answers)
        if not times.share:
            return replace(self, seconds=_larger(self.seconds, took), training=training, step=step)
        work = (took[0] * times.share, took[1] * times.share)
        return replace(self, share=max(self.share, times.share), work=_larger(self.work, work), training=training, step=step)


def _larger(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], other[0]), max(one[1], other[1])


def run_times(run: RunResult, share: float | None) -> RunTimes | None:
    """The seconds of a run, which had this share of its machine; None if they are not all known."""
    startup = run.startup_seconds if run.undisturbed_startup_seconds is None else run.undisturbed_startup_seconds
    answers = run.answer_seconds if run.undisturbed_answer_seconds is None else run.undisturbed_answer_seconds
    if startup is None or run.training_seconds is None or answers is None:
        return None
    return RunTimes(startup=startup, training=run.training_seconds, answers=answers, share=share)


def worth_of_time(times: RunTimes, usual: UsualTimes, *, free_times: float, budget: float, slope: float, on_gpu: bool) -> float:
    """What the seconds that a run takes outside the clock, beyond what is free, would gain as training, in bpb.

    Free are `free_times` what an untouched train.py took to start and to answer, and FREE_SHARE of the budget; starting on a
    GPU is, where an edit may have much to compile. Free is a step of the baseline, too, by which the end of training varies.
    What is free follows from no idea's run, so that it can't grow step by step. `slope` is the profile's `time_slope`.
    """
    part, free = times.part_of(usual.share), FREE_SHARE * budget
    startup, answers = (
        max(0.0, part * took - free_times * most - free)
        for took, most in zip((times.startup, times.answers), usual.longest, strict=True)
    )
    late = max(0.0, times.training - usual.training - max(free, usual.step / part))
    return slope * math.log1p((answers + late + (0.0 if on_gpu else startup)) / budget)


def price_of_runs(prices: Iterable[float]) -> float:
    """What an idea pays, by what each of its runs says: the lower one of two, the middle one of more; 0 without any.

    Others on the machine make a run take longer, and nothing makes it take less than its train.py does.
    """
    known = tuple(prices)
    return median_low(known) if known else 0.0
