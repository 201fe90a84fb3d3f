"""Decisions on results, each with its reason in words. Pure functions.

Scores are validation bits per byte (bpb), lower is better. A gain is the head's mean score minus the experiment's. Sigma is the
standard deviation of val_bpb between seeds of one commit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from research.result import RunResult, RunStatus
from research.text import counted, one_line
from results.experiment import Decision, ExperimentRecord, Head, Verdict

Rule = Literal["noise", "greedy"]
"""`noise` keeps a gain of more than one sigma plus the price of the lines that it adds; `greedy` keeps any gain."""

LINE_PRICE = 0.00005
"""The gain in bpb that each net added line must bring (20 lines: 0.001). A removed line lowers the needed gain by as much."""

MEMORY_CAP = 1.5
"""The most peak memory that a keep may take, in multiples of the head's."""

SLACK_SIGMAS = 0.5
"""The most that a keep may lose against the head, in sigmas, however much simpler its code is."""

CONTROL_SIGMAS = 3.0
"""Standard errors that the baseline may move when the software changes; beyond that, old and new scores don't compare."""

NOISY_SIGMAS = 3.0
"""Standard errors that the baseline's seeds may differ by; beyond that, something is wrong with the machine."""

EQUAL_SHARE = 1e-7
"""Relative difference of val_bpb below which two runs are suspiciously equal: float32 sums over one model differ by as much.
Scores of different seeds differ by a few thousandths, so this happens by chance once in ten thousand pairs."""

PRIOR_RUNS, SCALED_PRIOR_RUNS = 10, 2
"""Degrees of freedom that the profile's prior sigma counts as, against measured replicates; fewer under another budget."""

BUDGET_POWER = 0.6
"""Sigma is proportional to budget ** -BUDGET_POWER below the profile's budget. Two seeds of one program under the standard
profile had a standard deviation of 0.0012 at 120 s (three pairs) and 0.0025 at 40 s (two pairs), and the prior is 0.0007 at
300 s: both give a power of 0.6."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The measured noise of a score."""

    sigma: float
    """Standard deviation of val_bpb between seeds of one commit."""
    replicates: int = 0
    """Degrees of freedom measured so far; 0 means that sigma is the profile's prior."""


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


def estimate_noise(prior: NoisePrior, replicates: Sequence[Sequence[float]]) -> Noise:
    """Pools the prior with groups of scores, each group from one commit under several seeds.

    The variance is the mean of both, weighted by degrees of freedom (a scaled inverse chi-squared prior): with few replicates
    it stays near the prior, with many it follows them. Raises ValueError for a prior that is not positive.
    """
    if not prior.sigma > 0:
        raise ValueError(f"the prior sigma must be positive, not {prior.sigma}")
    freedom = sum(len(scores) - 1 for scores in replicates if scores)
    squares = sum((score - _mean(scores)) ** 2 for scores in replicates for score in scores)
    variance = (prior.runs * prior.sigma**2 + squares) / (prior.runs + freedom)
    return Noise(sigma=math.sqrt(variance), replicates=freedom)


def replicates_among(records: Sequence[ExperimentRecord]) -> list[list[float]]:
    """The scores of each experiment that has run under several seeds."""
    return [scores for record in records if len(scores := _scores(record.runs)) > 1]


def needed_gain(noise: Noise, net_lines: int, *, rule: Rule = "noise") -> float:
    """The gain in bpb that a keep must exceed; below 0 for code that is simpler by enough lines."""
    if rule == "greedy":
        return 0.0
    return max(noise.sigma + LINE_PRICE * net_lines, -SLACK_SIGMAS * noise.sigma)


def keep_threshold(head: Head, noise: Noise, net_lines: int, *, rule: Rule = "noise") -> float:
    """The val_bpb below which an experiment is kept."""
    return head.mean - needed_gain(noise, net_lines, rule=rule)


def decide(
    runs: Sequence[RunResult],
    head: Head,
    noise: Noise,
    *,
    net_lines: int = 0,
    memory_cap: float | None = MEMORY_CAP,
    rule: Rule = "noise",
) -> Verdict:
    """The verdict on an experiment's runs against the head that it was tried on.

    Lost runs are no evidence and are left out. An invalid run decides alone; so does the latest run if it failed. `net_lines`
    is lines added minus lines removed; `memory_cap` is in multiples of the head's peak memory (None: no cap). Raises
    ValueError without a run.
    """
    failed = _failure(runs)
    if failed is not None:
        return failed
    score = _mean(_scores(runs))
    gain = head.mean - score
    needed = needed_gain(noise, net_lines, rule=rule)
    decision: Decision = "keep" if gain > needed else "discard"
    reason = _reason(score, head.mean, needed, noise, net_lines, rule)
    too_much = _memory_excess(runs, head, memory_cap)
    if decision == "keep" and too_much:
        decision, reason = "discard", f"{reason}; but {too_much}"
    reason += _and(too_equal(runs))
    return Verdict(decision=decision, reason=reason, gain=gain, needed=needed, sigma=noise.sigma)


def kept_by_hand(verdict: Verdict) -> Verdict:
    """The verdict on a commit that a person has put on the branch: kept if it has a score, whatever the rule says of it."""
    if verdict.decision == "keep":
        return replace(verdict, reason=f"kept by hand, and by the rule: {verdict.reason}")
    if verdict.decision != "discard":
        return verdict
    return replace(verdict, decision="keep", reason=f"kept by hand, where the rule would discard it: {verdict.reason}")


def abandoned_by_a_person() -> Verdict:
    """The verdict on an experiment that was interrupted and that nobody wants to finish."""
    return Verdict(decision="lost", reason="abandoned by a person")


def near_misses(records: Iterable[ExperimentRecord]) -> list[ExperimentRecord]:
    """The near-misses among the records, those that came closest to being kept first. The view `near_misses` is the same."""
    return sorted(filter(is_near_miss, records), key=_share_of_needed_gain, reverse=True)


def is_near_miss(record: ExperimentRecord) -> bool:
    """Whether an experiment was discarded with a gain, though not enough of one to be kept."""
    verdict = record.verdict
    if verdict is None or verdict.decision != "discard" or verdict.gain is None or verdict.needed is None:
        return False
    return 0 < verdict.gain <= verdict.needed


def baseline_verdict(runs: Sequence[RunResult], prior: NoisePrior) -> Verdict:
    """The verdict on a branch's first commit: kept if it runs.

    The reason warns of seeds that differ far more than `prior` expects. Raises ValueError without a run.
    """
    failed = _failure(runs)
    if failed is not None:
        return failed
    scores = _scores(runs)
    words = f"baseline: val_bpb {_mean(scores):.4f}" + (f", the mean of {len(scores)} runs" if len(scores) > 1 else "")
    spread = max(scores) - min(scores)
    if spread > NOISY_SIGMAS * math.sqrt(2) * prior.sigma:
        noise = estimate_noise(prior, [scores]).sigma
        words += (
            f"; its seeds differ by {_figure(spread)}, far more than expected (sigma {_figure(prior.sigma)}): is the machine "
            f"busy? From now on a keep must gain {_figure(noise)}"
        )
    return Verdict(decision="keep", reason=words + _and(too_equal(runs)))


def control_verdict(runs: Sequence[RunResult], baseline: ExperimentRecord, noise: Noise) -> Verdict:
    """The verdict on the baseline run again: always a discard, whose reason says whether earlier scores still compare.

    Raises ValueError without a run.
    """
    failed = _failure(runs)
    if failed is not None or baseline.val_bpb is None:
        return failed or Verdict(decision="discard", reason="control: the baseline has no score to compare with")
    score = _mean(_scores(runs))
    moved = score - baseline.val_bpb
    sigmas = abs(moved) / (noise.sigma * math.sqrt(1 / len(_scores(runs)) + 1 / len(_scores(baseline.runs))))
    direction = "above" if moved > 0 else "below"
    words = (
        f"control: the baseline now scores {score:.4f}, {_figure(abs(moved))} {direction} its earlier {baseline.val_bpb:.4f} "
        f"({sigmas:.1f} standard errors); "
    )
    words += "scores still compare" if sigmas <= CONTROL_SIGMAS else "earlier scores no longer compare: start a new --tag"
    words += _and(too_equal([*runs, *baseline.runs]))
    return Verdict(decision="discard", reason=words, gain=-moved, sigma=noise.sigma)


def too_equal(runs: Sequence[RunResult]) -> str:
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


def _share_of_needed_gain(record: ExperimentRecord) -> float:
    """How close a near-miss came to being kept, above 0 and at most 1."""
    verdict = record.verdict
    assert verdict is not None and verdict.gain is not None and verdict.needed is not None, "only for near-misses"
    return verdict.gain / verdict.needed


def _and(remark: str) -> str:
    return f"; {remark}" if remark else ""


def _failure(runs: Sequence[RunResult]) -> Verdict | None:
    """The verdict on runs without a score; None if there is one."""
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


def _memory_excess(runs: Sequence[RunResult], head: Head, cap: float | None) -> str:
    """How far the runs' memory exceeds the cap, in words; empty within it, or if it wasn't measured."""
    peaks = [run.peak_memory_mb for run in runs if run.status == "ok" and run.peak_memory_mb is not None]
    if cap is None or not peaks or not head.peak_memory_mb or max(peaks) <= cap * head.peak_memory_mb:
        return ""
    times = max(peaks) / head.peak_memory_mb
    return f"it takes {max(peaks):.0f} MiB, {times:.2f} times the head's {head.peak_memory_mb:.0f}: the cap is {cap:g} times"


def _reason(score: float, head: float, needed: float, noise: Noise, net_lines: int, rule: Rule) -> str:
    """Score, gain or loss, and how that compares with the needed gain."""
    gain = head - score
    result = f"val_bpb {score:.4f} against the head's {head:.4f}: {_gain_in_words(gain)}"
    if rule == "greedy":
        return f"{result}; the greedy rule keeps any gain"
    lines = f", {'-' if net_lines < 0 else '+'}{counted(abs(net_lines), 'line')}" if net_lines else ""
    why = f"(sigma {_figure(noise.sigma)}{lines})"
    if needed < 0:
        verb = "may lose" if gain > needed else "may lose no more than"
        return f"{result}; simpler code {verb} {_figure(-needed)} {why}"
    if gain <= 0:
        return f"{result}; a gain of {_figure(needed)} was needed {why}"
    comparison = "more" if gain > needed else "less" if gain < needed else "no more"
    return f"{result}, {comparison} than the {_figure(needed)} needed {why}"


def _gain_in_words(gain: float) -> str:
    return f"{'gained' if gain > 0 else 'lost'} {_figure(abs(gain))}" if gain else "no gain"


def _figure(value: float) -> str:
    """A bpb figure with four decimals, or five if four would blur it."""
    return f"{value:.4f}" if value >= 0.00095 else f"{value:.5f}".removesuffix("0")


def _scores(runs: Sequence[RunResult]) -> list[float]:
    return [run.val_bpb for run in runs if run.status == "ok" and run.val_bpb is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
