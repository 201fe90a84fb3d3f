"""Decisions on results, each with its reason in words. Pure functions.

Scores are validation bits per byte (bpb), lower is better. A gain is the head's mean score minus the experiment's. Sigma is the
standard deviation of val_bpb between seeds of one commit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Literal

from research.formatting import one_line
from research.result import RunResult, RunStatus
from results.experiment import ABANDONED, Decision, ExperimentRecord, Head, Verdict
from results.outlines import AnyRun

Rule = Literal["estimate", "greedy"]
"""`estimate` keeps an idea that probably helps, by all runs of the platform; `greedy` keeps any score below the head's own."""

LINE_PRICE = 0.00005
"""The gain in bpb that each net added line must bring (20 lines: 0.001). A removed line lowers the needed gain by as much."""

CONTROL_SIGMAS = 3.0
"""Standard errors that the baseline may move when the software changes; beyond that, old and new scores don't compare."""

NOISY_SIGMAS = 3.0
"""Standard errors that the baseline's seeds may differ by; beyond that, something is wrong with the machine."""

EQUAL_SHARE = 1e-7
"""Relative difference of val_bpb below which two runs are suspiciously equal: float32 sums over one model differ by as much.
Scores of different seeds differ by a few thousandths, so this happens by chance once in ten thousand pairs."""

PRIOR_RUNS, SCALED_PRIOR_RUNS = 5, 4
"""Degrees of freedom that the profile's prior sigma counts as, against measured replicates; fewer under another budget."""

BUDGET_POWER = 0.6
"""Sigma is proportional to budget ** -BUDGET_POWER below the profile's budget. Two seeds of one program under the standard
profile had a standard deviation of 0.0012 at 120 s (three pairs) and 0.0025 at 40 s (two pairs), and the prior is 0.0007 at
300 s: both give a power of 0.6."""


@dataclass(frozen=True, kw_only=True)
class NoisePrior:
    """The noise that is expected before anything is measured."""

    sigma: float
    """Standard deviation of val_bpb between seeds of one commit."""
    runs: int = PRIOR_RUNS
    """Degrees of freedom that it counts as, against measured replicates."""


def noise_prior(sigma: float, *, measured_at: float, budget: float) -> NoisePrior:
    """The prior for runs of `budget` seconds, from a profile's `sigma` for runs of `measured_at` seconds.

    Shorter runs are noisier. How much less noisy longer ones are is unknown, so they keep `sigma`.
    """
    if budget == measured_at:
        return NoisePrior(sigma=sigma)
    return NoisePrior(sigma=sigma * max(1.0, measured_at / budget) ** BUDGET_POWER, runs=SCALED_PRIOR_RUNS)


def greedy_verdict(runs: Sequence[RunResult], head: Head) -> Verdict:
    """The verdict on an idea by the greedy rule: kept if its mean score is below the head's own.

    Lost runs are left out; a failed one decides alone. Raises ValueError without a run.
    """
    failed = failure(runs)
    if failed is not None:
        return failed
    score = _mean(scores_of(runs))
    gain = head.mean - score
    reason = f"val_bpb {score:.4f} against the head's {head.mean:.4f}: {gain_in_words(gain)}; the greedy rule keeps any gain"
    return Verdict(decision="keep" if gain > 0 else "discard", reason=reason + and_(too_equal(runs)), gain=gain, needed=0.0)


def kept_by_hand(verdict: Verdict) -> Verdict:
    """The verdict on a commit that a person has put on the branch: kept if it has a score, whatever the rule says of it."""
    if verdict.decision == "keep":
        return replace(verdict, reason=f"kept by hand, and by the rule: {verdict.reason}")
    if verdict.decision != "discard":
        return verdict
    return replace(verdict, decision="keep", reason=f"kept by hand, where the rule would discard it: {verdict.reason}")


def abandoned_by_a_person() -> Verdict:
    """The verdict on an experiment that was interrupted and that nobody wants to finish."""
    return Verdict(decision="lost", reason=ABANDONED)


def no_longer_wanted() -> Verdict:
    """The verdict on a merge that was cut off before it had a score, and that has lost its purpose since."""
    return Verdict(decision="lost", reason="not run: what it was to put together is no longer wanted")


def baseline_verdict(runs: Sequence[RunResult], prior: NoisePrior) -> Verdict:
    """The verdict on a branch's first commit: kept if it runs.

    The reason warns of seeds that differ far more than `prior` expects. Raises ValueError without a run.
    """
    failed = failure(runs)
    if failed is not None:
        return failed
    scores = scores_of(runs)
    words = f"baseline: val_bpb {_mean(scores):.4f}" + (f", the mean of {len(scores)} runs" if len(scores) > 1 else "")
    return Verdict(decision="keep", reason=words + and_(too_different(scores, prior.sigma)) + and_(too_equal(runs)))


def too_different(scores: Sequence[float], sigma: float) -> str:
    """A remark on scores of one commit that differ by far more than chance; empty if they don't.

    Two may differ by NOISY_SIGMAS of their difference, and the largest of more differences by as much more as chance has it.
    """
    pairs = math.comb(len(scores), 2)
    if not pairs:
        return ""
    spread, tail = max(scores) - min(scores), NormalDist().cdf(-NOISY_SIGMAS)
    if spread <= -NormalDist().inv_cdf(tail / pairs) * math.sqrt(2) * sigma:
        return ""
    return f"its seeds differ by {figure(spread)}, far more than sigma ({figure(sigma)}): is the machine busy?"


def control_verdict(runs: Sequence[RunResult], baseline: ExperimentRecord, sigma: float) -> Verdict:
    """The verdict on the baseline run again: always a discard, whose reason says whether earlier scores still compare.

    Raises ValueError without a run.
    """
    failed = failure(runs)
    if failed is not None or baseline.val_bpb is None:
        return failed or Verdict(decision="discard", reason="control: the baseline has no score to compare with")
    score = _mean(scores_of(runs))
    moved = score - baseline.val_bpb
    sd = sigma * math.sqrt(1 / len(scores_of(runs)) + 1 / len(scores_of(baseline.runs)))
    sigmas = abs(moved) / sd
    direction = "above" if moved > 0 else "below"
    words = (
        f"control: the baseline now scores {score:.4f}, {figure(abs(moved))} {direction} its earlier {baseline.val_bpb:.4f} "
        f"({sigmas:.1f} standard errors); "
    )
    words += "scores still compare" if sigmas <= CONTROL_SIGMAS else "earlier scores no longer compare: start a new --tag"
    words += and_(too_equal([*runs, *baseline.runs]))
    return Verdict(decision="discard", reason=words, gain=-moved, sigma=sigma, expected_sd=sd)


def too_equal(runs: Sequence[AnyRun]) -> str:
    """A remark on two runs of one commit that score the same under different seeds; empty if there are none.

    It proves nothing, since a model that does not learn scores the same under every seed, and so it decides nothing.
    """
    scored = [(run, run.val_bpb) for run in runs if run.status == "ok" and run.val_bpb is not None]
    for (first, a), (second, b) in combinations(scored, 2):
        if first.seed != second.seed and abs(a - b) <= EQUAL_SHARE * abs(a):
            return f"suspicious: {first.run_id} and {second.run_id} score the same under seeds {first.seed} and {second.seed}"
    return ""


def software_changes(records: Sequence[ExperimentRecord]) -> str:
    """How the last run's software differs from the baseline's, as `torch 2.11 -> 2.12`.

    Empty if the baseline or a control was measured with the same software.
    """
    measured = [
        (record.experiment.kind in ("baseline", "control"), run.software)
        for record in records
        for run in record.runs
        if run.status != "lost" and run.software
    ]
    if not measured:
        return ""
    baselines = [software for is_baseline, software in measured if is_baseline]
    now = measured[-1][1]
    if not baselines or now in baselines:
        return ""
    before = baselines[-1]
    return ", ".join(f"{name} {before.get(name, 'none')} -> {now[name]}" for name in now if now[name] != before.get(name))


def and_(remark: str) -> str:
    """A remark as the continuation of a sentence; empty without one."""
    return f"; {remark}" if remark else ""


def failure(runs: Sequence[RunResult]) -> Verdict | None:
    """The verdict on runs without a score; None if there is one. Raises ValueError without a run."""
    if not runs:
        raise ValueError("no run to decide on")
    charged = [run for run in runs if run.status != "lost"]
    deciding = next((run for run in charged if run.status == "invalid"), (charged or runs)[-1])
    if deciding.status == "ok" and deciding.val_bpb is not None:
        return None
    reason = one_line(deciding.reason) or "no reason was given"
    return Verdict(decision=_DECISIONS.get(deciding.status, "crash"), reason=f"{deciding.status}: {reason}")


_DECISIONS: Mapping[RunStatus, Decision] = {"invalid": "invalid", "lost": "lost"}
"""Every other status without a score is a crash."""


def gain_in_words(gain: float) -> str:
    """A gain or a loss in bpb, such as `gained 0.0012`."""
    return f"{'gained' if gain > 0 else 'lost'} {figure(abs(gain))}" if gain else "no gain"


def figure(value: float) -> str:
    """A bpb figure with four decimals, or five if four would blur it."""
    return f"{value:.4f}" if value >= 0.00095 else f"{value:.5f}".removesuffix("0")


def scores_of(runs: Sequence[RunResult]) -> list[float]:
    """The val_bpb of the runs that ended well."""
    return [run.val_bpb for run in runs if run.status == "ok" and run.val_bpb is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
