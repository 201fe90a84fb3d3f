"""Decisions on results. Pure: what goes in decides what comes out, and the reason is always said in words.

Scores are validation bits per byte (bpb), lower is better. A gain is the head's mean score less the experiment's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from research.result import RunResult, RunStatus
from results.experiment import Decision, ExperimentRecord, Head, Verdict

Rule = Literal["noise", "greedy"]
"""`noise` asks for more than chance gives, and charges for complexity; `greedy` keeps whatever scores lower."""

LINE_PRICE = 0.00005
"""bpb that a net added line has to earn: 0.001 for 20 hacky lines isn't worth it. A removed line earns as much."""

MEMORY_CAP = 1.5
"""Times the head's peak memory that a keep may take."""

SLACK_SIGMAS = 0.5
"""However much simpler the code, a keep may score at most this much worse than the head."""

CONTROL_SIGMAS = 3.0
"""How far the baseline may score from before until scores on both sides of a change of software don't compare."""

NOISY_SIGMAS = 3.0
"""How far the baseline's seeds may lie apart, in sigmas of a difference, until something is wrong with the machine."""

EQUAL_SHARE = 1e-7
"""Two runs whose val_bpb differ by less than this share are too equal: float32 sums of the same model differ by as much. Seeds
differ by some thousandths, so that chance does this once in ten thousand pairs."""

PRIOR_RUNS, SCALED_PRIOR_RUNS = 10, 2
"""How many degrees of freedom the profile's prior sigma is worth against measured replicates; less under another budget."""

BUDGET_POWER = 0.6
"""Noise grows with this power of how much shorter a budget is. Two seeds of one program under the standard profile differed
with a standard deviation of 0.0012 at 120 s (three pairs) and 0.0025 at 40 s (two pairs), where the prior is 0.0007 at 300 s:
both are powers of 0.6."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What chance does to a score."""

    sigma: float
    """Standard deviation of val_bpb between seeds of one commit."""
    replicates: int = 0
    """Degrees of freedom measured so far; 0: the profile's prior alone."""


@dataclass(frozen=True, kw_only=True)
class NoisePrior:
    """What chance is expected to do before anything was measured."""

    sigma: float
    runs: int = PRIOR_RUNS
    """Degrees of freedom that it is worth against measured replicates."""


def noise_prior(sigma: float, *, measured_at: float, budget: float) -> NoisePrior:
    """The prior of runs of `budget` seconds from a profile's `sigma`, which is of runs of `measured_at` seconds.

    Shorter runs are noisier; of longer ones it isn't known how much less noisy they are.
    """
    if budget == measured_at:
        return NoisePrior(sigma=sigma)
    return NoisePrior(sigma=sigma * max(1.0, measured_at / budget) ** BUDGET_POWER, runs=SCALED_PRIOR_RUNS)


def estimate_noise(prior: NoisePrior, replicates: Sequence[Sequence[float]]) -> Noise:
    """Pools the prior with groups of scores, each of one commit under several seeds.

    The variance is the mean of both, each weighted by its degrees of freedom (a scaled inverse chi-squared prior): with few
    replicates it stays near the prior, with many it follows them. Raises ValueError for a prior that is not positive.
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
    """The gain in bpb that a keep has to exceed; below 0 for code that is enough simpler."""
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

    Lost runs say nothing and are left out. Of the others one that broke the rules decides, else the latest one if it
    failed. `net_lines` is lines added less lines removed; `memory_cap` is in times the head's peak memory (None: no
    cap). Raises ValueError without a run.
    """
    failed = _failure(runs)
    if failed is not None:
        return failed
    score = _mean(_scores(runs))
    gain = head.mean - score
    needed = needed_gain(noise, net_lines, rule=rule)
    decision: Decision = "keep" if gain > needed else "discard"
    reason = _reason(score, head.mean, gain, needed, noise, net_lines, rule)
    too_much = _memory_excess(runs, head, memory_cap)
    if decision == "keep" and too_much:
        decision, reason = "discard", f"{reason}; but {too_much}"
    reason += _and(too_equal(runs))
    return Verdict(decision=decision, reason=reason, gain=gain, needed=needed, sigma=noise.sigma)


def baseline_verdict(runs: Sequence[RunResult], prior: NoisePrior) -> Verdict:
    """The verdict on a branch's first commit: kept when it runs at all; seeds that differ by far more than `prior` expects are
    remarked on. Raises ValueError without a run.
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
            f"; its seeds differ by {_figure(spread)}, far more than they should (sigma {_figure(prior.sigma)}): is the "
            f"machine busy? What is kept has to gain {_figure(noise)} now"
        )
    return Verdict(decision="keep", reason=words + _and(too_equal(runs)))


def control_verdict(runs: Sequence[RunResult], baseline: ExperimentRecord, noise: Noise) -> Verdict:
    """The verdict on the baseline run once more: never kept, but it says whether scores of before still compare.

    Raises ValueError without a run.
    """
    failed = _failure(runs)
    if failed is not None or baseline.val_bpb is None:
        return failed or Verdict(decision="discard", reason="control: the baseline has no score to compare with")
    score = _mean(_scores(runs))
    moved = score - baseline.val_bpb
    sigmas = abs(moved) / (noise.sigma * math.sqrt(1 / len(_scores(runs)) + 1 / len(_scores(baseline.runs))))
    words = f"control: the baseline scores {score:.4f} now, {_figure(abs(moved))} {'above' if moved > 0 else 'below'} before"
    if sigmas > CONTROL_SIGMAS:
        words += f" ({sigmas:.1f} sigma): scores of before don't compare any more, go on with another --tag"
    else:
        words += f" ({sigmas:.1f} sigma): scores still compare"
    words += _and(too_equal([*runs, *baseline.runs]))
    return Verdict(decision="discard", reason=words, gain=-moved, sigma=noise.sigma)


def too_equal(runs: Sequence[RunResult]) -> str:
    """Names two runs of one commit whose seeds differ and whose scores don't; empty where there are none.

    It is no proof: a model that did not learn at all scores the same under every seed. So it is said, and decides nothing.
    """
    scored = [(run, run.val_bpb) for run in runs if run.status == "ok" and run.val_bpb is not None]
    for (first, a), (second, b) in combinations(scored, 2):
        if first.seed != second.seed and abs(a - b) <= EQUAL_SHARE * abs(a):
            return f"suspicious: {first.run_id} and {second.run_id} score the same under seeds {first.seed} and {second.seed}"
    return ""


def software_changes(records: Sequence[ExperimentRecord]) -> str:
    """How the software of the last run differs from the baseline's, as `torch 2.11 -> 2.12`.

    Empty where the baseline was measured with the same, before or since.
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


def _and(remark: str) -> str:
    return f"; {remark}" if remark else ""


def _failure(runs: Sequence[RunResult]) -> Verdict | None:
    """The verdict where the runs give no score to judge."""
    if not runs:
        raise ValueError("no run to decide on")
    charged = [run for run in runs if run.status != "lost"]
    deciding = next((run for run in charged if run.status == "invalid"), (charged or runs)[-1])
    if deciding.status == "ok" and deciding.val_bpb is not None:
        return None
    reason = " ".join(deciding.reason.split()) or "no reason was given"
    return Verdict(decision=_DECISIONS.get(deciding.status, "crash"), reason=f"{deciding.status}: {reason}")


_DECISIONS: Mapping[RunStatus, Decision] = {"invalid": "invalid", "lost": "lost"}
"""Every other status without a score is a crash."""


def _memory_excess(runs: Sequence[RunResult], head: Head, cap: float | None) -> str:
    """Says how far over the cap the runs' memory is; empty within it or where it wasn't measured."""
    peaks = [run.peak_memory_mb for run in runs if run.status == "ok" and run.peak_memory_mb is not None]
    if cap is None or not peaks or not head.peak_memory_mb or max(peaks) <= cap * head.peak_memory_mb:
        return ""
    times = max(peaks) / head.peak_memory_mb
    return f"its {max(peaks):.0f} MiB are {times:.2f} times the head's {head.peak_memory_mb:.0f}: the cap is {cap:g}"


def _reason(score: float, head: float, gain: float, needed: float, noise: Noise, net_lines: int, rule: Rule) -> str:
    distance = "equal to" if gain == 0 else f"{_figure(abs(gain))} {'below' if gain > 0 else 'above'}"
    result = f"val_bpb {score:.4f}, {distance} the head's {head:.4f}"
    if rule == "greedy":
        return f"{result}: {'lower' if gain > 0 else 'not lower'}, and the rule is greedy"
    lines = f", {net_lines:+d} line{'' if abs(net_lines) == 1 else 's'}" if net_lines else ""
    why = f"(noise {_figure(noise.sigma)}{lines})"
    if needed < 0:
        within = "within" if gain > needed else "not within"
        return f"{result}: {within} the {_figure(-needed)} that simpler code may lose {why}"
    if gain <= 0:
        return f"{result}: it had to gain {_figure(needed)} {why}"
    return f"{result}: {'more' if gain > needed else 'not more'} than the {_figure(needed)} that it had to gain {why}"


def _figure(value: float) -> str:
    """Four decimals; five for what four would blur."""
    return f"{value:.4f}" if value >= 0.00095 else f"{value:.5f}".removesuffix("0")


def _scores(runs: Sequence[RunResult]) -> list[float]:
    return [run.val_bpb for run in runs if run.status == "ok" and run.val_bpb is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
