"""Decisions on the experiments of a group by what all of its runs say, each with its reason in words. Pure functions."""

import math
from collections.abc import Iterator, Mapping, Sequence

from research.result import RunResult
from results import policy
from results.experiment import Decision, Experiment, Verdict
from results.group_state import GroupState, IdeaEstimate, estimate_of, seed_of
from results.machine_shares import unusual_share
from results.verdict import and_, failure, figure, gain_in_words, scores_of, too_equal

TOLD_SHARE = 0.01
"""How much more or less of the machine than usual is worth a word."""


def idea_verdict(state: GroupState, experiment: Experiment, runs: Sequence[RunResult]) -> Verdict:
    """The verdict on an idea: kept if it is in the head, or will be once a merge has verified it.

    Lost runs are left out; a failed one decides alone. Raises ValueError without a run.
    """
    failed = failure(runs)
    if failed is not None:
        return failed
    idea = state.idea_of.get(experiment.id)
    found = None if idea is None else estimate_of(state, idea)
    if idea is None or found is None:
        return measurement_verdict(state, experiment, runs)
    farm = state.farm
    others = state.patches_at[experiment.commit] - {idea}
    expected = [policy.expected_score(farm, others, seed_of(experiment, run))[0] for run in runs if run.status == "ok"]
    scores = scores_of(runs)
    gain = (sum(expected) - sum(scores)) / len(scores)
    score, needed = sum(scores) / len(scores), policy.needed_gain(farm, found.price)
    is_kept = idea in policy.kept(farm)
    again = "" if idea == experiment.id else f"the same program as {idea}: "
    words = f"{again}val_bpb {score:.4f} against {score + gain:.4f} expected of the head under its seed: {gain_in_words(gain)}"
    words += _share_in_words(state, runs[-1])
    words += f"; {_effect(found)}{_outcome(state, found, is_kept)}"
    return Verdict(
        decision="keep" if is_kept else "discard",
        reason=words + and_(too_equal(runs)),
        gain=gain,
        needed=needed,
        sigma=farm.posterior.sigma,
        effect=found.effect,
        low=found.low,
        high=found.high,
        helps=found.helps,
    )


def merge_verdict(state: GroupState, experiment: Experiment, runs: Sequence[RunResult]) -> Verdict:
    """The verdict on a head that was put together: kept if it has become the head. Raises ValueError without a run."""
    failed = failure(runs)
    if failed is not None:
        return failed
    patches = state.patches_at[experiment.commit]
    scores = scores_of(runs)
    expected, sd = policy.expected_score(state.farm, patches)
    score = sum(scores) / len(scores)
    is_kept = patches == state.farm.head
    outcome = "verified: all loops go on from it" if is_kept else "worse than its parts promised: it is taken apart"
    words = f"merge: val_bpb {score:.4f}, {expected:.4f} +- {sd:.4f} expected by now; {outcome}"
    return Verdict(
        decision="keep" if is_kept else "discard", reason=words, gain=expected - score, sigma=state.farm.posterior.sigma
    )


def measurement_verdict(state: GroupState, experiment: Experiment, runs: Sequence[RunResult]) -> Verdict:
    """The verdict on a run that decides nothing alone: one of a wave, or a control. Raises ValueError without a run."""
    failed = failure(runs)
    if failed is not None:
        return failed
    scores = scores_of(runs)
    score = sum(scores) / len(scores)
    patches = state.patches_at[experiment.commit]
    expected, sd = policy.expected_score(state.farm, patches)
    away = (score - expected) / sd
    what = "known program" if experiment.kind in ("explore", "manual") else experiment.kind
    words = f"{what}: val_bpb {score:.4f}, {expected:.4f} expected by now ({away:+.1f} standard deviations away)"
    return Verdict(decision="discard", reason=words, gain=expected - score, sigma=state.farm.posterior.sigma)


def flips(state: GroupState, decided: Mapping[str, Decision]) -> Iterator[tuple[str, Verdict]]:
    """The experiments whose ideas later runs decide differently than they were decided, with their new verdicts."""
    kept = policy.kept(state.farm)
    for experiment, idea in state.idea_of.items():
        before = decided.get(experiment)
        now: Decision = "keep" if idea in kept else "discard"
        if before in ("keep", "discard") and before != now:
            yield experiment, _flipped(state, idea, now)


def _flipped(state: GroupState, idea: str, now: Decision) -> Verdict:
    found = estimate_of(state, idea)
    assert found is not None, "only for ideas with a score"
    what = "kept after all" if now == "keep" else f"dropped: {_why_dropped(state, found)}"
    return Verdict(
        decision=now,
        reason=f"{what}; {_effect(found)}{_outcome(state, found, now == 'keep')}",
        sigma=state.farm.posterior.sigma,
        effect=found.effect,
        low=found.low,
        high=found.high,
        helps=found.helps,
    )


def _why_dropped(state: GroupState, found: IdeaEstimate) -> str:
    farm = state.farm
    if found.idea in farm.barred:
        return "it failed in a merge, doesn't fit the head, or a person dropped it"
    beside = [name for name in policy.rivals(farm, state.ideas[found.idea], farm.head)]
    if beside:
        return f"{' and '.join(sorted(beside))} changes the same thing and is better"
    return "it probably doesn't help any more" if farm.posterior.knows(found.idea) else "it was forgotten"


def _share_in_words(state: GroupState, run: RunResult) -> str:
    """A remark on a run that had an unusual share of the machine, and so says less; empty for others."""
    share = math.exp(unusual_share(run, state.shares)) - 1
    if abs(share) < TOLD_SHARE:
        return ""
    return f" with {abs(share):.0%} {'more' if share > 0 else 'less'} of the machine than usual, so that it says less"


def _effect(found: IdeaEstimate) -> str:
    price = f" above its price of {figure(found.price)}" if found.price > 0 else ""
    if found.price < 0:
        price = f" or costs less than the {figure(-found.price)} that simpler code may"
    return f"effect {found.effect:+.4f} [{found.low:+.4f}, {found.high:+.4f}], helps{price} with probability {found.helps:.2f}"


def _outcome(state: GroupState, found: IdeaEstimate, is_kept: bool) -> str:
    if not is_kept:
        return "" if found.helps >= state.farm.rules.keep else f", {state.farm.rules.keep:.2f} needed"
    return "" if found.in_head else "; a merge will verify it"
