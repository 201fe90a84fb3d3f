"""What a person asks of the loops of a group: a wave of near-misses, the baseline again, that an idea leaves the head, or what
cluster/steering_requests.py records.

It is recorded in the store by the process that holds the home, and a loop takes it up at its next step.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from cluster import steering_requests
from cluster.home import Home
from cluster.resuming import resuming
from research.errors import UserError
from research.formatting import counted, one_line
from results.experiment import Decision, edit_of
from results.group_entries import CONTROL_REQUEST, DROPPED_BY_A_PERSON, RULING, WAVE_REQUEST, Ruled, Ruling

if TYPE_CHECKING:
    from results.experiment import Branch
    from results.group_history import GroupHistory
    from results.group_state import GroupState
    from results.store import Store

MOST_NAMED = 5
"""The most near-misses that are named."""

TITLE_WIDTH = 60
"""Characters of an idea's title."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One thing that a person asks."""

    what: Literal["combine", "baseline", "drop", "undo drop", "suggest", "withdraw", "pause", "resume", "stop loop"]
    group: str
    """The branch that holds the head of the group."""
    idea: str = ""
    """The id of the idea to drop, or that was dropped."""
    text: str = ""
    """The words of a suggestion."""
    number: int = 0
    """The number of the suggestion to withdraw."""
    branch: str = ""
    """The branch of the loop to pause, resume or stop."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of it."""

    recorded: str
    """One line that says what follows."""
    is_taken_up: bool = False
    """Whether a loop of the group is running, so that nothing needs to be started."""
    note: str = ""
    """Why no loop can take it up, in words; empty if one can."""
    is_done: bool = False
    """Whether no run follows, so that there is nothing to take up."""
    files: tuple[str, ...] = ()
    """A line on each results.tsv that the changed decisions can't be written to, or that was moved aside."""


def record(store: "Store", ask: Ask) -> Answer:
    """Records what is asked. Returns what follows, as if no loop were running. Raises UserError if it can't be done."""
    members = [branch for branch in store.branches() if branch.head_branch == ask.group]
    if not members:
        raise UserError(f"This home has no branch {ask.group}.")
    if ask.what in ("suggest", "withdraw", "pause", "resume", "stop loop"):
        return Answer(recorded=_steer(store, ask))
    if store.groups.head(ask.group) is None:
        begin = resuming(Home(store.home), members[0], done=0)
        raise UserError(f"{ask.group} has no baseline with a score yet: `{begin}` measures it.")
    is_greedy, state = members[0].rule == "greedy", store.groups.state(ask.group)
    if ask.what == "baseline":
        return Answer(
            recorded=_request(store, ask.group, CONTROL_REQUEST, f"The baseline of {ask.group} runs again, as a control")
        )
    if is_greedy:
        raise UserError(f"{ask.group} keeps ideas by --rule greedy, which estimates none and combines none.")
    if ask.what == "combine":
        return Answer(recorded=_combine(store, ask, state))
    answer = (_drop if ask.what == "drop" else _undo_drop)(store, ask, state)
    return replace(answer, files=tuple(_tables_updated(store, members)))


def _steer(store: "Store", ask: Ask) -> str:
    """Records what a person tells loops while they run. Raises UserError."""
    if ask.what == "suggest":
        return steering_requests.suggest(store, ask.group, ask.text)
    if ask.what == "withdraw":
        return steering_requests.withdraw(store, ask.group, ask.number)
    if ask.what == "stop loop":
        raise UserError(f"{ask.branch} has no loop that runs.")
    change = steering_requests.pause if ask.what == "pause" else steering_requests.resume
    return change(store, ask.branch)


REQUESTED = {CONTROL_REQUEST: "the baseline again, as a control", WAVE_REQUEST: "a wave of near-misses"}


def pending(group: "GroupHistory") -> list[str]:
    """What people have asked of a group's loops and has not come about yet, each in words."""
    leaving = dropped_from_head(group)
    titles = {idea: one_line(group.outlines[group.place_of[idea]].experiment.title, 48) for idea in leaving}
    return [
        *(REQUESTED.get(request, request) for request in group.requests),
        *(f"{idea} ({titles[idea]}) leaves the head, by a merge without it" for idea in leaving),
    ]


def dropped_from_head(group: "GroupHistory") -> list[str]:
    """The ideas that a person has dropped and the group's head still has, until a merge without them has run."""
    inside = group.head.patches if group.head else ()
    why = {idea: ruled.reason for ruled in group.rulings for idea in ruled.patches}
    return [idea for idea in inside if why.get(idea) == DROPPED_BY_A_PERSON]


def _combine(store: "Store", ask: Ask, state: "GroupState") -> str:
    from agent.waves import FEWEST
    from results import policy, waves

    near = policy.near_misses(state.farm)
    together = waves.members(state.farm, near)
    if len(together) < FEWEST:
        there = f"{counted(len(near), 'near-miss', 'near-misses')}, of which {len(together)} can be in one train.py"
        raise UserError(f"{ask.group} has {there}, and a wave combines {FEWEST} or more: let it try more ideas first.")
    left = [name for name in near if name not in together]
    out = f" ({', '.join(left[:MOST_NAMED])}{' ...' if len(left) > MOST_NAMED else ''} can't be in one train.py with them)"
    follows = f"A wave combines {len(together)} of the {len(near)} near-misses of {ask.group}{out if left else ''}"
    return _request(store, ask.group, WAVE_REQUEST, follows)


def _request(store: "Store", group: str, request: str, follows: str) -> str:
    if any(known["request"] == request for known in store.open_requests(group)):
        raise UserError(f"That is requested for {group} already, and no loop has taken it up yet.")
    store.add_request(group, request)
    return follows


def _drop(store: "Store", ask: Ask, state: "GroupState") -> Answer:
    from results.group_verdicts import flips
    from results.groups import ruling_event

    head = state.farm.head
    idea = _idea_tried(store, ask, state, among=head)
    named = _named(store, idea, asked=ask.idea)
    if idea not in head:
        if state.why_ruled.get(idea) == DROPPED_BY_A_PERSON:
            raise UserError(f"{named} {_dropped_already(store, ask.group, idea)}")
        there = ", ".join(sorted(head)) or "none"
        raise UserError(f"{named} is not in the head of {ask.group}; the ideas in it: {there}.")
    on_it = sorted(name for name in head if idea in state.farm.patches[name].needs)
    if on_it:
        builds, that = ("builds", "that") if len(on_it) == 1 else ("build", "those")
        raise UserError(f"{named} can't leave the head: {', '.join(on_it)} {builds} on it; drop {that} first.")
    if (above := _edits_above(store, ask.group, idea)) is not None:
        by = f"{', '.join(above)} changed the same lines later" if above else "several later edits stand on its lines"
        raise UserError(f"{named} can't leave the head: {by}; drop {'that' if above else 'those'} first.")
    store.add_event(RULING, ruling_event(ask.group, Ruled(ruling="bar", patches=(idea,), reason=DROPPED_BY_A_PERSON)))
    for name, verdict in flips(store.groups.state(ask.group), _decided(store, state, idea)):
        store.add_verdict(name, verdict)
    return Answer(recorded=f"{named} leaves the head of {ask.group} and stays out; a merge without it is run next")


def _idea_tried(store: "Store", ask: Ask, state: "GroupState", *, among: Collection[str]) -> str:
    """The idea that an experiment tries: an earlier one that it repeats, where that is `among` those that are meant.

    Raises UserError for an experiment that tries none.
    """
    record = store.record(ask.idea)
    experiment = record.experiment
    if not record.is_idea:
        there = ", ".join(_named(store, idea) for idea in sorted(among))
        choice = f"name one of {there}" if there else "there is none to name yet"
        title = one_line(experiment.title, TITLE_WIDTH)
        raise UserError(f"{ask.idea} ({title}) is not an idea, but of the kind {experiment.kind}: {choice}.")
    known = (ask.idea, state.idea_of.get(ask.idea, ""), state.idea_of_edit.get(edit_of(experiment), ""))
    return next((idea for idea in known if idea in among), known[1] or ask.idea)


def _named(store: "Store", idea: str, *, asked: str = "") -> str:
    """An idea with its own title, and which experiment repeats it if that was asked for."""
    repeated = f", which {asked} repeats" if asked not in ("", idea) else ""
    return f"{idea} ({one_line(store.record(idea).experiment.title, TITLE_WIDTH)}{repeated})"


def _decided(store: "Store", state: "GroupState", idea: str) -> dict[str, Decision]:
    """How every experiment that tries an idea was decided last, by its id."""
    tries = (store.record(name) for name in state.experiments_of.get(idea, (idea,)))
    return {record.experiment.id: record.verdict.decision for record in tries if record.verdict is not None}


def _edits_above(store: "Store", group: str, idea: str) -> list[str] | None:
    """The later ideas of the head that keep an idea in it, each by itself; none if several do together. None: it can leave."""
    from agent.head_text import DoesNotFit, HeadChange, changed_head
    from agent.repo.repository import train_py_at
    from agent.repo.worktree import commit_exists

    head = store.groups.head(group)
    if head is None or idea not in head.patches:
        return None
    repo = next((repo for repo in Home(store.home).repositories() if commit_exists(repo, head.commit)), None)
    if repo is None:
        return None

    def fits(*leaving: str) -> bool:
        experiments = tuple(store.record(name).experiment for name in leaving)
        text_at = partial(train_py_at, repo)
        try:
            changed_head(text_at(head.commit), HeadChange(remove=experiments), text_at)
        except DoesNotFit:
            return False
        return True

    later = head.patches[head.patches.index(idea) + 1 :]
    return None if fits(idea) else [name for name in later if fits(name, idea)]


def _dropped_already(store: "Store", group: str, idea: str) -> str:
    """What became of a drop that was recorded earlier: what it still waits for, or that it has come about."""
    head, undo = store.groups.head(group), "--undo takes that back"
    if head is None or idea not in head.patches:
        return f"is dropped already, and {group} is without it; {undo}."
    branch = next(branch for branch in store.branches() if branch.head_branch == group)
    runs_it = resuming(Home(store.home), branch, done=None)
    return f"is dropped already, and leaves the head of {group} by a merge without it, which `{runs_it}` runs; {undo}."


def _undo_drop(store: "Store", ask: Ask, state: "GroupState") -> Answer:
    """Takes back that a person dropped an idea.

    It is in the head again if no merge without it has run, else the estimates decide whether a merge brings it back. One that
    was pinned in the head is so again, for the reason that it was, and a merge brings it back if it has left.
    """
    from results.group_verdicts import flips
    from results.groups import ruling_event

    head = store.groups.head(ask.group)
    dropped = [idea for idea, why in state.why_ruled.items() if why == DROPPED_BY_A_PERSON]
    idea = _idea_tried(store, ask, state, among=dropped)
    named = _named(store, idea, asked=ask.idea)
    if idea not in dropped:
        there = ", ".join(sorted(dropped)) or "none"
        raise UserError(f"No person has dropped {named} from {ask.group}; the ideas that were dropped: {there}.")
    has_left = head is None or idea not in head.patches
    ruling: Ruling = "pin" if idea in state.pins_lifted else "unbar" if has_left else "restore"
    reason = state.pins_lifted.get(idea, "a person took that back")
    store.add_event(RULING, ruling_event(ask.group, Ruled(ruling=ruling, patches=(idea,), reason=reason)))
    after = store.groups.state(ask.group)
    for name, verdict in flips(after, _decided(store, after, idea)):
        store.add_verdict(name, verdict)
    pinned = f", since {reason}" if ruling == "pin" and reason else ""
    return _after_undo(after, idea, named, ask.group, has_left=has_left, pinned=pinned)


def _after_undo(state: "GroupState", idea: str, named: str, group: str, *, has_left: bool, pinned: str) -> Answer:
    """What becomes of an idea that may be in the head again; `pinned`: why scores don't decide on it, in words."""
    from results import policy
    from results.group_state import estimate_of

    is_wanted, found = idea in policy.kept(state.farm), estimate_of(state, idea)
    if pinned and found is not None and found.effect < 0:
        pinned += f", although by the estimates it loses {-found.effect:.4f} (P(helps) {found.helps:.2f})"
    if has_left:
        follows = f"a merge will bring it back{pinned}" if is_wanted else "by the estimates it doesn't come back now"
        return Answer(recorded=f"{named} may be in the head of {group} again: {follows}", is_done=not is_wanted)
    if is_wanted:
        return Answer(recorded=f"{named} stays in the head of {group}{pinned}", is_done=True)
    return Answer(recorded=f"{named} is no longer dropped, and leaves the head of {group} by a merge, since it doesn't pay")


def _tables_updated(store: "Store", members: "Sequence[Branch]") -> list[str]:
    """Brings each results.tsv of a group's branches up to date, since decisions have changed. Returns lines as `files`."""
    from cluster.results_files import update_results_tsv

    return [line for member in members for line in update_results_tsv(Home(store.home), store, member.name)]
