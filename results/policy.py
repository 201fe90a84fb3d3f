"""What the farm does with scores: which ideas are in the platform's head, and which run comes next. Pure functions.

`observe` takes one finished run and returns the state after it; `next_work` says what a free device should run. The state
is a function of the finished runs in their order, so that recomputing it from the stored runs gives what was decided. An idea's
effect is estimated by `results/effect_estimate.py`; effects, prices and gains are in bpb, and positive is better.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from results import effect_estimate as estimate
from results.effect_estimate import INTERVAL, Estimate
from results.growing import with_fields
from results.observations import NoiseModel, Observation, Seed
from results.policy_state import Change, FarmState, Finished, Patch, Rules, RunKind, Standing, Work, changed

LOOP_REFIT = 10
"""Runs of each loop between refits of the prior."""


def begin(model: NoiseModel, *, devices: int, rules: Rules | None = None) -> FarmState:
    """The state before any run."""
    return FarmState(posterior=estimate.begin(model), devices=devices, rules=rules or Rules())


def replay(state: FarmState, runs: Iterable[Finished]) -> FarmState:
    """The state after these runs, in the order in which they ended."""
    for run in runs:
        state = observe(state, run)
    return state


def observe(state: FarmState, run: Finished) -> FarmState:
    """The state after one more run: estimates, what is forgotten, a merge's outcome, and the head that follows."""
    if not state.baselines and run.kind != "baseline":
        return replace(state, early=(*state.early, run), runs=state.runs + 1)
    state = with_fields(state, runs=state.runs + 1, controls=state.controls + (run.kind == "control"))
    if run.kind == "baseline":
        state = replace(_learned(state, run), baselines=state.baselines + (run.score is not None))
        return _with_early(state) if state.baselines else state
    if run.kind == "merge" and not state.plan and changed(state.head, changes := last_changes(state)) == run.patches:
        state = replace(state, plan=(changes,) if changes else ())
    before, state = state.posterior, _learned(state, run)
    holds = _merge_holds(before, run, state.rules.merge_sds) if run.kind == "merge" else True
    if run.kind == "merge" and state.plan and run.patches == state.planned:
        is_far = holds is False and _merge_holds(before, run, state.rules.merge_again_sds) is False
        state = _after_merge(state, run, holds=holds, is_far=is_far)
    if state.rules.greedy:
        return settled(_greedily(state, run))
    if run.kind == "wave":  # it is judged as a whole
        return state
    measured = run.patches if run.score is not None and run.checked and holds else None
    return settled(state, ran=measured, explored=run.patches if run.kind == "explore" else None)


def settled(state: FarmState, *, ran: frozenset[str] | None = None, explored: frozenset[str] | None = None) -> FarmState:
    """The state after what the estimates say now: what is forgotten, and the head that follows.

    `ran` are the patches of the train.py that was just measured, which needs no merge to become the head; `explored` are an
    idea whose run has just ended and the head that it was tried on.
    """
    now = standing_of_all(state)
    tidied = _tidied(state, now)
    return tidied if state.rules.greedy else _planned(tidied, now, ran, explored)


def joined(state: FarmState) -> FarmState:
    """The state after one more loop has joined."""
    devices = state.devices + 1
    model = replace(state.posterior.model, refit_every=LOOP_REFIT * devices)
    return replace(state, devices=devices, posterior=replace(state.posterior, model=model))


def barred(state: FarmState, patch: str) -> FarmState:
    """The state after it was found that a patch can't be in the head: it doesn't fit, or a person drops it."""
    state = replace(state, barred=state.barred | {patch}, pinned=state.pinned - {patch}, head=state.head - {patch}, plan=())
    return settled(state)


def pinned(state: FarmState, patch: Patch) -> FarmState:
    """The state after it was found that a patch can't leave the head: later edits stand on it, or a person keeps it.

    The patch must have run with a score.
    """
    head = (state.head - rivals(state, patch, state.head)) | {patch.name}
    state = replace(
        state,
        posterior=estimate.recalled(state.posterior, {patch.name}),
        patches={**state.patches, patch.name: patch},
        barred=state.barred - {patch.name},
        pinned=state.pinned | {patch.name},
        head=head,
        plan=(),
    )
    return settled(state)


def next_work(state: FarmState, under_way: Collection[RunKind]) -> Work | None:
    """The run that the policy asks for beside those under way; None: an idea should be explored."""
    baselines = sum(kind == "baseline" for kind in under_way)
    if state.baselines + baselines < state.rules.baselines:
        return Work(kind="baseline", patches=frozenset())
    if state.rules.greedy:
        return None
    if state.plan and "merge" not in under_way:
        return Work(kind="merge", patches=state.planned, left_out=state.head - state.planned)
    share = state.rules.controls if state.devices > 1 else state.rules.controls_alone
    due = math.floor(share * (state.runs + len(under_way)))
    if state.baselines and state.controls + sum(kind == "control" for kind in under_way) < due:
        return Work(kind="control", patches=controlled(state))
    return None


def last_merge(state: FarmState) -> Work | None:
    """The run that verifies what the head still waits for, where no more ideas follow; None if it waits for nothing."""
    head = changed(state.head, last_changes(state))
    return None if head == state.head else Work(kind="merge", patches=head, left_out=state.head - head)


def last_changes(state: FarmState) -> tuple[Change, ...]:
    """The changes of the head that no merge is planned for, where no more ideas follow; none while a merge is postponed."""
    if state.rules.greedy or state.plan or state.runs < state.merges_from:
        return ()
    return wanted_changes(state, standing_of_all(state))


def aimed_at(state: FarmState) -> frozenset[str]:
    """The patches of the head that the next merge makes, where no more ideas follow; those of the head if none is due."""
    due = last_merge(state)
    return state.planned if state.plan else state.head if due is None else due.patches


def controlled(state: FarmState) -> frozenset[str]:
    """What the next control runs: in turn the head, and the untouched train.py, from which its gain is measured."""
    return state.head if state.controls % 2 == 0 else frozenset()


def explored(state: FarmState, idea: Patch) -> Work:
    """The run in which an idea is tried: the head's patches and the idea, without its rivals there."""
    others = rivals(state, idea, state.head)
    return Work(kind="explore", patches=(state.head - others) | {idea.name}, left_out=others)


def rivals(state: FarmState, idea: Patch, among: Iterable[str]) -> frozenset[str]:
    """Those among these patches that can't be in one train.py with the idea."""
    return frozenset(name for name in among if name != idea.name and _are_rivals(state.patches[name], idea))


def _are_rivals(one: Patch, other: Patch) -> bool:
    """Whether two patches change one slot, and neither builds on the other."""
    return bool(one.slots & other.slots) and one.name not in other.needs and other.name not in one.needs


def standing(state: FarmState, names: Sequence[str]) -> Standing:
    """What the runs say of these patches after their prices."""
    if not names:
        return Standing()
    sigma = state.posterior.scale
    prices = np.array([state.patches[name].price for name in names]) / sigma
    effects = estimate.effects_of(state.posterior, names)
    means = ((effects.mean() - prices) * sigma).tolist()
    sds = (np.sqrt(effects.variance()) * sigma).tolist()
    return Standing(
        net=dict(zip(names, means, strict=True)),
        sds=dict(zip(names, sds, strict=True)),
        helps=dict(zip(names, effects.above(prices).tolist(), strict=True)),
    )


@lru_cache(maxsize=8)
def standing_of_all(state: FarmState) -> Standing:
    """What the runs say of all patches that are remembered. It is asked several times of each state."""
    return standing(state, tuple(state.patches))


def near_misses(state: FarmState) -> tuple[str, ...]:
    """The candidates that may help and are not kept yet, most likely first."""
    now = standing_of_all(state)
    found = [name for name in state.candidates if name not in state.barred
             and now.net[name] > 0 and state.rules.forget <= now.helps[name] < state.rules.keep]  # fmt: skip
    return tuple(sorted(found, key=lambda name: (-now.helps[name], name)))


def expected_score(
    state: FarmState, patches: frozenset[str], seed: Seed | None = None, *, share: float = 0.0
) -> tuple[float, float]:
    """The val_bpb that a train.py with these patches is expected to have, and its standard deviation, noise included.

    `share` is that of the machine, as in `Observation`.
    """
    return estimate.predicted(state.posterior, Observation(score=0.0, patches=patches, seed=seed, share=share))


def needed_gain(state: FarmState, price: float) -> float:
    """How much below the head's expected score an idea with this price must score to be kept at once, in bpb."""
    if state.rules.greedy:
        return 0.0
    _, sd = expected_score(state, state.head)
    sigma = state.posterior.scale
    return sigma * state.posterior.prior.residual_that_shows((sd / sigma) ** 2, price / sigma, state.rules.keep)


def head_gain(state: FarmState) -> tuple[float, float, float]:
    """What the head gains over the untouched train.py, in bpb, with its interval: shrunk, not the score that was selected.

    That of one idea is what is said of the idea. Of several it is the Gaussian of their sum.
    """
    if len(state.head) == 1:
        found = estimate.effect(state.posterior, *state.head)
        return found.mean, found.low, found.high
    mean, sd = estimate.gain(state.posterior, state.head)
    width = NormalDist().inv_cdf((1 + INTERVAL) / 2) * sd
    return mean, mean - width, mean + width


def _learned(state: FarmState, run: Finished) -> FarmState:
    """The state with the run's score in the estimate and its idea among the patches; the idea of a crash is barred."""
    if run.idea is not None:
        state = with_fields(state, patches={**state.patches, run.idea.name: run.idea})
    if run.score is None:
        crashed = {run.idea.name} if run.idea is not None else set()
        return replace(
            state,
            barred=state.barred | crashed,
            patches={name: patch for name, patch in state.patches.items() if name not in crashed},
        )
    return with_fields(state, posterior=estimate.observe(state.posterior, _observation(run, run.score)))


def _observation(run: Finished, score: float) -> Observation:
    return Observation(score=score, patches=run.patches, left_out=len(run.left_out), seed=run.seed, doubt=run.doubt,
                share=run.share)  # fmt: skip


def _greedily(state: FarmState, run: Finished) -> FarmState:
    """The state after a run by the greedy rule, which compares it with the mean score of the head's train.py."""
    scores = [observation.score for observation in state.posterior.observations if observation.patches == state.head]
    if run.idea is None or run.score is None or not scores or run.score >= sum(scores) / len(scores):
        return state
    return replace(state, head=run.patches)


def _with_early(state: FarmState) -> FarmState:
    early, runs = state.early, state.runs
    state = replay(replace(state, early=()), early)
    return replace(state, runs=runs)


def _merge_holds(before: Estimate, run: Finished, most_sds: float) -> bool | None:
    """Whether a merge's score is at most so many standard deviations worse than its parts promised; None if its share of the
    machine may explain all.
    """
    if run.score is None:
        return False
    observation = _observation(run, run.score)
    mean, sd = estimate.predicted(before, observation)
    if run.score > mean + most_sds * sd:
        return False
    mean, sd = estimate.predicted(before, replace(observation, doubt=0.0, share=run.compared_share))
    return True if run.score + run.share_gain <= mean + most_sds * sd else None


def _after_merge(state: FarmState, run: Finished, *, holds: bool | None, is_far: bool) -> FarmState:
    """The state after a run of the planned head: verified, taken apart, or, where disturbed, run again and then postponed.

    One that `is_far` from what it promised runs again, too.
    """
    if (run.disturbed or holds is None or is_far) and run.score is not None and state.doubted != run.patches:
        return replace(state, doubted=run.patches, postponed=None)
    state = replace(state, doubted=None, postponed=None)
    if holds is None:
        return replace(state, plan=(), postponed=run.patches, merges_from=state.runs + state.rules.merge_pause)
    return _verified(state) if holds else _bisected(state)


def _verified(state: FarmState) -> FarmState:
    return replace(state, head=state.planned, plan=state.plan[1:])


def _bisected(state: FarmState) -> FarmState:
    """The state after a merge that failed: its changes in two halves, each to be verified; a single one is barred."""
    failed, rest = state.plan[0], state.plan[1:]
    if len(failed) == 1:
        stays = failed[0].remove if not failed[0].add else frozenset()
        return replace(state, plan=rest, barred=state.barred | failed[0].add, pinned=state.pinned | stays)
    half = len(failed) // 2
    return replace(state, plan=(failed[:half], failed[half:], *rest))


def _tidied(state: FarmState, now: Standing) -> FarmState:
    """The state without the candidates that are not worth remembering."""
    wanted = state.head.union(*(change.add for group in state.plan for change in group))
    names = [name for name in state.patches if name not in wanted]
    rules = state.rules
    forgotten = {name for name in names if now.helps[name] < rules.forget or now.net[name] + rules.doubt * now.sds[name] < 0}
    left = sorted((name for name in names if name not in forgotten), key=lambda name: (now.helps[name], name))
    forgotten.update(left[: max(0, len(left) - rules.candidates)])
    if not forgotten:
        return state
    return replace(
        state,
        posterior=estimate.shelve(state.posterior, forgotten),
        patches={name: patch for name, patch in state.patches.items() if name not in forgotten},
    )


def _planned(state: FarmState, now: Standing, ran: frozenset[str] | None, explored: frozenset[str] | None) -> FarmState:
    """The state with the head that the estimates ask for: taken at once if it has just run, else to be verified by a merge.

    An idea whose first run made the head, and whose next one takes that back, leaves the head as it was, which is verified.
    """
    changes = () if state.plan else wanted_changes(state, now)
    if not changes:
        return state
    head = changed(state.head, changes)
    if head == ran:
        return replace(state, head=head, entered=(state.head, head))
    if explored == state.head and state.entered == (head, state.head):
        return replace(state, head=head)
    waits = state.devices == 1 and len(changes) < state.rules.changes_alone
    return state if waits or state.runs < state.merges_from else replace(state, plan=(changes,))


def wanted_changes(state: FarmState, now: Standing) -> tuple[Change, ...]:
    """What leaves the head, since it is not likely to help any more, and what comes in, largest first."""
    dropped = [name for name in sorted(state.head) if now.net[name] < 0 or now.helps[name] < state.rules.drop]
    changes: list[Change] = []
    head = state.head
    for name in dropped:
        if name not in state.pinned and not needed(state, name, head):
            changes.append(Change(remove=frozenset({name})))
            head -= {name}
    open_names = [name for name in state.candidates if name not in state.barred]
    passing = [name for name in open_names if passes(state.rules, now, name)]
    for name in sorted(passing, key=lambda name: (-now.net[name], name)):
        others = rivals(state, state.patches[name], head)
        if not state.patches[name].needs <= head or not _may_leave(state, others, head):
            continue
        if others and (others - state.head or not _beats(state, now, name, others)):
            continue  # the rival came in just now, or is not worse
        changes.append(Change(add=frozenset({name}), remove=others))
        head = changed(head, changes[-1:])
    return tuple(changes)


def needed(state: FarmState, name: str, head: frozenset[str]) -> bool:
    """Whether another patch of this head builds on a patch."""
    return any(name in state.patches[other].needs for other in head)


def _may_leave(state: FarmState, names: frozenset[str], head: frozenset[str]) -> bool:
    """Whether these patches can leave this head together."""
    return not names & state.pinned and not any(needed(state, name, head - names) for name in names)


def kept(state: FarmState) -> frozenset[str]:
    """The ideas of the head as it will be once everything that is wanted has been verified."""
    if state.rules.greedy:
        return state.head
    head = state.head
    for group in state.plan:
        head = changed(head, group)
    planned = replace(state, head=head, plan=())
    return changed(head, wanted_changes(planned, standing_of_all(state)))


def passes(rules: Rules, now: Standing, name: str) -> bool:
    """Whether an idea is kept where no rival is in the head."""
    return now.net[name] > 0 and now.helps[name] >= rules.keep


def _beats(state: FarmState, now: Standing, name: str, others: frozenset[str]) -> bool:
    """Whether a patch is better than its rivals in the head together, with the probability that a keep needs."""
    difference = now.net[name] - sum(now.net[other] for other in others)
    sd = estimate.difference_sd(state.posterior, {name}, others)
    return difference > 0 and NormalDist().cdf(difference / sd) >= state.rules.keep
