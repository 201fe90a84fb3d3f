"""Whether runs had equal shares of the machine: scores under a time budget compare only if they had.

A run with an unusual share is less certain, which the estimate takes into account. On a CPU the kernel's account of its threads
tells (`RunResult.cpu_share`), on a GPU the speed that the judge measured right after it (`RunResult.gpu_tflops`): both are the
judge's figures, and compare between runs of any commit. The steps that a run reports are for people alone, and compare between
runs of one commit.
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


SPEED_TOLERANCE = 0.03
"""Relative difference of a GPU's speed, as the judge measures it, up to which two runs had equal shares of it."""

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
    shares = [share for run in runs if (share := share_of(run)) is not None]
    usual = median_high(shares) if len(shares) > 1 else None
    steps_of: dict[str, list[int]] = {}
    for record in records:
        steps = [run.reported_steps for run in record.runs if run.status == "ok" and run.reported_steps]
        steps_of.setdefault(record.experiment.commit, []).extend(steps)
    found = []
    for record in records:
        for run in (run for run in record.runs if run.status == "ok"):
            words = [_share_words(run, usual), _steps_words(run, steps_of[record.experiment.commit])]
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


def share_of(run: RunResult) -> float | None:
    """What a run had of its machine, by the judge: a share of the CPU, or the speed of its GPU in TFLOP/s; None if unknown."""
    return (run.cpu_share if _on_cpu(run) else run.gpu_tflops) or None


def unusual_share(run: RunResult, shares: Sequence[float]) -> float:
    """How much more of its machine a run had than the latest runs of its group, as a logarithm; 0 if that isn't known."""
    share = share_of(run)
    return 0.0 if share is None or len(shares) < 2 else math.log(share / median(shares))


def doubt_of_share(run: RunResult, shares: Sequence[float], *, time_slope: float) -> float:
    """How far an unusual share of the machine may have moved a run's score, in bpb; `time_slope` is the profile's."""
    return time_slope * abs(unusual_share(run, shares))


def usual_spread(shares: Sequence[float]) -> float:
    """How much runs' shares of the machine differ anyway: three robust standard deviations, as a logarithm.

    Infinite as long as too few have been seen.
    """
    if len(shares) < FEWEST_SHARES:
        return math.inf
    middle = median(shares)
    return 3 * 1.4826 * median(abs(math.log(share / middle)) for share in shares)


def _share_words(run: RunResult, usual: float | None) -> str:
    share = share_of(run)
    if usual is None or share is None or abs(share / usual - 1) <= (CPU_TOLERANCE if _on_cpu(run) else SPEED_TOLERANCE):
        return ""
    if _on_cpu(run):
        return f"{share:.0%} of its CPU time, {usual:.0%} is usual"
    return f"its GPU did {share:.0f} TFLOP/s, {usual:.0f} is usual"


def _steps_words(run: RunResult, steps: Sequence[int]) -> str:
    if not run.reported_steps or len(steps) < 2:
        return ""
    behind = 1 - run.reported_steps / median_high(steps)
    return f"{behind:.1%} fewer steps than its commit's other runs" if behind > tolerance(run) else ""


def _on_cpu(run: RunResult) -> bool:
    return run.device == "cpu"
