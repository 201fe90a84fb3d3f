"""What fresh seeds say of a train.py: its scores against the untouched train.py's under the same seeds. Pure functions.

They are light to import: only an interval needs SciPy.

The seeds have decided nothing before, so the difference is not selected: it is the one to believe in a report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from research.formatting import counted
from research.result import RunResult
from results.experiment import ExperimentRecord, Verdict
from results.group_history import GroupHistory, is_baseline, is_keep, scores_in
from results.head_gain import interval_text
from results.machine_shares import unequal_sides
from results.verdict import and_, failure, figure, scores_of, too_different, too_equal

LEVEL = 0.95
"""The confidence level of Welch's interval."""

TOO_FEW = "too few seeds to tell"
"""What is said where the interval holds 0 and is wider than the gain that was estimated."""

FEWEST_SEEDS = 2
"""One score says nothing of the noise, without which there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much lower a train.py scores than the untouched one, in bpb."""

    gain: float
    low: float
    high: float
    """The ends of its interval: Welch's at LEVEL for fresh seeds, of 90% for an estimate."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What fresh seeds say of an experiment's gain."""

    experiment: ExperimentRecord
    """The confirmation of what was tried; its parent is the experiment that made it."""
    found: Difference
    seeds: int
    """Runs with a score on the side that has fewer of them."""


def confirmation_of(group: GroupHistory, commit: str) -> Confirmation | None:
    """The latest confirmation of the program at a commit, under whatever commit it ran; None if none has an interval.

    One that is under way, was interrupted or was abandoned says nothing: its gain would be that of some of its seeds.
    """
    ended = [record for record in group.chosen(lambda one: one.experiment.kind == "confirm") if _has_ended(record)]
    if not ended:
        return None
    programs = {one.experiment.commit: one.experiment.program for one in group.outlines if one.experiment.program}
    baselines = {one.experiment.commit for one in group.outlines if is_keep(one) and is_baseline(one)}
    code, untouched = programs.get(commit, commit), {programs.get(baseline, baseline) for baseline in baselines}
    codes = [programs.get(record.experiment.commit, record.experiment.commit) for record in ended]
    if code in untouched:
        return None
    baselines_again = [record for record, its in zip(ended, codes, strict=True) if its in untouched]
    for record in reversed([record for record, its in zip(ended, codes, strict=True) if its == code]):
        for baseline in (other for other in baselines_again if have_seeds_in_common(record, other)):
            scores = scores_in(record), scores_in(baseline)
            found = difference(*scores)
            if found is not None:
                return Confirmation(experiment=record, found=found, seeds=min(map(len, scores)))
    return None


def have_seeds_in_common(one: ExperimentRecord, other: ExperimentRecord) -> bool:
    """Whether two experiments ran under the same seeds: the two sides of one confirmation do, and no others."""
    return not {run.seed for run in one.runs}.isdisjoint(run.seed for run in other.runs)


def _has_ended(record: ExperimentRecord) -> bool:
    """Whether all seeds of a side of a confirmation have run."""
    return record.verdict is not None and record.verdict.decision != "lost"


def in_words(found: Confirmation) -> str:
    """The gain under fresh seeds, with its interval."""
    gain = interval_text(found.found.gain, found.found.low, found.found.high)
    return f"gain {gain} under {counted(found.seeds, 'fresh seed')} (Welch, {LEVEL:.0%})"


def difference(tried: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """The difference of the means with Welch's interval; None if too few runs have a score, or one side's are equal."""
    if min(len(tried), len(baseline)) < FEWEST_SEEDS or min(stdev(tried), stdev(baseline)) == 0.0:
        return None
    from scipy.stats import ttest_ind

    interval = ttest_ind(baseline, tried, equal_var=False).confidence_interval(LEVEL)
    return Difference(gain=fmean(baseline) - fmean(tried), low=float(interval.low), high=float(interval.high))


def confirmation_lines(tried: Sequence[float], baseline: Sequence[float], expected: Difference, *, name: str,
                       sigma: float) -> list[str]:  # fmt: skip
    """Both means, the difference, and what it says of the estimate; `name` is what was confirmed."""
    width = max(len(name), len("baseline"))
    lines = [
        f"{label:<{width}}  {_scores_in_words(scores)}{and_(too_different(scores, sigma))}"
        for label, scores in ((name, tried), ("baseline", baseline))
    ]
    found = difference(tried, baseline)
    if found is None:
        why = (
            "scores of one train.py are all equal"
            if min(len(tried), len(baseline)) >= FEWEST_SEEDS
            else "too few runs have a score"
        )
        return [*lines, f"{'gain':<{width}}  no interval: {why}"]
    return [
        *lines,
        f"{'gain':<{width}}  {_in_words(found)}",
        f"{'estimate':<{width}}  {expected.gain:+.4f} [{expected.low:+.4f}, {expected.high:+.4f}], 90% interval",
        conclusion(found, expected.gain),
    ]


def conclusion(found: Difference, expected: float) -> str:
    """What fresh seeds say of a gain that was estimated: it is confirmed if they certainly show one, and this one."""
    if 0 < found.low <= expected <= found.high:
        return "confirmed: fresh seeds show a gain, and the estimate agrees with them"
    if shows_no_gain(found, expected):
        return f"not confirmed: fresh seeds show {'a loss' if found.high < 0 else 'no gain'}"
    if found.low <= 0:
        return TOO_FEW
    off = f"{'overstates' if expected > found.high else 'understates'} by {figure(abs(expected - found.gain))}"
    return f"not confirmed as estimated: fresh seeds show a gain, which the estimate {off}"


def shows_no_gain(found: Difference, expected: float) -> bool:
    """Whether fresh seeds show a loss, or no gain although they would show one of the size that was estimated."""
    return found.high < 0 or (found.low <= 0 and found.high - found.low <= abs(expected))


def tried_verdict(runs: Sequence[RunResult], baseline: Sequence[RunResult], *, expected: float, sigma: float) -> Verdict:
    """The verdict on a train.py under fresh seeds, which decides nothing. Raises ValueError without a run.

    `expected` is the gain that was estimated, `sigma` the standard deviation between seeds.
    """
    scores = scores_of(runs)
    if not scores:
        return _failed(runs)
    found = difference(scores, scores_of(baseline))
    words = f"confirm: val_bpb {_scores_in_words(scores)}"
    if found is not None:
        words += f"; gain over the baseline {_in_words(found)}: {conclusion(found, expected)}"
    words += and_(unequal_sides({"it": runs, "the baseline": baseline}))
    words += and_(too_different(scores, sigma)) + and_(too_equal(runs))
    return Verdict(decision="discard", reason=words, gain=None if found is None else found.gain)


def baseline_again_verdict(runs: Sequence[RunResult], *, sigma: float) -> Verdict:
    """The verdict on the untouched train.py under fresh seeds, which decides nothing. Raises ValueError without a run."""
    scores = scores_of(runs)
    if not scores:
        return _failed(runs)
    words = f"confirm: val_bpb {_scores_in_words(scores)}" + and_(too_different(scores, sigma)) + and_(too_equal(runs))
    return Verdict(decision="discard", reason=words)


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
