"""Whether runs had equal shares of the machine: scores under a time budget compare only if they had.

A run with an unusual share of the CPU is less certain, which the estimate takes into account. All else is for people alone.

On a CPU the kernel's account of a run's threads tells (`RunResult.cpu_share`), for runs of any commit. What slows a run without
that, such as a GPU that is hot or shared, shows in the steps that it reports, which compare between runs of one commit alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, median_high

from research.result import RunResult
from results.experiment import ExperimentRecord

GPU_TOLERANCE = 0.01
"""Share of the steps that a run on a GPU may fall behind: on a GPU of its own, runs of one commit differ by less."""

CPU_TOLERANCE = 0.05
"""Share that a run on a CPU may differ by. With the `cpu` profile on two cores, val_bpb falls by 0.36 per unit of ln(steps),
and seeds differ from that line with a standard deviation of 0.03: 5% of the steps are worth more than half of that."""


STEPS_SLOPE = 0.36
"""Loss in bpb per unit of ln(steps) with the `cpu` profile (11 runs of 4, 8 and 16 s, 63 to 249 steps), by which an unusual
share of the machine moves a score."""

FEWEST_SHARES = 5
"""The number of runs from which it is known how much shares of the machine differ anyway."""

USUAL_OF = 8
"""The number of latest runs whose median share of the machine is the usual one."""


@dataclass(frozen=True, kw_only=True)
class UnequalShare:
    """A run that had another share of the machine than usual."""

    run: RunResult
    words: str
    """How far it differs from what is usual."""


def tolerance(run: RunResult) -> float:
    """Relative difference in work done in the same time, up to which two runs had equal shares of such a device."""
    return GPU_TOLERANCE if run.device.startswith("cuda") else CPU_TOLERANCE


def unequal_shares(records: Sequence[ExperimentRecord], every: Sequence[ExperimentRecord]) -> list[UnequalShare]:
    """The runs of one branch whose share of the machine was unusual, oldest first.

    `every`: the experiments of all branches of its group, which say what share is usual on their platform.
    """
    runs = [run for record in every for run in record.runs if run.status == "ok"]
    shares = [run.cpu_share for run in runs if run.cpu_share is not None and _on_cpu(run)]
    usual = median_high(shares) if len(shares) > 1 else None
    steps_of: dict[str, list[int]] = {}
    for record in records:
        steps = [run.reported_steps for run in record.runs if run.status == "ok" and run.reported_steps]
        steps_of.setdefault(record.experiment.commit, []).extend(steps)
    found = []
    for record in records:
        for run in (run for run in record.runs if run.status == "ok"):
            words = [_cpu_words(run, usual), _steps_words(run, steps_of[record.experiment.commit])]
            if any(words):
                found.append(UnequalShare(run=run, words=", ".join(filter(None, words))))
    return found


def work_ratio(old: RunResult, new: RunResult) -> float | None:
    """The work that `new` did in its time, in multiples of what `old`, a run of the same code, did; None if it isn't known."""
    if old.reported_steps and new.reported_steps:
        return new.reported_steps / old.reported_steps
    if old.cpu_share and new.cpu_share and _on_cpu(old):
        return new.cpu_share / old.cpu_share
    return None


def unusual_share(run: RunResult, shares: Sequence[float]) -> float:
    """How much more of the CPU a run had than the latest runs of its group, as a logarithm; 0 if that isn't known."""
    if not _on_cpu(run) or not run.cpu_share or len(shares) < 2:
        return 0.0
    return math.log(run.cpu_share / median(shares))


def doubt_of_share(run: RunResult, shares: Sequence[float]) -> float:
    """How far an unusual share of the machine may have moved a run's score, in bpb."""
    return STEPS_SLOPE * abs(unusual_share(run, shares))


def usual_spread(shares: Sequence[float]) -> float:
    """How much runs' shares of the machine differ anyway: three robust standard deviations, as a logarithm.

    Infinite as long as too few have been seen.
    """
    if len(shares) < FEWEST_SHARES:
        return math.inf
    middle = median(shares)
    return 3 * 1.4826 * median(abs(math.log(share / middle)) for share in shares)


def _cpu_words(run: RunResult, usual: float | None) -> str:
    if usual is None or run.cpu_share is None or not _on_cpu(run) or abs(run.cpu_share / usual - 1) <= CPU_TOLERANCE:
        return ""
    return f"{run.cpu_share:.0%} of its CPU time, {usual:.0%} is usual"


def _steps_words(run: RunResult, steps: Sequence[int]) -> str:
    if not run.reported_steps or len(steps) < 2:
        return ""
    behind = 1 - run.reported_steps / median_high(steps)
    return f"{behind:.1%} fewer steps than its commit's other runs" if behind > tolerance(run) else ""


def _on_cpu(run: RunResult) -> bool:
    return run.device == "cpu"
