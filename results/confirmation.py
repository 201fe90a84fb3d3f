"""What fresh seeds say of a train.py: its scores against the untouched train.py's under the same seeds. Pure functions.

The seeds have decided nothing before, so the difference is not selected: it is the one to believe in a report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from research.formatting import counted
from research.result import RunResult
from results.experiment import Verdict
from results.verdict import and_, failure, figure, scores_of, too_equal

LEVEL = 0.95
"""The confidence level of Welch's interval."""

FEWEST_SEEDS = 2
"""One score says nothing of the noise, without which there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much lower a train.py scores than the untouched one, in bpb."""

    gain: float
    low: float
    high: float
    """The ends of its interval: Welch's at LEVEL for fresh seeds, of 90% for an estimate."""


def difference(tried: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """The difference of the means with Welch's interval; None if too few runs have a score, or one side's are equal."""
    if min(len(tried), len(baseline)) < FEWEST_SEEDS or min(stdev(tried), stdev(baseline)) == 0.0:
        return None
    from scipy.stats import ttest_ind

    interval = ttest_ind(baseline, tried, equal_var=False).confidence_interval(LEVEL)
    return Difference(gain=fmean(baseline) - fmean(tried), low=float(interval.low), high=float(interval.high))


def confirmation_lines(tried: Sequence[float], baseline: Sequence[float], expected: Difference, *, name: str) -> list[str]:
    """Both means, the difference, and how it compares with the estimate; `name` is what was confirmed."""
    width = max(len(name), len("baseline"))
    lines = [f"{label:<{width}}  {_scores_in_words(scores)}" for label, scores in ((name, tried), ("baseline", baseline))]
    found = difference(tried, baseline)
    if found is None:
        why = (
            "scores of one train.py are all equal"
            if min(len(tried), len(baseline)) >= FEWEST_SEEDS
            else "too few runs have a score"
        )
        return [*lines, f"{'gain':<{width}}  no interval: {why}"]
    estimated = f"{expected.gain:+.4f} [{expected.low:+.4f}, {expected.high:+.4f}], 90% interval"
    return [
        *lines,
        f"{'gain':<{width}}  {_in_words(found)}",
        f"{'estimate':<{width}}  {estimated}: {compared(found, expected)}",
    ]


def compared(found: Difference, expected: Difference) -> str:
    """How an estimate compares with what fresh seeds say."""
    if expected.gain > found.high:
        return f"it overstates the gain by {figure(expected.gain - found.gain)}"
    if expected.gain < found.low:
        return f"it understates the gain by {figure(found.gain - expected.gain)}"
    return "it agrees with the fresh seeds"


def tried_verdict(runs: Sequence[RunResult], baseline: Sequence[RunResult]) -> Verdict:
    """The verdict on a train.py under fresh seeds, which decides nothing. Raises ValueError without a run."""
    scores = scores_of(runs)
    if not scores:
        return _failed(runs)
    found = difference(scores, scores_of(baseline))
    words = f"confirm: val_bpb {_scores_in_words(scores)}"
    if found is not None:
        words += f"; gain over the baseline {_in_words(found)}"
    return Verdict(decision="discard", reason=words + and_(too_equal(runs)), gain=None if found is None else found.gain)


def baseline_again_verdict(runs: Sequence[RunResult]) -> Verdict:
    """The verdict on the untouched train.py under fresh seeds, which decides nothing. Raises ValueError without a run."""
    scores = scores_of(runs)
    if not scores:
        return _failed(runs)
    return Verdict(decision="discard", reason=f"confirm: val_bpb {_scores_in_words(scores)}" + and_(too_equal(runs)))


def _failed(runs: Sequence[RunResult]) -> Verdict:
    verdict = failure(runs)
    assert verdict is not None, "no run has a score"
    return verdict


def _scores_in_words(scores: Sequence[float]) -> str:
    if not scores:
        return "no score"
    spread = f" +- {stdev(scores) / math.sqrt(len(scores)):.6f}" if len(scores) > 1 else ""
    return f"{fmean(scores):.6f}{spread}, mean of {counted(len(scores), 'fresh seed')}"


def _in_words(found: Difference) -> str:
    return f"{found.gain:+.4f} [{found.low:+.4f}, {found.high:+.4f}], Welch's {LEVEL:.0%} interval"
