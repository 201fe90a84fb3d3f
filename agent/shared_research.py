"""What the loops of a group share: the head, what all runs say of each idea, and the runs that the policy asks for.

All of it is in the store: rulings, heads and changed decisions are recorded as they are found, so that a farm that was killed
at any line finds the same again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.head_text import DoesNotFit, HeadChange, changed_head, head_change, read_changed_head
from agent.loop_steering import GroupSuggestions
from agent.observer import LoopObserver
from agent.repo.branch_log import follows
from agent.repo.repository import train_py_at
from agent.results_table import ResultsTable
from agent.text_reader import MOST_READINGS, TextReader
from agent.tried_by_group import TriedByGroup
from agent.waves import Waves
from research.formatting import counted, one_line
from results import policy
from results.expected_gain import expected_gain
from results.experiment import Experiment, ExperimentKind, ExperimentRecord, Head
from results.group_entries import CONTROL_REQUEST, GAIN, HEAD, RULING, WAVE_REQUEST, Ruled, Ruling
from results.group_state import KINDS, GroupState, in_order
from results.group_verdicts import flips
from results.groups import head_event, ruling_event
from results.head_gain import gain_event
from results.policy_state import RunKind, Work
from results.store import Store


@dataclass(frozen=True, kw_only=True)
class RequestedRun:
    """A run that the policy or a person asks for."""

    kind: ExperimentKind
    title: str
    hypothesis: str
    base: str
    """The commit that its train.py is made from."""
    train_py: str | None
    """None: the base's."""
    parents: tuple[str, ...] = ()
    """The ideas that it puts together."""
    patches: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class SharedResearch:
    """The research of one group. Its loops run in one event loop and share this object."""

    def __init__(self, *, store: Store, repo: Path, group: str, baseline_commit: str, observer: LoopObserver,
                 reader: TextReader | None = None) -> None:  # fmt: skip
        self.reader = reader or TextReader()
        self.store, self.group, self.baseline_commit = store, group, baseline_commit
        self._repo, self.observer, self.text_at = repo, observer, partial(train_py_at, repo)
        self.tables: dict[str, ResultsTable] = {}
        """The results.tsv of each loop's branch."""
        self._under_way: dict[str, RunKind] = {}
        self._waves = Waves(store, group)
        self.tried = TriedByGroup(store, group)
        self.suggestions = GroupSuggestions(store, group)

    def state(self) -> GroupState:
        """What all runs of the group say so far."""
        return self.store.groups.state(self.group)

    def head(self) -> Head | None:
        """What new ideas are tried on; None before a baseline has a score."""
        return self.store.groups.head(self.group)

    @contextmanager
    def running(self, experiment: Experiment) -> Iterator[None]:
        """Says that an experiment is under way, so that no other loop is asked for the same."""
        if experiment.kind in KINDS:
            self._under_way[experiment.id] = KINDS[experiment.kind]
        try:
            yield
        finally:
            self._under_way.pop(experiment.id, None)

    # --- the runs that are asked for --------------------------------------------------------------------------------

    def next_run(self) -> RequestedRun | None:
        """The run that is due before another idea is tried; None: an idea should be tried."""
        if self.head() is None:
            return None
        while True:
            try:
                run = self._asked_by_person() or self._asked_by_policy() or self._of_wave()
            except DoesNotFit as misfit:
                self._rule_on(misfit)
                continue
            if run is not None or not self._concludes_wave():
                return run

    def last_run(self) -> RequestedRun | None:
        """The control that a person asks for, or the merge that is due, where no more ideas follow. A wave would be many."""
        while self.head() is not None:
            try:
                if (control := self._asked_by_person(waves=False)) is not None:
                    return control
                run = self._asked_by_policy()
                if run is not None and run.kind == "merge":
                    return run
                work = policy.last_merge(self.state().farm)
                return None if work is None or self.tried.has_merged(self._in_order(work.patches)) else self._merge(work)
            except DoesNotFit as misfit:
                self._rule_on(misfit)
        return None

    def start_wave(self) -> bool:
        """Plans a wave of the near-misses. Returns False if there are too few, or these have been in one on this head."""
        head = self.head()
        assert head is not None, "the baseline comes first"
        return self._waves.start(self.state().farm, head, misfit=self._misfit)

    def _asked_by_person(self, *, waves: bool = True) -> RequestedRun | None:
        for request in self.store.open_requests(self.group):
            if request["request"] == WAVE_REQUEST and not waves:
                continue
            self.store.close_request(request)
            if request["request"] == CONTROL_REQUEST:
                return self._control(frozenset())
            if request["request"] == WAVE_REQUEST and not self.start_wave():
                self.observer.on_event("no_wave", branch=self.group)
        return None

    def _asked_by_policy(self) -> RequestedRun | None:
        state = self.state()
        work = policy.next_work(state.farm, list(self._under_way.values())) or self._as_ruled(state)
        if work is None:
            return None
        return self._control(work.patches) if work.kind == "control" else self._merge(work)

    def _as_ruled(self, state: GroupState) -> Work | None:
        """The merge that takes out of the head what a person has dropped, and brings back what is pinned; None if none is due.

        An idea without which train.py fails stays in, and one with which it fails stays out.
        """
        head, wanted = self.head(), state.farm.head
        assert head is not None
        leaving, entering = frozenset(head.patches) - wanted, (wanted & state.farm.pinned) - frozenset(head.patches)
        is_busy = state.farm.plan or "merge" in self._under_way.values()
        if not (leaving or entering) or is_busy or self._measured(state, head, wanted):
            return None
        merges = [line for line in self.tried.with_ideas(state, wanted) if line.kind == "merge"]
        if any(self.store.experiments.decision(line.id) in ("crash", "invalid") for line in merges):
            if entering:
                self._rule("bar", self._in_order(entering), "train.py fails with it")
            else:
                self._rule("pin", self._in_order(leaving), "train.py fails without it")
            self.settle()
            return None
        return Work(kind="merge", patches=wanted, left_out=leaving)

    def _control(self, patches: frozenset[str]) -> RequestedRun:
        head = self.head()
        assert head is not None
        of_head = bool(patches) and patches == frozenset(head.patches)
        return RequestedRun(
            kind="control",
            title="control: the head again" if of_head else "control: the baseline again",
            hypothesis="A known train.py again, which shows the noise and whether the machine has changed.",
            base=head.commit if of_head else self.baseline_commit,
            train_py=None,
            patches=head.patches if of_head else (),
        )

    def _merge(self, work: Work) -> RequestedRun:
        """The next head. Raises DoesNotFit."""
        head = self.head()
        assert head is not None
        change = self.change(frozenset(head.patches), work.patches)
        text = changed_head(self.text_at(head.commit), change, self.text_at)
        return RequestedRun(
            kind="merge",
            title=f"merge: {in_words(change)}",
            hypothesis="Ideas that probably help, put together: if they don't score as promised, they are taken apart.",
            base=head.commit,
            train_py=text,
            parents=tuple(idea.id for idea in change.add),
            patches=self._in_order(work.patches),
            left_out=tuple(sorted(work.left_out)),
        )

    def _of_wave(self) -> RequestedRun | None:
        """The next run of the wave that is under way."""
        run = self._waves.next_run()
        if run is None:
            return None
        change = self.change(run.patches.difference(run.inside).union(run.left_out), run.patches)
        try:
            text = changed_head(self.text_at(run.base), change, self.text_at)
        except DoesNotFit as misfit:
            self._rule("wave", run.inside, f"the wave ends early: {misfit}")
            self.observer.on_event("wave_ended", branch=self.group, reason=str(misfit))
            self.settle()
            return None
        return RequestedRun(
            kind="wave",
            title=run.title,
            hypothesis=f"{counted(len(run.inside), 'idea')} that came close, together on the head.",
            base=run.base,
            train_py=text,
            parents=run.inside,
            patches=self._in_order(run.patches),
            left_out=run.left_out,
        )

    def _concludes_wave(self) -> bool:
        """Records that the wave under way has ended, if it has. Returns whether that is so."""
        ended = self._waves.ended()
        if ended is not None:
            self._rule("wave", ended, "the wave has ended")
            self.settle()
        return ended is not None

    # --- what follows from runs -------------------------------------------------------------------------------------

    def rule(self, ruling: Ruling, idea: str, reason: str) -> None:
        """Records that an idea stays out of the head, or in it, whatever scores say."""
        self._rule(ruling, (idea,), reason)

    def settle(self) -> None:
        """Records what follows from the runs so far, decisions that have changed, a new head, and its gain."""
        state = self.state()
        for idea, verdict in flips(state, self.tried.decisions_in_question(state)):
            self.store.add_verdict(idea, verdict)
            experiment = self.store.record(idea).experiment
            if experiment.branch in self.tables:
                self.tables[experiment.branch].is_behind = True
            self.observer.on_event("decision_changed", branch=experiment.branch, experiment=idea,
                                    title=experiment.title, decision=verdict.decision, reason=verdict.reason)  # fmt: skip
        self._move_head(state)
        self.tell_gain(state)

    def tell_gain(self, state: GroupState | None = None) -> None:
        """Records and tells what the head gains by all runs so far, of which `state` follows if it is known."""
        state, head = state or self.state(), self.head()
        gain = None if head is None else expected_gain(state, head.commit)
        if head is not None and gain is not None:
            name = f"{GAIN} {self.group} {state.records} {head.commit}"
            self.store.add_event(GAIN, gain_event(self.group, head.commit, state.records, gain), id=name)
            self.observer.on_head_gain(self.group, gain)

    def _move_head(self, state: GroupState) -> None:
        head = self.head()
        wanted = state.farm.head
        if head is None or frozenset(head.patches) == wanted:
            return
        measured = self._measured(state, head, wanted)
        if measured is None:  # it has not run yet: a merge will
            return
        change, gain = self.change(frozenset(head.patches), wanted), expected_gain(state, measured.commit)
        assert gain is not None, "it has run"
        moved = Head(commit=measured.commit, experiment_id=measured.id, scores=(), expected=gain.head,
                     patches=self._in_order(wanted))  # fmt: skip
        self.store.add_event(HEAD, head_event(self.group, moved, in_words(change)))
        self.observer.on_event("head_moved", branch=self.group, change=in_words(change), expected=moved.expected)

    def _measured(self, state: GroupState, head: Head, wanted: frozenset[str]) -> Experiment | None:
        """The latest experiment with a score whose train.py has these ideas and follows the head's commit."""
        experiments = self.store.experiments
        for line in reversed(self.tried.with_ideas(state, wanted)):
            has_score = any(run.status == "ok" and run.val_bpb is not None for run in experiments.runs_of(line.id))
            if has_score and follows(self._repo, head.commit, line.commit):
                return experiments.with_id(line.id).experiment
        return None

    def _rule_on(self, misfit: DoesNotFit) -> None:
        """Keeps an idea whose edit doesn't fit out of the head; or in it, if it can't be taken out."""
        head = self.head()
        is_in = head is not None and misfit.idea in head.patches
        reason = "later edits stand on it: it can't be taken out" if is_in else "its edit conflicts with the head"
        self._rule("pin" if is_in else "bar", (misfit.idea,), reason)
        self.settle()

    def _rule(self, ruling: Ruling, patches: tuple[str, ...], reason: str) -> None:
        self.store.add_event(RULING, ruling_event(self.group, Ruled(ruling=ruling, patches=patches, reason=reason)))

    def _misfit(self, head: Head, work: Work) -> str | None:
        """The first idea of a run that doesn't fit the head beside the others, or can't be taken out of it; None: it fits."""
        change = self.change(frozenset(head.patches), work.patches)
        try:
            changed_head(self.text_at(head.commit), change, self.text_at)
        except DoesNotFit as misfit:
            return misfit.idea
        return None

    def change(self, before: frozenset[str], after: frozenset[str]) -> HeadChange:
        """The step between two heads, given by the ideas in them."""
        ideas = [self.store.record(name).experiment for name in self._in_order(before | after)]
        return head_change(before, after, ideas)

    def _in_order(self, patches: frozenset[str]) -> tuple[str, ...]:
        """Ideas in the order in which they first ran."""
        return in_order(self.state(), patches)


def in_words(change: HeadChange) -> str:
    """What a step between two heads does, in one line."""
    added = [one_line(idea.title, 60) for idea in change.add]
    removed = [f"without {one_line(idea.title, 60)}" for idea in reversed(change.remove)]
    return "; ".join([*added, *removed])


async def read_due_merge(shared: SharedResearch, *, last: bool = False) -> None:
    """Reads the texts of the merge that is due beside the event loop, which would otherwise be late: it may have many parts.

    `last`: that which is due where no more ideas follow.
    """
    for _ in range(MOST_READINGS):  # while they are read, another merge may become due
        head, farm = shared.head(), shared.state().farm
        if head is None:
            return
        work = policy.next_work(farm, list(shared._under_way.values())) or (policy.last_merge(farm) if last else None)
        if work is None or work.kind != "merge":
            return
        change = shared.change(frozenset(head.patches), work.patches)
        if not await read_changed_head(shared.text_at(head.commit), change, shared.text_at, shared.reader):
            return


def leaving(shared: SharedResearch) -> frozenset[str]:
    """The ideas in the head's train.py that a person has dropped, or that no longer pay: the next merge is without them."""
    head = shared.head()
    return frozenset(head.patches) - policy.aimed_at(shared.state().farm) if head is not None else frozenset()


def entering(shared: SharedResearch) -> frozenset[str]:
    """The ideas that the next merge brings into the head: they were kept by other runs than one of such a head."""
    head = shared.head()
    return policy.aimed_at(shared.state().farm) - frozenset(head.patches) if head is not None else frozenset()


def is_still_wanted(shared: SharedResearch, record: ExperimentRecord) -> bool:
    """Whether an experiment that was cut off is to be finished: a merge without a score only if its ideas are still those of a
    next head. A person may have taken back what it was for.
    """
    head, experiment = shared.head(), record.experiment
    if experiment.kind != "merge" or head is None or any(run.status == "ok" for run in record.runs):
        return True
    farm = shared.state().farm
    next_heads = {farm.planned, farm.head, policy.aimed_at(farm)} - {frozenset(head.patches)}
    return frozenset(experiment.patches) in next_heads
