"""Whether runs had equal shares of the machine: scores under a time budget compare only if they had.

A run with an unusual share is less certain, which the estimate takes into account; so is one with another share than the runs
that it is compared with, which may all be usual where a machine stays busy. What is usual is the same for whatever asks (the
estimate, the verdict, the repetition of a run, the report): the share of the undisturbed ones among the runs that ended before
it. On a CPU the kernel's account of its threads
tells (`RunResult.cpu_share`), on a GPU the speed that the judge measured right after it (`RunResult.gpu_tflops`): both are the
judge's figures, and compare between runs of any commit. The steps that a run reports are for people alone, and compare between
runs of one commit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean, median_high, median_low

from results.outlines import AnyRecord, AnyRun

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
"""The number of latest runs whose shares of the machine say what is usual."""

LEAST_UNUSUAL = 0.01
"""Difference of shares, as a logarithm, that is never unusual, however equal the runs before were."""

SPREAD = 3 * 1.19
"""Three standard deviations, in median distances from the upper quartile, for values that are normally distributed."""


@dataclass(frozen=True, kw_only=True)
class MachineShare:
    """What a run had of its machine, beside the runs before it."""

    share: float
    usual: float
    """What undisturbed runs before it had."""
    spread: float
    """How much shares differ anyway, as a logarithm; infinite as long as too few have been seen."""
    beside: float | None = None
    """The share of the runs that it is compared with, under the same seed where there are any; None if it isn't known."""
    tolerance: float = LEAST_UNUSUAL
    """Relative difference up to which the shares of two runs on such a device count as equal."""

    @property
    def more(self) -> float:
        """How much more of its machine the run had than usual, as a logarithm; below 0 for less."""
        return math.log(self.share / self.usual)

    @property
    def is_unusual(self) -> bool:
        """Whether that is known to be more than what shares differ by anyway."""
        return abs(self.more) > max(LEAST_UNUSUAL, self.spread)

    @property
    def may_be_unusual(self) -> bool:
        """Whether it is unusual, or would be if more were known of what is usual."""
        return self.is_unusual or math.isinf(self.spread)

    @property
    def uneven(self) -> float:
        """How much more of its machine the run had than those that it is compared with, as a logarithm; 0 within what makes no
        difference."""
        if self.beside is None or max(self.share, self.beside) / min(self.share, self.beside) - 1 <= self.tolerance:
            return 0.0
        return math.log(self.share / self.beside)

    @property
    def uneven_words(self) -> str:
        """How the run ran beside those that it is compared with; empty if that made no difference."""
        if self.beside is None or not self.uneven:
            return ""
        if self.uneven < 0:
            return f"with {1 - self.share / self.beside:.0%} less of the machine than what it is compared with"
        return f"beside runs that had {1 - self.beside / self.share:.0%} less of the machine"

    @property
    def words(self) -> str:
        """How the run ran, beside the others: more than usual is what these lacked."""
        if self.more < 0:
            return f"with {1 - self.share / self.usual:.0%} less of the machine than usual"
        return f"after runs with {1 - self.usual / self.share:.0%} less of the machine"


@dataclass(frozen=True, kw_only=True)
class FirstShare:
    """The first known share of the machine among some runs, to which the others are compared."""

    share: float
    tolerance: float
    """Relative difference up to which shares count as equal, as `MachineShare.tolerance`."""

    def more_in(self, share: float | None) -> float:
        """How much larger another share is, as a logarithm, beyond what makes no difference; 0 for an unknown one."""
        more = math.log(share / self.share) if share else 0.0
        return math.copysign(max(0.0, abs(more) - math.log1p(self.tolerance)), more)


@dataclass(frozen=True, kw_only=True)
class UnequalShare:
    """A run that had another share of the machine than usual."""

    run: AnyRun
    words: str
    """How far it differs from what is usual."""


def tolerance(run: AnyRun) -> float:
    """Relative difference in work done in the same time, up to which two runs had equal shares of such a device."""
    return GPU_TOLERANCE if run.device_kind == "cuda" else CPU_TOLERANCE


def unequal_shares(records: Sequence[AnyRecord], every: Iterable[AnyRun]) -> list[UnequalShare]:
    """The runs of one branch whose share of the machine was unusual, oldest first.

    `every`: the runs of all branches of its group in the order in which they ended, which say what share is usual.
    """
    shares = machine_shares(every)
    steps_of: dict[str, list[int]] = {}
    shares_of: dict[str, list[float]] = {}
    for record in records:
        for run in record.runs:
            if run.status == "ok" and (share := share_of(run)):
                shares_of.setdefault(record.experiment.commit, []).append(share)
            if run.status == "ok" and run.reported_steps:
                steps_of.setdefault(record.experiment.commit, []).append(run.reported_steps)
    found = []
    for record in records if shares_of or steps_of else ():
        commit = record.experiment.commit
        for run in record.runs:
            if run.status != "ok":
                continue
            beside = _beside_commit_words(run, shares_of.get(commit, ())) or _beside_parent_words(
                run, shares_of.get(record.experiment.parent_commit, ())
            )
            words = [_share_words(run, shares.get(run.run_id)) or beside, _steps_words(run, steps_of.get(commit, ()))]
            if any(words):
                found.append(UnequalShare(run=run, words=", ".join(filter(None, words))))
    return found


def unequal_sides(sides: Mapping[str, Sequence[AnyRun]]) -> str:
    """What two named train.py that are compared had of the machine, if that was unequal; empty if it wasn't, or isn't known."""
    runs = {name: [run for run in runs if run.status == "ok" and share_of(run)] for name, runs in sides.items()}
    if not all(runs.values()):
        return ""
    means = {name: fmean(share_of(run) or 0.0 for run in of_side) for name, of_side in runs.items()}
    some = next(iter(runs.values()))[0]
    if max(means.values()) / min(means.values()) - 1 <= _least_difference(some):
        return ""
    had = " and ".join(f"{name} {_in_figures(some, mean)}" for name, mean in means.items())
    return f"unequal shares of the machine, so that the scores compare badly: {had}"


def machine_shares(runs: Iterable[AnyRun]) -> Mapping[str, MachineShare]:
    """What each of these runs had of its machine, by its id, as far as that is known; the runs in the order of their ends."""
    found: dict[str, MachineShare] = {}
    before: tuple[float, ...] = ()
    for run in runs:
        share = machine_share(run, before)
        if share is not None:
            found[run.run_id] = share
        before = with_share(before, run)
    return found


def machine_share(run: AnyRun, before: Sequence[float], compared: Sequence[float] = ()) -> MachineShare | None:
    """What a run had of its machine; None if that, or what is usual, isn't known.

    `before`: the shares of earlier runs; `compared`: of those that it is compared with.
    """
    share = share_of(run)
    if share is None or run.status != "ok" or not before:
        return None
    beside = geometric_mean(compared) if compared else None
    return MachineShare(share=share, usual=usual_share(before), spread=usual_spread(before), beside=beside,
                        tolerance=_least_difference(run))  # fmt: skip


def first_share(run: AnyRun) -> FirstShare | None:
    """The share of a group's first run; None if it isn't known."""
    share = share_of(run) if run.status == "ok" else None
    return None if share is None else FirstShare(share=share, tolerance=_least_difference(run))


def with_share(before: tuple[float, ...], run: AnyRun) -> tuple[float, ...]:
    """The shares of the latest runs, with one more run."""
    share = share_of(run) if run.status == "ok" else None
    return before if share is None else (*before, share)[-USUAL_OF:]


def work_ratio(old: AnyRun, new: AnyRun) -> float | None:
    """The work that `new` did in its time, in multiples of what `old`, a run of the same code, did; None if it isn't known."""
    if old.reported_steps and new.reported_steps:
        return new.reported_steps / old.reported_steps
    if old.cpu_share and new.cpu_share and _on_cpu(old):
        return new.cpu_share / old.cpu_share
    return None


def share_of(run: AnyRun) -> float | None:
    """What a run had of its machine, by the judge: a share of the CPU, or the speed of its GPU in TFLOP/s; None if unknown."""
    return (run.cpu_share if _on_cpu(run) else run.gpu_tflops) or None


def usual_share(shares: Sequence[float]) -> float:
    """The share of undisturbed runs among these, of which there must be some: the middle one of the upper half.

    So runs that had the whole machine are not the odd ones where it was busy for half of the time.
    """
    upper = sorted(shares)[len(shares) // 2 :]
    return median_high(upper)


def usual_spread(shares: Sequence[float]) -> float:
    """How much runs' shares of the machine differ anyway: three robust standard deviations, as a logarithm.

    Infinite as long as too few have been seen.
    """
    if len(shares) < FEWEST_SHARES:
        return math.inf
    usual = usual_share(shares)
    return SPREAD * median_low(abs(math.log(share / usual)) for share in shares)


def doubt_of_share(found: MachineShare | None, *, time_slope: float) -> float:
    """How far a share of the machine may have moved a run's score, in bpb, within what makes no difference: what is beyond is a
    term of the estimate's. `time_slope` is the profile's.
    """
    return 0.0 if found is None else time_slope * min(abs(found.more), math.log1p(found.tolerance))


def told_share(run: AnyRun, found: MachineShare | None) -> str:
    """A remark on a run that had an unusual share of the machine, and so says less; empty for others."""
    if found is None:
        return ""
    if _is_worth_a_word(run, found):
        return f"{found.words}, so that it counts less{'' if found.more < 0 else ' beside them'}"
    return f"{found.uneven_words}, so that it says less" if found.uneven else ""


def _is_worth_a_word(run: AnyRun, found: MachineShare | None) -> bool:
    """Whether a share is outside of what makes no difference on such a device, and of what is usual."""
    least = _least_difference(run)
    return found is not None and abs(found.share / found.usual - 1) > least and found.may_be_unusual


def _least_difference(run: AnyRun) -> float:
    """The relative difference of shares up to which two runs on such a device had equal ones."""
    return CPU_TOLERANCE if _on_cpu(run) else SPEED_TOLERANCE


def _in_figures(run: AnyRun, share: float) -> str:
    return f"{share:.0%} of its CPU time" if _on_cpu(run) else f"a GPU of {share:.0f} TFLOP/s"


def _beside_commit_words(run: AnyRun, shares: Sequence[float]) -> str:
    """What a run had of the machine beside its commit's other runs, which are compared with it; empty if that was equal."""
    share = share_of(run)
    if share is None or len(shares) < 2:
        return ""
    others = median_high(shares)
    if max(share, others) / min(share, others) - 1 <= _least_difference(run):
        return ""
    return f"{_in_figures(run, share)}, and its commit's other runs {_in_figures(run, others)}"


def _beside_parent_words(run: AnyRun, shares: Sequence[float]) -> str:
    """What a run had of the machine beside the train.py that it is an edit of; empty if that was equal or isn't known.

    What is usual says nothing of that where a machine has stayed busy since.
    """
    share = share_of(run)
    if share is None or not shares:
        return ""
    before = geometric_mean(shares)
    if max(share, before) / min(share, before) - 1 <= _least_difference(run):
        return ""
    return f"{_in_figures(run, share)}, and what it was tried on {_in_figures(run, before)}"


def _share_words(run: AnyRun, found: MachineShare | None) -> str:
    if found is None or not _is_worth_a_word(run, found):
        return ""
    if _on_cpu(run):
        had, usual = f"{found.share:.0%} of its CPU time", f"{found.usual:.0%}"
    else:
        had, usual = f"its GPU did {found.share:.0f} TFLOP/s", f"{found.usual:.0f}"
    return f"{had}, {usual} is usual" if found.more < 0 else f"{had}, after runs with {usual}"


def _steps_words(run: AnyRun, steps: Sequence[int]) -> str:
    if not run.reported_steps or len(steps) < 2:
        return ""
    behind = 1 - run.reported_steps / median_high(steps)
    return f"{behind:.1%} fewer steps than its commit's other runs" if behind > tolerance(run) else ""


def _on_cpu(run: AnyRun) -> bool:
    return run.device_kind == "cpu"
