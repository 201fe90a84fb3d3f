"""Whether a branch's gain carries over to another depth or time budget, and whether it is speed or learning. Pure functions.

Baseline and head run under the same seeds, and what counts is their difference in each pair. The split needs a third run: the
head under the time in which it does about as many steps as the baseline did. Its schedule ends with that time, so it is trained
to the end, as the others are. Steps are what each train.py reports of itself: the judge counts none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from research.result import RunResult
from results.effect_estimate import INTERVAL
from results.machine_shares import CPU_TOLERANCE, tolerance

MOST_RATIO = 10.0
"""Ratio of reported steps beyond which they are not used: a train.py may report anything."""

SAME_BATCH = 0.02
"""Relative difference in tokens per step up to which a step of both is the same amount of text."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Runs with a score under one seed."""

    baseline: RunResult
    head: RunResult
    head_at_steps: RunResult | None = None
    """The head for as many steps as the baseline; the head's own run if these are as many; None if it was not run."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference in bpb, positive is a gain, with its 90% interval by Student's t; no interval from a single seed."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def is_gain(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def is_loss(self) -> bool:
        """Whether the interval lies below 0."""
        return self.high is not None and self.high < 0


@dataclass(frozen=True, kw_only=True)
class Original:
    """The gain of a branch under its own terms, in bpb."""

    baseline: float
    head: float
    """Mean val_bpb of all runs."""
    gain: float
    low: float
    high: float
    """The gain as estimated from all runs of the branch's group, shrunk for having been selected, with its 90% interval."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What the runs say, in bpb."""

    original: Original
    baseline: float
    head: float
    """Mean val_bpb over the pairs."""
    gain: Difference
    learning: Difference | None
    """The part of the gain that remains at equal steps; None if that was not measured."""
    speed: Difference | None
    """The part that comes from more steps in the same time."""
    steps: tuple[float, float] | None
    """Mean reported steps of the baseline and of the head; None if a run reported none."""
    equal_steps: float | None
    """Mean reported steps of the head's runs at equal steps, which are as many as the baseline's on a machine of even speed."""
    tokens_ratio: float | None
    """Tokens of a step of the head, in those of a step of the baseline, by their reports."""
    seeds: int

    def to_json(self) -> dict[str, Any]:
        """The findings as plain data."""
        return asdict(self)


def seconds_for_equal_steps(pair: Pair, budget: float) -> float | None:
    """The time in which the head does the baseline's steps if it does `pair.head`'s in `budget` seconds.

    None if that can't be told from what they report. It is `budget` if their steps are equal, as far as such a device can tell.
    """
    ratio = steps_ratio(pair)
    if ratio is None or not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        return None
    if abs(ratio - 1) <= tolerance(pair.head):
        return budget
    return float(f"{budget / ratio:.4g}")


def steps_ratio(pair: Pair) -> float | None:
    """The head's reported steps in multiples of the baseline's; None if a run reported none."""
    before, after = pair.baseline.reported_steps or 0, pair.head.reported_steps or 0
    return after / before if before > 0 and after > 0 else None


def compare(pairs: Sequence[Pair], original: Original) -> Transfer:
    """What the pairs say. Raises ValueError without a pair."""
    whole = [score(pair.baseline) - score(pair.head) for pair in pairs]
    at_steps = [pair.head_at_steps for pair in pairs if pair.head_at_steps is not None]
    learning = speed = None
    if len(at_steps) == len(pairs):
        learning = difference([score(pair.baseline) - score(run) for pair, run in zip(pairs, at_steps, strict=True)])
        speed = difference([score(run) - score(pair.head) for pair, run in zip(pairs, at_steps, strict=True)])
    return Transfer(
        original=original,
        baseline=fmean(score(pair.baseline) for pair in pairs),
        head=fmean(score(pair.head) for pair in pairs),
        gain=difference(whole),
        learning=learning,
        speed=speed,
        steps=_mean_steps(pairs),
        equal_steps=fmean(run.reported_steps or 0 for run in at_steps) if len(at_steps) == len(pairs) else None,
        tokens_ratio=_tokens_ratio(pairs),
        seeds=len(pairs),
    )


def difference(values: Sequence[float]) -> Difference:
    """The mean of paired differences with its interval. Raises ValueError without a value."""
    mean = fmean(values)
    if len(values) < 2:
        return Difference(mean=mean)
    from scipy import stats  # slow to import, and only a difference needs it

    error = float(stats.sem(values))
    width = float(stats.t.ppf((1 + INTERVAL) / 2, len(values) - 1)) * error
    return Difference(mean=mean, low=mean - width, high=mean + width)


def score(run: RunResult) -> float:
    """The run's val_bpb, which it must have."""
    assert run.val_bpb is not None, "only runs with a score are compared"
    return run.val_bpb


def transfer_lines(found: Transfer) -> list[str]:
    """The findings for people."""
    here, there, interval = found.gain, found.original, f"{INTERVAL:.0%} interval"
    lines = [
        f"{'':<10}{'baseline':>10}{'head':>10}{'gain':>10}   {interval}",
        f"{'here':<10}{found.baseline:>10.6f}{found.head:>10.6f}{here.mean:>10.5f}   {_interval(here)}",
        f"{'original':<10}{there.baseline:>10.6f}{there.head:>10.6f}{there.baseline - there.head:>10.5f}   "
        f"estimated {there.gain:.5f} [{there.low:.5f}, {there.high:.5f}]",
        _verdict(found),
    ]
    return [*lines, *_split_lines(found)]


def _verdict(found: Transfer) -> str:
    """Whether the gain carries over, in words."""
    if found.gain.is_gain:
        share = f": {found.gain.mean / found.original.gain:.0%} of the estimated gain" if found.original.gain > 0 else ""
        return f"the gain carries over{share}"
    if found.gain.is_loss:
        return "the gain does not carry over: the head is worse here"
    return f"undecided after {found.seeds} of each: more --seeds would tell"


def _split_lines(found: Transfer) -> list[str]:
    """The split into learning and speed with what it rests on; why there is none."""
    if found.steps is None:
        return ["no split into learning and speed: a train.py reported no steps"]
    before, after = found.steps
    told = f"{after:,.0f} steps of the head against {before:,.0f} of the baseline in the same time"
    if found.learning is None or found.speed is None:
        return [f"no split into learning and speed: {told}"]
    lines = [
        f"{'learning':<10}{'':>20}{found.learning.mean:>10.5f}   {_interval(found.learning)}: at equal steps",
        f"{'speed':<10}{'':>20}{found.speed.mean:>10.5f}   {_interval(found.speed)}: {told}",
        "steps are the runs' own reports, which nothing checks; for equal steps the head got less or more time, with its "
        "schedule fitted to that",
    ]
    if found.equal_steps is not None and abs(found.equal_steps / before - 1) > CPU_TOLERANCE:
        lines.append(
            f"the runs at equal steps made {found.equal_steps:,.0f}: the machine's speed has changed, distrust the split"
        )
    if found.tokens_ratio is not None and abs(found.tokens_ratio - 1) > SAME_BATCH:
        more = f"a step of the head reads {found.tokens_ratio:.3g} times the baseline's tokens"
        lines.append(f"{more}: equal steps are not equal text")
    return lines


def _interval(of: Difference) -> str:
    return "-" if of.low is None or of.high is None else f"[{of.low:.5f}, {of.high:.5f}]"


def _mean_steps(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    if any(steps_ratio(pair) is None for pair in pairs):
        return None
    return fmean(pair.baseline.reported_steps or 0 for pair in pairs), fmean(pair.head.reported_steps or 0 for pair in pairs)


def _tokens_ratio(pairs: Sequence[Pair]) -> float | None:
    ratios = [
        after / before for pair in pairs if (before := _step_tokens(pair.baseline)) and (after := _step_tokens(pair.head))
    ]
    return fmean(ratios) if ratios else None


def _step_tokens(run: RunResult) -> float:
    """Tokens per step by the run's report; 0 if it reported none."""
    return (run.reported_tokens or 0) / run.reported_steps if run.reported_steps else 0.0


def transfer_event(found: Transfer, pairs: Sequence[Pair], *, terms: Mapping[str, Any]) -> dict[str, Any]:
    """The details of the event that records the findings, with the ids of all runs that they rest on."""
    runs = [run.run_id for pair in pairs for run in (pair.baseline, pair.head, pair.head_at_steps) if run is not None]
    return {**terms, **found.to_json(), "runs": list(dict.fromkeys(runs))}
