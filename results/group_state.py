"""What the runs of a group of branches say: the state of `results/policy.py`, computed from the stored records in their order.

A group is the branches of a tag that share one head: same platform, contract, data and baseline. `advance` takes one record and
returns the state after it, so that replaying the journal gives what was decided. An idea is named by the id of the experiment
that first tried it, and is the difference of its train.py from the head that it was tried on.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from research.contract import Contract
from research.profiles import profile_named
from research.result import RunResult
from results import effect_estimate as estimate
from results import policy, waves
from results.experiment import Branch, Experiment, edit_of
from results.group_entries import Entry, Joined, Ran, Ruled
from results.growing import GrowingMapping, with_fields
from results.machine_shares import (
    FirstShare,
    MachineShare,
    doubt_of_share,
    first_share,
    machine_share,
    share_of,
    usual_share,
    with_share,
)
from results.observations import NoiseModel, Seed
from results.policy_state import FarmState, Finished, Patch, Rules, RunKind
from results.time_prices import FREE_TIMES, FREE_TIMES_DISTURBED, RunTimes, UsualTimes, price_of_runs, run_times, worth_of_time
from results.verdict import noise_prior

SEED_SHARE = 0.9
"""The share of sigma**2 that runs under one seed have in common before it was measured. On an H200 at 60 s six seeds had a
standard deviation of 0.0027 bpb, and one small change under the same seeds moved them by 0.0006 with one of 0.0010: 0.94."""

MEMORY_PRICE = 0.0005
"""The gain in bpb that each doubling of the head's peak memory must pay for."""

MOST_COMPARED = 16
"""The latest runs of a train.py whose shares of the machine another run's is compared with: two of each common seed."""

SLACK_SIGMAS = 0.5
"""The most that an idea may lose, in sigmas as claimed, however much simpler its code is."""

KINDS: Mapping[str, RunKind] = {
    "baseline": "baseline",
    "explore": "explore",
    "manual": "explore",
    "merge": "merge",
    "wave": "wave",
    "control": "control",
}
"""What the policy calls the kinds of experiments. Confirmations are none of its runs: they must not be selected upon."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupState:
    """A group's research after some records."""

    farm: FarmState
    patches_at: GrowingMapping[str, frozenset[str]] = field(default_factory=GrowingMapping)
    """The ideas in each commit that ran."""
    commits_of: GrowingMapping[frozenset[str], tuple[str, ...]] = field(default_factory=GrowingMapping)
    """The commits that ran with just these ideas, in the order in which they first did."""
    patches_of: GrowingMapping[str, frozenset[str]] = field(default_factory=GrowingMapping)
    """The ideas in each program that ran, by `Experiment.program`: whoever runs it again measures the same ideas."""
    ideas: GrowingMapping[str, Patch] = field(default_factory=GrowingMapping)
    """Every idea that has a score, forgotten ones too."""
    idea_of: GrowingMapping[str, str] = field(default_factory=GrowingMapping)
    """The idea that each experiment tries: its own, or that of an earlier one with the same program or edit."""
    place_of: GrowingMapping[str, int] = field(default_factory=GrowingMapping)
    """The place of each experiment in `idea_of`, which is that of an idea among all."""
    experiments_of: GrowingMapping[str, tuple[str, ...]] = field(default_factory=GrowingMapping)
    """The experiments that have tried each idea, in the order in which they did."""
    idea_of_edit: GrowingMapping[str, str] = field(default_factory=GrowingMapping)
    """The first idea that made each edit."""
    memory_at: GrowingMapping[str, float] = field(default_factory=GrowingMapping)
    """Peak memory in MiB of each commit's last run with a score."""
    shares: tuple[float, ...] = ()
    """The latest runs' shares of their machine (`machine_shares.share_of`)."""
    shares_with: GrowingMapping[frozenset[str], tuple[tuple[int, float], ...]] = field(default_factory=GrowingMapping)
    """Seed and share of the machine of the latest runs with a score of these ideas' train.py."""
    first_share: FirstShare | None = None
    share_of_run: GrowingMapping[str, MachineShare] = field(default_factory=GrowingMapping)
    """What each run had of its machine, as far as that is known, by the run's id."""
    times_at: GrowingMapping[str, RunTimes] = field(default_factory=GrowingMapping)
    """What each commit's last run with a score took to start, to train and to answer the validation rows."""
    usual_times: UsualTimes = field(default_factory=UsualTimes)
    time_prices: GrowingMapping[str, tuple[float, ...]] = field(default_factory=GrowingMapping)
    """What each run of an idea must pay for time outside the clock, in bpb."""
    time_slope: float = 0.0
    """As in `Profile`."""
    budget: float = 1.0
    """Seconds of training."""
    records: int = 0
    """How many records it follows from, of whatever kind."""
    why_ruled: Mapping[str, str] = field(default_factory=dict)
    """Why ideas stay out of the head, or in it, whatever scores say; without what a failed merge says."""
    pins_lifted: Mapping[str, str] = field(default_factory=dict)
    """The ideas that a ruling has taken out of the head although they were pinned, and why they were: empty if a merge showed
    that they can't leave."""


@dataclass(frozen=True, kw_only=True)
class IdeaEstimate:
    """What is known of one idea, in bpb."""

    idea: str
    effect: float
    low: float
    high: float
    """The ends of its 90% interval."""
    helps: float
    """The probability that the effect is above the price."""
    price: float
    in_head: bool
    is_near_miss: bool


def begin(branch: Branch, *, rules: Rules | None = None) -> GroupState:
    """The state before any record of a group to which this branch belongs."""
    return GroupState(
        farm=policy.begin(noise_model(branch), devices=0, rules=rules or rules_of(branch)),
        time_slope=profile_named(branch.profile).time_slope,
        budget=Contract.from_json(branch.contract_json).TIME_BUDGET,
    )


def noise_model(branch: Branch) -> NoiseModel:
    """The noise that is expected of a branch's scores before anything is measured."""
    contract = Contract.from_json(branch.contract_json)
    profile = profile_named(branch.profile)
    prior = noise_prior(profile.sigma, measured_at=profile.contract.TIME_BUDGET, budget=contract.TIME_BUDGET)
    return NoiseModel(sigma=prior.sigma, runs=prior.runs, seed_share=SEED_SHARE, refit_every=policy.LOOP_REFIT,
                      share_slope=profile.time_slope)  # fmt: skip


def rules_of(branch: Branch) -> Rules:
    """The rules by which a branch keeps ideas. Each of its loops begins with a baseline, so that none is ever asked for."""
    return Rules(greedy=branch.rule == "greedy", baselines=1)


def replay(state: GroupState, entries: Iterable[Entry]) -> GroupState:
    """The state after these records, in the order in which they were stored."""
    for entry in entries:
        state = advance(state, entry)
    return state


def advance(state: GroupState, entry: Entry) -> GroupState:
    """The state after one more record."""
    return with_fields(_advanced(state, entry), records=state.records + 1)


def _advanced(state: GroupState, entry: Entry) -> GroupState:
    if isinstance(entry, Joined):
        return replace(state, farm=policy.joined(state.farm))
    if isinstance(entry, Ruled):
        return _ruled(state, entry)
    if entry.run.status == "lost" or entry.experiment.kind not in KINDS:
        return _with_share(state, entry.run)
    state, patches = _with_patches_of(state, entry.experiment)
    state = _with_share(state, entry.run, compared=_compared_shares(state, entry, patches))
    finished = _finished(state, entry, patches)
    state = _with_machine(state, entry, patches)
    if finished.idea is not None and finished.score is not None:
        name = finished.idea.name
        if name == entry.experiment.id:
            state = with_fields(state, time_prices=state.time_prices.with_entry(name, _time_prices(state, entry)))
        state = _with_idea(state, entry.experiment.id, finished.idea)
    return with_fields(state, farm=policy.observe(state.farm, finished))


def _with_idea(state: GroupState, experiment: str, idea: Patch) -> GroupState:
    """The state in which an experiment tries an idea, which has a score."""
    before, name = state.idea_of.get(experiment), idea.name
    state = with_fields(state, ideas=state.ideas.with_entry(name, idea))
    if before == name:  # another run of it
        return state
    if before is None:
        state = with_fields(state, place_of=state.place_of.with_entry(experiment, len(state.place_of)))
    tries = (*state.experiments_of.get(name, ()), experiment)
    return with_fields(
        state,
        idea_of=state.idea_of.with_entry(experiment, name),
        experiments_of=state.experiments_of.with_entry(name, tries),
    )


def common_seed(group: str, loop: int, number: int, index: int) -> int:
    """The seed of a loop's run: one of a few common ones, more of them as the research gets longer, at most 8.

    `number` is that of the experiment on its branch, and `index` counts the experiment's runs, whose seeds all differ.
    """
    count = min(8, 2 + loop + number // 8)
    return seed_named(f"{group} {(loop + number + index) % count if index < count else index}")


def seed_named(name: str) -> int:
    """A seed that depends on nothing but this name."""
    return zlib.crc32(name.encode())


def seed_of(experiment: Experiment, run: RunResult) -> Seed | None:
    """What the run's seed draws: the same for all programs that differ in constants alone and have as many parameters."""
    return (run.seed, f"{experiment.structure} {run.num_params}") if experiment.structure else None


def without_pins(state: GroupState, ideas: frozenset[str]) -> GroupState:
    """The state in which scores alone decide whether these ideas stay in the head."""
    return replace(state, farm=replace(state.farm, pinned=state.farm.pinned - ideas))


def estimates(state: GroupState) -> tuple[IdeaEstimate, ...]:
    """What is known of every idea that has a score, in the order in which they first ran."""
    return estimates_of(state, state.ideas)


def estimates_of(state: GroupState, ideas: Iterable[str]) -> tuple[IdeaEstimate, ...]:
    """What is known of those of these ideas that have a score, in the order given."""
    farm, names = state.farm, [name for name in ideas if name in state.ideas and state.farm.posterior.knows(name)]
    if not names:
        return ()
    scale = farm.posterior.scale
    mixture = estimate.effects_of(farm.posterior, names)
    prices = np.array([state.ideas[name].price for name in names])
    columns = (mixture.mean(), *estimate.intervals(mixture), mixture.above(prices / scale))
    near = set(policy.near_misses(farm))
    return tuple(
        IdeaEstimate(
            idea=name,
            effect=mean * scale,
            low=low * scale,
            high=high * scale,
            helps=helps,
            price=state.ideas[name].price,
            in_head=name in farm.head,
            is_near_miss=name in near,
        )
        for name, mean, low, high, helps in zip(names, *(column.tolist() for column in columns), strict=True)
    )


def estimate_of(state: GroupState, idea: str) -> IdeaEstimate | None:
    """What is known of one idea; None if it has no score."""
    return next(iter(estimates_of(state, [idea])), None)


def in_order(state: GroupState, ideas: Iterable[str]) -> tuple[str, ...]:
    """Those of these ideas that have a score, in the order in which they first ran."""
    return tuple(sorted((idea for idea in ideas if idea in state.ideas), key=lambda idea: state.place_of[idea]))


def _with_patches_of(state: GroupState, experiment: Experiment) -> tuple[GroupState, frozenset[str]]:
    """The ideas in an experiment's train.py.

    Those of an idea's experiment are those of the same program, if that ran before; else its parent's and its own, which is an
    earlier one if that was the same edit.
    """
    patches = frozenset(experiment.patches)
    if KINDS[experiment.kind] == "explore":
        before = (patches or state.patches_at.get(experiment.parent_commit, frozenset())) - {experiment.id}
        edit = edit_of(experiment)
        idea = state.idea_of_edit.get(edit, "") if edit else ""
        idea = idea if idea in state.ideas and idea not in before else experiment.id
        known = state.patches_of.get(experiment.program)
        patches = known if known is not None and known - before <= state.ideas.keys() else before | {idea}
        state = with_fields(state, idea_of_edit=state.idea_of_edit.with_entry(edit, idea))
    if experiment.program:
        state = with_fields(state, patches_of=state.patches_of.with_entry(experiment.program, patches))
    return _with_commit(state, experiment.commit, patches), patches


def _with_commit(state: GroupState, commit: str, patches: frozenset[str]) -> GroupState:
    """The state in which a commit has run with these ideas."""
    before, commits_of = state.patches_at.get(commit), state.commits_of
    if before == patches:
        return state
    if before is not None:
        commits_of = commits_of.with_entry(before, tuple(other for other in commits_of[before] if other != commit))
    commits_of = commits_of.with_entry(patches, (*commits_of.get(patches, ()), commit))
    return with_fields(state, patches_at=state.patches_at.with_entry(commit, patches), commits_of=commits_of)


def _finished(state: GroupState, entry: Ran, patches: frozenset[str]) -> Finished:
    experiment, run = entry.experiment, entry.run
    kind, share = KINDS[experiment.kind], state.share_of_run.get(run.run_id)
    doubt = doubt_of_share(share, time_slope=state.time_slope)
    beside = share.beside if share is not None and share.beside else share_of(run)
    share_gain = 0.0 if share is None else state.time_slope * max(0.0, share.more, share.uneven)
    return Finished(
        kind=kind,
        score=run.val_bpb if run.status == "ok" else None,
        patches=patches,
        left_out=frozenset(experiment.left_out),
        idea=_idea(state, entry, patches) if kind == "explore" else None,
        seed=seed_of(experiment, run),
        doubt=doubt,
        checked=not run.unchecked,
        disturbed=share is not None and share.is_unusual,
        share_gain=share_gain,
        share=share_above_first(state, share_of(run)),
        compared_share=share_above_first(state, beside),
    )


def _idea(state: GroupState, entry: Ran, patches: frozenset[str]) -> Patch | None:
    """The idea of an experiment, with what it builds on and what it must pay for; None if it tries nothing new."""
    experiment = entry.experiment
    if experiment.id not in patches:
        new = patches - state.patches_at.get(experiment.parent_commit, frozenset())
        is_known = len(new) == 1 and entry.run.status == "ok"
        return state.ideas.get(next(iter(new))) if is_known else None
    slots, others = frozenset(experiment.slots), [name for name in patches if name in state.ideas and name != experiment.id]
    needs = frozenset(name for name in others if state.ideas[name].slots & slots)
    least = -SLACK_SIGMAS * state.farm.posterior.model.sigma
    price = max(experiment.price, least) + _memory_price(state, entry) + price_of_runs(_time_prices(state, entry))
    return Patch(name=experiment.id, slots=slots, price=price, needs=needs)


def _memory_price(state: GroupState, entry: Ran) -> float:
    """What more memory than the parent's must pay for, in bpb."""
    before, peak = state.memory_at.get(entry.experiment.parent_commit), entry.run.peak_memory_mb
    return MEMORY_PRICE * math.log2(peak / before) if before and peak and peak > before else 0.0


def _time_prices(state: GroupState, entry: Ran) -> tuple[float, ...]:
    """What an experiment's runs so far and this one must pay for time."""
    return *state.time_prices.get(entry.experiment.id, ()), _time_price(state, entry)


def time_price(state: GroupState, idea: str) -> float:
    """How much of an idea's price is for time outside the clock, in bpb."""
    return price_of_runs(state.time_prices.get(idea, ()))


def _time_price(state: GroupState, entry: Ran) -> float:
    """What a run of an idea must pay for computing more outside the clock than what it was tried on, in bpb."""
    run = entry.run
    before, now = state.times_at.get(entry.experiment.parent_commit), run_times(run, share_of(run))
    if before is None or now is None or not state.usual_times.are_known:
        return 0.0
    share = state.share_of_run.get(run.run_id)
    is_slowed = share is not None and share.may_be_unusual and share.more < 0
    is_slowed |= share_above_first(state, share_of(run)) < 0  # what is usual falls where a machine stays busy
    times = FREE_TIMES_DISTURBED if is_slowed else FREE_TIMES
    worth, worth_before = (
        worth_of_time(took, state.usual_times, free_times=times, budget=state.budget, slope=state.time_slope,
                      on_gpu=run.device_kind == "cuda")
        for took in (now, before)
    )  # fmt: skip
    return max(0.0, worth - worth_before)


def share_above_first(state: GroupState, share: float | None) -> float:
    """A share of the machine as `Observation` has it."""
    return 0.0 if state.first_share is None else state.first_share.more_in(share)


def usual_share_above_first(state: GroupState) -> float:
    """What runs usually have of the machine now, as `Observation` has it."""
    return share_above_first(state, usual_share(state.shares) if state.shares else None)


def expected_of_run(state: GroupState, patches: frozenset[str], experiment: Experiment, run: RunResult) -> float:
    """The val_bpb that is expected of a train.py with these ideas under a run's seed and with its share of the machine."""
    share = share_above_first(state, share_of(run))
    return policy.expected_score(state.farm, patches, seed_of(experiment, run), share=share)[0]


def _compared_shares(state: GroupState, entry: Ran, patches: frozenset[str]) -> list[float]:
    """What the runs had of the machine that a run's score is compared with, under its seed where there are any.

    An idea's are those of the train.py that it is an edit of, a merge's those of the head, and others' those of the same
    train.py, or else of the head.
    """
    kind, head = KINDS[entry.experiment.kind], state.shares_with.get(state.farm.head, ())
    base = state.patches_at.get(entry.experiment.parent_commit, frozenset())
    is_idea = kind == "explore" and base != patches
    runs = head if kind == "merge" else state.shares_with.get(base if is_idea else patches) or head
    return [share for seed, share in runs if seed == entry.run.seed] or [share for _, share in runs]


def _with_share(state: GroupState, run: RunResult, *, compared: Sequence[float] = ()) -> GroupState:
    """The state with the run's share of the machine."""
    found = machine_share(run, state.shares, compared)
    if found is not None:
        state = with_fields(state, share_of_run=state.share_of_run.with_entry(run.run_id, found))
    if state.first_share is None:
        state = with_fields(state, first_share=first_share(run))
    return with_fields(state, shares=with_share(state.shares, run))


def _with_machine(state: GroupState, entry: Ran, patches: frozenset[str]) -> GroupState:
    """The state with the run's memory, its share of the machine and the time that it took outside the clock."""
    run, commit, share = entry.run, entry.experiment.commit, share_of(entry.run)
    if run.status != "ok":
        return state
    if share:
        runs = (*state.shares_with.get(patches, ()), (run.seed, share))[-MOST_COMPARED:]
        state = with_fields(state, shares_with=state.shares_with.with_entry(patches, runs))
    if times := run_times(run, share):
        if not patches:
            state = with_fields(state, usual_times=state.usual_times.with_run(times, run.reported_steps))
        state = with_fields(state, times_at=state.times_at.with_entry(commit, times))
    if run.peak_memory_mb is None:
        return state
    return with_fields(state, memory_at=state.memory_at.with_entry(commit, run.peak_memory_mb))


def _ruled(state: GroupState, entry: Ruled) -> GroupState:
    farm = state.farm
    if entry.ruling == "wave":
        members = [name for name in entry.patches if name in farm.patches]
        return replace(state, farm=policy.settled(waves.concluded(farm, members)))
    if entry.ruling in ("unbar", "restore"):
        for idea in (state.ideas[name] for name in entry.patches if name in state.ideas):
            farm = _back_in_play(farm, idea, in_head=entry.ruling == "restore")
        why, lifted = (_without(known, entry.patches) for known in (state.why_ruled, state.pins_lifted))
        return replace(state, farm=farm, why_ruled=why, pins_lifted=lifted)
    lifted = _without(state.pins_lifted, entry.patches if entry.ruling == "pin" else ())
    if entry.ruling == "bar":
        lifted |= {name: state.why_ruled.get(name, "") for name in entry.patches if name in farm.pinned}
    for patch in entry.patches:
        if entry.ruling == "bar":
            farm = policy.barred(farm, patch)
        elif patch in state.ideas:
            farm = policy.pinned(farm, state.ideas[patch])
    why = {**state.why_ruled, **dict.fromkeys(entry.patches, entry.reason)}
    return replace(state, farm=farm, why_ruled=why, pins_lifted=lifted)


def _without(reasons: Mapping[str, str], ideas: Iterable[str]) -> dict[str, str]:
    """The reasons of all other ideas."""
    gone = frozenset(ideas)
    return {name: reason for name, reason in reasons.items() if name not in gone}


def _back_in_play(farm: FarmState, patch: Patch, *, in_head: bool) -> FarmState:
    """The state in which scores decide again about an idea that a person had dropped."""
    if in_head:
        farm = policy.pinned(farm, patch)
        return replace(farm, pinned=farm.pinned - {patch.name})
    posterior, patches = estimate.recalled(farm.posterior, {patch.name}), {**farm.patches, patch.name: patch}
    return policy.settled(replace(farm, posterior=posterior, patches=patches, barred=farm.barred - {patch.name}, plan=()))
