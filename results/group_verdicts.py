"""Decisions on the experiments of a group by what all of its runs say, each with its reason in words. Pure functions.

What decides is the estimate from all runs: the probability that an idea helps. The raw score of its own runs, which chance and
the seed move, is told apart from that, since the two may point in different directions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from research.result import RunResult
from results import policy
from results.expected_gain import expected_gain
from results.experiment import IDEAS, Decision, Experiment, ExperimentRecord, Verdict
from results.group_entries import DROPPED_BY_A_PERSON
from results.group_state import (
    GroupState,
    IdeaEstimate,
    estimate_of,
    expected_of_run,
    share_above_first,
    time_price,
    usual_share_above_first,
)
from results.head_gain import interval_text
from results.machine_shares import share_of, told_share
from results.overfitting import ON_VALIDATION_ALONE
from results.policy_state import FarmState
from results.verdict import and_, failure, figure, scores_of, too_equal

NOT_CONFIRMED = "not confirmed: its runs were disturbed"
"""What the verdict says on a merge of which both runs said nothing, since other work had a part of the machine."""

LEAST_PRICE = 0.000005
"""The least price in bpb that is worth a word: less would be told as 0."""


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
    expected = [expected_of_run(state, others, experiment, run) for run in runs if run.status == "ok"]
    scores = scores_of(runs)
    gain = (sum(expected) - sum(scores)) / len(scores)
    score, needed = sum(scores) / len(scores), policy.needed_gain(farm, found.price)
    is_kept = idea in policy.kept(farm)
    again = "" if idea == experiment.id else f"another run of what {idea} tries: "
    decides = _what_decides(state, found, is_kept)
    shares = any(share_above_first(state, share_of(run)) for run in runs)
    under = f"its seed{'' if len(scores) == 1 else 's'}{' and with its share of the machine' if shares else ''}"
    raw = _raw_score(score, gain, scores, of=_compared(farm, idea, others), under=under)
    words = f"{again}{decides}; {_effect(state, found)}; {raw}"
    words += f"{_share_in_words(state, runs)}{_outcome(found, is_kept)}"
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
    expected, sd = expected_of(state, experiment, runs)
    score = sum(scores) / len(scores)
    is_kept = patches == state.farm.head
    remark = _share_in_words(state, runs)
    words = f"merge: the raw score is {score:.4f}{remark}; all runs expect {expected:.4f} of it, +- {sd:.4f} in one; "
    words += _merge_outcome(state, experiment, patches)
    return Verdict(
        decision="keep" if is_kept else "discard",
        reason=words,
        gain=expected - score,
        sigma=state.farm.posterior.sigma,
        expected_sd=sd,
    )


def is_postponed(record: ExperimentRecord) -> bool:
    """Whether an experiment is a merge that said nothing, so that it is to run again."""
    return record.experiment.kind == "merge" and record.verdict is not None and NOT_CONFIRMED in record.verdict.reason


def _merge_outcome(state: GroupState, experiment: Experiment, patches: frozenset[str]) -> str:
    """What follows from the runs of a merge."""
    farm = state.farm
    if patches == farm.doubted:
        return "it is to run again"
    if patches == farm.head:
        dropped = [name for name in experiment.left_out if state.why_ruled.get(name) == DROPPED_BY_A_PERSON]
        if dropped:
            return f"all loops go on from it, since a person dropped {' and '.join(dropped)}"
        return "verified: all loops go on from it"
    if patches == farm.postponed:
        return f"{NOT_CONFIRMED}, and the head stays as it is; it runs again after {farm.rules.merge_pause} more runs"
    return "worse than its parts promised: it is taken apart"


def measurement_verdict(state: GroupState, experiment: Experiment, runs: Sequence[RunResult]) -> Verdict:
    """The verdict on a run that decides nothing alone: one of a wave, or a control. Raises ValueError without a run."""
    failed = failure(runs)
    if failed is not None:
        return failed
    scores = scores_of(runs)
    score = sum(scores) / len(scores)
    expected, sd = expected_of(state, experiment, runs)
    away = (score - expected) / sd
    what = "known program" if experiment.kind in IDEAS else experiment.kind
    told = f"{score:.4f}{_share_in_words(state, runs)}"
    words = f"{what}: the raw score is {told}; all runs expect {expected:.4f} of it ({away:+.1f} standard deviations)"
    sigma = state.farm.posterior.sigma
    return Verdict(decision="discard", reason=words, gain=expected - score, sigma=sigma, expected_sd=sd)


def expected_of(state: GroupState, experiment: Experiment, runs: Sequence[RunResult]) -> tuple[float, float]:
    """The val_bpb that is expected of an experiment's train.py, as it is told of a head but with what these runs had of the
    machine, and a run's standard deviation. The experiment must have run.
    """
    gain, patches = expected_gain(state, experiment.commit), state.patches_at[experiment.commit]
    assert gain is not None, "it has run"
    shares = [share_above_first(state, share_of(run)) for run in runs if run.status == "ok"]
    means, sds = zip(*(policy.expected_score(state.farm, patches, share=share) for share in shares), strict=True)
    usually, _ = policy.expected_score(state.farm, patches, share=usual_share_above_first(state))
    return gain.head + fmean(means) - usually, fmean(sds)


def may_flip(state: GroupState, kept_before: Iterable[str]) -> tuple[str, ...]:
    """The experiments whose decision later runs may have changed: those that were kept, and those that try what is kept now."""
    tries = (experiment for idea in policy.kept(state.farm) for experiment in state.experiments_of.get(idea, ()))
    return tuple(dict.fromkeys([*kept_before, *tries]))


def flips(state: GroupState, decided: Mapping[str, Decision]) -> Iterator[tuple[str, Verdict]]:
    """The experiments whose ideas later runs decide differently than they were decided, with their new verdicts."""
    kept = policy.kept(state.farm)
    known = [experiment for experiment in decided if experiment in state.idea_of]
    for experiment in sorted(known, key=lambda experiment: state.place_of[experiment]):
        before, idea = decided[experiment], state.idea_of[experiment]
        now: Decision = "keep" if idea in kept else "discard"
        if before in ("keep", "discard") and before != now:
            yield experiment, _flipped(state, idea, now)


def _flipped(state: GroupState, idea: str, now: Decision) -> Verdict:
    found = estimate_of(state, idea)
    assert found is not None, "only for ideas with a score"
    what, is_kept = ("kept after all", True) if now == "keep" else ("dropped", False)
    return Verdict(
        decision=now,
        reason=f"{what}: {_what_decides(state, found, is_kept)}; {_effect(state, found)}{_outcome(found, is_kept)}",
        sigma=state.farm.posterior.sigma,
        effect=found.effect,
        low=found.low,
        high=found.high,
        helps=found.helps,
    )


def _what_decides(state: GroupState, found: IdeaEstimate, is_kept: bool) -> str:
    """The probability that an idea helps beside the one that it needs, and what else decides if that doesn't alone."""
    rules, farm = state.farm.rules, state.farm
    least = rules.drop if found.in_head and found.helps < rules.keep else rules.keep
    passes = found.helps >= least
    shown = found.helps if passes else min(found.helps, least - 0.01)  # 0.699 is not 0.70
    words = f"P(helps) {shown:.2f} {'>=' if passes else '<'} {least:.2f}"
    if is_kept and not passes:
        planned = any(found.idea in change.add for group in farm.plan for change in group)
        why = "it is in the merge that is planned" if planned else "others in the head build on it"
        return f"{words}, but {state.why_ruled.get(found.idea) or why}"
    why = "" if is_kept else _why_out(state, found, passes)
    return f"{words}, {'but' if passes else 'and'} {why}" if why else f"{words} decides"


def _why_out(state: GroupState, found: IdeaEstimate, passes: bool) -> str:
    """What keeps an idea out of the head beside the probability that it helps; empty if nothing does."""
    farm, patch = state.farm, state.ideas[found.idea]
    if found.idea in farm.barred:
        why = state.why_ruled.get(found.idea) or "it failed in a merge"
        is_no_gain = found.effect <= 0 and not passes
        return "" if why == ON_VALIDATION_ALONE and is_no_gain else why
    if not passes:
        return ""
    if found.effect <= found.price:
        return "its expected effect is not above its price"
    kept = policy.kept(farm)
    rivals, missing = sorted(policy.rivals(farm, patch, kept)), sorted(patch.needs - kept)
    if rivals:
        verbs = ("changes", "is") if len(rivals) == 1 else ("change", "are")
        return f"{' and '.join(rivals)} {verbs[0]} the same thing and {verbs[1]} kept, and this is not clearly better"
    return f"it builds on {' and '.join(missing)}, which is not kept" if missing else ""


def _compared(farm: FarmState, idea: str, others: frozenset[str]) -> str:
    """What an idea's score is compared with: the train.py that it was tried on, named by what it is now."""
    if others == farm.head:
        return "the head"
    return "the head without it" if others == farm.head - {idea} else "what it was tried on"


def _raw_score(score: float, gain: float, scores: Sequence[float], *, of: str, under: str) -> str:
    """The score of an idea's own runs beside that of what it was tried on."""
    mean = f", the mean of {len(scores)} runs," if len(scores) > 1 else ""
    away = f"{figure(abs(gain))} {'below' if gain > 0 else 'above'}" if gain else "equal to"
    return f"the raw score {score:.4f}{mean} is {away} the {score + gain:.4f} expected of {of} under {under}"


def _share_in_words(state: GroupState, runs: Sequence[RunResult]) -> str:
    """A remark on the first of these runs that had an unusual share of the machine; empty if none had."""
    told = (told_share(run, state.share_of_run.get(run.run_id)) for run in runs)
    remark = next(filter(None, told), "")
    which = "one of its runs " if len(runs) > 1 else ""
    return f", {which}{remark}" if remark else ""


def _effect(state: GroupState, found: IdeaEstimate) -> str:
    price, time = f", price {figure(found.price)}" if found.price >= LEAST_PRICE else "", time_price(state, found.idea)
    if price and time >= LEAST_PRICE:
        by = ", by one run" if len(state.time_prices[found.idea]) == 1 else ""
        price += f" ({figure(time)} of it for the time that it takes outside the budget{by})"
    if found.price <= -LEAST_PRICE:
        price = f", of simpler code that may lose {figure(-found.price)}"
    return f"estimated effect by all runs {interval_text(found.effect, found.low, found.high)}{price}"


def _outcome(found: IdeaEstimate, is_kept: bool) -> str:
    return "; a merge will verify it" if is_kept and not found.in_head else ""
