"""The branches that share a head, as the journal tells of them: their experiments, their heads, and what all runs say.

What the runs say is computed when it is first asked for, once for each group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from research.command_hints import to_type
from research.errors import UserError
from results.experiment import Branch, Decision, ExperimentRecord, Head, Verdict
from results.group_entries import Entry, Ran, Ruled
from results.head_gain import ExpectedGain, gain_in, gain_text
from results.machine_shares import UnequalShare, unequal_shares
from results.outlines import AnyRecord, AnyRun, Outline, names_of, outline_of_record
from results.steering import Steering, ideas_since_keep

if TYPE_CHECKING:
    from results.group_state import GroupState

SavedState = Callable[[str], "GroupState | None"]
"""Returns the saved state of a group; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A decision on an experiment, and when it was made."""

    time: str
    """ISO 8601, UTC."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Outlined:
    """What is known of a group's records without reading them."""

    outlines: tuple[Outline, ...]
    """Those of the experiments, in the order of the records."""
    rulings: tuple[Ruled, ...] = ()
    """What was ruled about ideas, oldest first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupHistory:
    """A group of branches with one head. The records hold audit scores: they are for people, not for researchers."""

    name: str
    """The branch that holds the head."""
    branches: tuple[Branch, ...]
    records: Sequence[ExperimentRecord] = ()
    """The experiments of all branches, oldest first. Those of a long history are read when they are looked at: what goes
    through all of them should need no more than `outlines`."""
    entries: Sequence[Entry] = ()
    """What the estimates follow from, in the order of the journal. They are read like the records."""
    outlined: Outlined | None = None
    """What is known of them without reading them; None: all of them are in memory."""
    head_events: tuple[Mapping[str, Any], ...] = ()
    """The details of the events that something became the head, oldest first."""
    decisions: Mapping[str, Sequence[Decided]] = field(default_factory=dict)
    """Every decision on each experiment, oldest first, by the experiment's id."""
    gain_event: Mapping[str, Any] | None = None
    """The details of the latest event that records what the head gains."""
    requests: tuple[str, ...] = ()
    """What people have asked of the loops and none has taken up yet, oldest first."""
    submissions: Mapping[str, str] = field(default_factory=dict)
    """The titles of what was submitted from outside and no loop has taken up yet, by its id, oldest first."""
    steering: Steering = field(default_factory=Steering)
    saved: SavedState = lambda _: None
    """Returns the group's state after its first entries, as an earlier session has saved it; None if there is none."""

    @cached_property
    def outlines(self) -> tuple[Outline, ...]:
        """The outlines of the experiments, in the order of `records`."""
        return self.outlined.outlines if self.outlined else tuple(map(outline_of_record, self.records))

    @cached_property
    def rulings(self) -> tuple[Ruled, ...]:
        """What was ruled about ideas, oldest first."""
        return self.outlined.rulings if self.outlined else tuple(one for one in self.entries if isinstance(one, Ruled))

    def runs(self) -> list[AnyRun]:
        """The runs of all branches in the order in which they ended."""
        if self.outlined is None:
            return [entry.run for entry in self.entries if isinstance(entry, Ran)]
        of_all = [run for outline in self.outlined.outlines for run in outline.runs]
        return [*sorted(of_all, key=lambda run: run.at)]

    @cached_property
    def place_of(self) -> Mapping[str, int]:
        """The place of each experiment among the records, by its id."""
        return {outline.experiment.id: at for at, outline in enumerate(self.outlines)}

    @cached_property
    def _at_commit(self) -> Mapping[str, list[Outline]]:
        """The outlines of the experiments that run a commit."""
        found: dict[str, list[Outline]] = {}
        for outline in self.outlines:
            found.setdefault(outline.experiment.commit, []).append(outline)
        return found

    def decided(self, outline: Outline) -> list[Decision]:
        """How an experiment of the group was decided, oldest first."""
        if self.outlined is not None:
            return [one.decision for one in outline.decisions]
        return [one.verdict.decision for one in self.decisions.get(outline.experiment.id, ())]

    def record(self, id: str) -> ExperimentRecord:
        """The experiment with this id, which must be one of the group's."""
        return self.records[self.place_of[id]]

    def chosen(self, is_wanted: Callable[[Outline], bool]) -> list[ExperimentRecord]:
        """The experiments whose outlines are wanted, oldest first."""
        return [self.records[at] for at, outline in enumerate(self.outlines) if is_wanted(outline)]

    def latest(self, is_wanted: Callable[[Outline], bool], most: int) -> list[ExperimentRecord]:
        """The latest experiments whose outlines are wanted, `most` at most, oldest first."""
        places = (at for at in range(len(self.outlines))[::-1] if is_wanted(self.outlines[at]))
        return [self.records[at] for at in [*islice(places, most)][::-1]]

    @cached_property
    def state(self) -> "GroupState | None":
        """What all runs say; None before a baseline has a score, or if another version of the farm made the branches."""
        from results.group_state import replay  # it needs NumPy, and without that a history is read at once

        if self._first_state is None:
            return None
        saved = self.saved(self.name)
        if saved is not None and saved.records <= len(self.entries):
            state = replay(saved, self.entries[saved.records :])
        else:
            state = replay(self._first_state, self.entries)
        return state if state.farm.baselines else None

    @cached_property
    def _first_state(self) -> "GroupState | None":
        """The state before any run; None if this version of the farm doesn't know the terms of the branches."""
        from results.group_state import begin

        try:
            return begin(self.branches[0])
        except (TypeError, UserError):  # other constants of a contract, or a profile that is unknown here
            return None

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The heads that the group has had after its baseline, oldest first."""
        known = self.place_of  # a line of the journal may be damaged
        return tuple(self._head(event) for event in self.head_events if event["experiment"] in known)

    @cached_property
    def head(self) -> Head | None:
        """What new ideas are tried on; None before a baseline has a score.

        Without an event it is the latest keep: the baseline, or what an older version of the farm kept after it.
        """
        if self.heads:
            return self.heads[-1]
        numbered = [(outline.experiment.number, -at, outline) for at, outline in enumerate(self.outlines) if is_keep(outline)]
        if not numbered:
            return None
        latest = max(numbered, key=lambda found: found[:2])[2].experiment
        return self._head({"commit": latest.commit, "experiment": latest.id})

    @cached_property
    def gain(self) -> ExpectedGain | None:
        """What all runs say of the head's gain, as it was recorded after the last of them; None if it isn't known."""
        if self.head is None:
            return None
        told = self.gain_event and gain_in(self.gain_event, self.head.commit, len(self.entries))
        if told or self.state is None:
            return told or None
        from results.expected_gain import expected_gain

        return expected_gain(self.state, self.head.commit)

    @property
    def standing(self) -> str:
        """Where the group stands, in one line."""
        if self.head is None:
            last = next((outline for outline in reversed(self.outlines) if outline.experiment.kind == "baseline"), None)
            if last is None or last.verdict is None or last.is_abandoned:
                return "no score yet: the baseline has not finished"
            return f"no score yet: the baseline failed (`{to_type(f'farm show {last.experiment.id}')}` says why)"
        if self.gain is None and self._first_state is None:
            return "no estimate: this version of the farm doesn't know the terms of these branches"
        if self.gain is None:
            return f"no estimate: a line of the journal that it follows from is lost (`{to_type('farm doctor')}` checks it)"
        return gain_text(self.gain)

    @property
    def waiting(self) -> frozenset[str]:
        """The ideas that are kept, as their latest verdicts say, and wait for a merge to bring them into the head; none by the
        greedy rule.
        """
        is_old = not self.heads and not (self.baseline and self.baseline.experiment.program)  # its head is the latest keep
        if is_old or self.branches[0].rule == "greedy":
            return frozenset()
        head, inside = self.heads[-1] if self.heads else None, self._heads_of_no_idea
        of_head = {*head.patches, head.experiment_id} if head else set[str]()
        for outline in self.outlines:
            if outline.experiment.id in of_head:
                inside |= _names(outline)
        kept = (outline for outline in self.outlines if outline.is_idea and is_keep(outline))
        return frozenset(outline.experiment.id for outline in kept if inside.isdisjoint(_names(outline)))

    @property
    def _heads_of_no_idea(self) -> set[str]:
        """The experiments that made a head, and whose commit has no idea by their id: merges, and commits of what was known."""
        ideas = {idea for head in self.heads for idea in head.patches}
        return {head.experiment_id for head in self.heads} - ideas

    @cached_property
    def head_record(self) -> ExperimentRecord | None:
        """The experiment that made the head; None before a baseline has a score."""
        head = self.head
        return None if head is None else self.record(head.experiment_id)

    @property
    def is_at_baseline(self) -> bool:
        """Whether the head is the baseline, or has come back to the same program; also before either has a score."""
        head, baseline = self.head_record, self.baseline
        if self.head is None or head is None or baseline is None:
            return True
        tried, untouched = head.experiment, baseline.experiment
        if tried.commit == untouched.commit or (tried.program and tried.program == untouched.program):
            return True
        return self.gain is not None and self.gain.low == self.gain.high

    @cached_property
    def baseline(self) -> ExperimentRecord | None:
        """The first baseline that was kept; None before one has a score."""
        places = (at for at, outline in enumerate(self.outlines) if is_baseline(outline) and is_keep(outline))
        first = next(places, None)
        return None if first is None else self.records[first]

    @cached_property
    def unequal_shares(self) -> list[UnequalShare]:
        """The runs of all branches that had another share of the machine than usual, in the order of their experiments."""
        return unequal_shares(self.outlines, self.runs())

    @property
    def plateau(self) -> int:
        """The number of ideas without a keep, if researchers are told so; else 0."""
        ideas = (outline for outline in reversed(self.outlines) if outline.is_idea)
        count, last_keep = ideas_since_keep((one.experiment.id, one.verdict.decision if one.verdict else "") for one in ideas)
        return count if last_keep == self.steering.plateau_after else 0

    @property
    def scored_runs(self) -> int:
        """The number of runs that ended well, by which those with unequal shares of the machine are counted."""
        return sum(run.status == "ok" for outline in self.outlines for run in outline.runs)

    def scores(self, commit: str) -> list[float]:
        """The scores of all runs of a commit but its confirmations."""
        outlines = self._at_commit.get(commit, ())
        return [score for outline in outlines if outline.experiment.kind != "confirm" for score in scores_in(outline)]

    def _head(self, event: Mapping[str, Any]) -> Head:
        scores = tuple(self.scores(event["commit"]))
        return Head(
            commit=event["commit"],
            experiment_id=event["experiment"],
            scores=scores,
            expected=event.get("expected") or sum(scores) / len(scores),
            patches=tuple(event.get("patches", ())),
        )


def _names(outline: Outline) -> set[str]:
    """What tells an idea apart, whoever tries it: its id, its program and its edit."""
    return {outline.experiment.id} | names_of(outline)


def is_keep(record: AnyRecord) -> bool:
    """Whether an experiment is kept and has a score. A confirmation decides nothing."""
    verdict = record.verdict
    is_kept = verdict is not None and verdict.decision == "keep" and record.val_bpb is not None
    return is_kept and record.experiment.kind != "confirm"


def is_baseline(record: AnyRecord) -> bool:
    """Whether an experiment measures a branch's first commit."""
    return record.experiment.kind == "baseline"


def scores_in(record: AnyRecord) -> list[float]:
    """The val_bpb of an experiment's runs that ended well."""
    return [run.val_bpb for run in record.runs if run.status == "ok" and run.val_bpb is not None]
