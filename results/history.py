"""The history as records, looked up by name. It is read from the journal, which works while a farm is running."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from research.errors import UserError
from research.formatting import counted
from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentRecord, Usage, Verdict
from results.group_entries import Entry
from results.group_history import Decided, GroupHistory, Outlined, SavedState, is_baseline, is_keep
from results.journal import DamagedLine, JournalChanged, JournalReader
from results.journal_index import FEWEST_TO_SAVE
from results.journal_records import JournalRecords
from results.outlines import Outline, outline_of_record
from results.records_on_demand import MappingOnDemand, OnDemand
from results.told import MOST_KEPT, Kept, Told, told_by

if TYPE_CHECKING:
    from results.group_state import GroupState

SHORTEST_COMMIT = 5
"""Minimum length of a commit's prefix: fewer digits are the number of an experiment."""

MOST_NAMED = 5
"""Maximum number of experiments to list for an ambiguous name, and of tags, and of branches of each, for an unknown one."""


@dataclass(frozen=True, kw_only=True)
class BranchHistory:
    """A branch with its experiments, oldest first. As in its group, the records hold audit scores."""

    branch: Branch
    records: Sequence[ExperimentRecord]
    """As in its group, those of a long history are read when they are looked at."""
    costs: tuple[Usage, ...] = ()
    """What its researcher cost, failed proposals included (`results/researcher_costs.py`)."""
    group: GroupHistory
    """The branches that it shares its head with, itself included."""

    @cached_property
    def outlines(self) -> tuple[Outline, ...]:
        """The outlines of its experiments, in the order of `records`."""
        if self.group.outlined is None:
            return tuple(map(outline_of_record, self.records))
        return tuple(one for one in self.group.outlines if one.experiment.branch == self.branch.name)

    @property
    def keeps(self) -> list[ExperimentRecord]:
        """The baseline and what was kept since on this branch, oldest first, as far as it has a score."""
        return [self.records[at] for at, outline in enumerate(self.outlines) if is_keep(outline)]

    @property
    def baseline(self) -> ExperimentRecord | None:
        """The branch's own baseline, else another one of its group; None before one has a score."""
        places = (at for at, outline in enumerate(self.outlines) if is_baseline(outline) and is_keep(outline))
        first = next(places, None)
        return self.group.baseline if first is None else self.records[first]

    @property
    def head(self) -> ExperimentRecord | None:
        """The experiment that made its group's head, on whatever branch; None before the baseline has a score."""
        return self.group.head_record


def read_history(
    journal: Path, *, on_damage: Callable[[DamagedLine], None] = lambda _: None, fewest: int = FEWEST_TO_SAVE
) -> list[BranchHistory]:
    """All branches in a journal file, the one with the newest experiment last; none if the file does not exist.

    Damaged lines are left out, and passed to `on_damage`. Of a journal with at least `fewest` records outlines are saved in its
    home, and records that are in these are read when they are looked at.
    """
    reader = JournalReader(journal)
    told, kept = told_by(reader, fewest=fewest)
    for damage in reader.damaged:
        on_damage(damage)
    return _histories(reader, told, kept)


class HistoryFollower:
    """The branches of a journal that another process writes, which may not exist yet. Any thread may ask."""

    def __init__(self, journal: Path, *, most_kept: int = MOST_KEPT) -> None:
        """The records of a journal of at most `most_kept` bytes are kept in memory as they are read."""
        self._journal, self._lock, self._most_kept = journal, threading.Lock(), most_kept
        self._begin()

    def _begin(self) -> None:
        self._reader = JournalReader(self._journal)
        self._told: tuple[Told, Kept | None] | None = None
        self._histories: list[BranchHistory] = []
        self._shown = 0
        """How many records the histories are made of."""

    def histories(self) -> list[BranchHistory]:
        """All branches by now, the one with the newest experiment last; the same list as before if nothing is new."""
        with self._lock:
            try:
                return self._up_to_date()
            except JournalChanged:  # while it was read
                self._begin()
                return self._up_to_date()

    def _up_to_date(self) -> list[BranchHistory]:
        if not self._reader.is_same_file():
            self._begin()
        if self._told is None:
            self._reader = JournalReader(self._journal)  # an attempt before may have ended half-way
            self._told = told_by(self._reader, most_kept=self._most_kept)
        told, kept = self._told
        for record in self._reader.one_by_one():
            told.take(record, len(self._reader), kept)
        if len(self._reader) > self._shown:
            self._shown = len(self._reader)
            self._histories = _histories(self._reader, told, kept)
        return self._histories

    @property
    def damaged(self) -> int:
        """The number of damaged lines, which are left out."""
        return len(self._reader.damaged)


def _histories(reader: JournalReader, told: Told, kept: Kept | None) -> list[BranchHistory]:
    """All branches of what a journal has told, the one with the newest experiment last."""
    saved, of_group = _saved_states(reader), _outlines_by_group(told)
    if kept is None:
        groups = _groups_on_demand(JournalRecords(reader, told.outlines), told, of_group, saved)
    else:
        groups = _groups_in_memory(kept, told, of_group, saved)
    histories = []
    for name, branch in told.branches.items():
        group = groups[branch.head_branch]
        costs = tuple(told.costs.get(name, ()))
        histories.append(BranchHistory(branch=branch, records=_of_branch(group, name), costs=costs, group=group))
    return sorted(histories, key=_last_change)


def _outlines_by_group(told: Told) -> dict[str, list[Outline]]:
    """The outlines of each group's experiments, in the order of their records."""
    found: dict[str, list[Outline]] = {branch.head_branch: [] for branch in told.branches.values()}
    for outline in told.outlines.values():
        found[told.branches[outline.experiment.branch].head_branch].append(outline)
    return found


def _groups_in_memory(kept: Kept, told: Told, of_group: Mapping[str, Sequence[Outline]], saved: SavedState
                      ) -> dict[str, GroupHistory]:  # fmt: skip
    """The groups by their records."""
    assembled = assemble(kept.experiments.values(), kept.runs, kept.verdicts)
    records = {record.experiment.id: record for record in assembled}
    return {
        name: _group(
            name,
            told,
            saved,
            records=tuple(records[outline.experiment.id] for outline in outlines),
            entries=tuple(kept.entries[name]),
            decisions={one.experiment.id: kept.decisions.get(one.experiment.id, ()) for one in outlines},
            outlines=outlines,
        )
        for name, outlines in of_group.items()
    }


def _groups_on_demand(journal: JournalRecords, told: Told, of_group: Mapping[str, Sequence[Outline]], saved: SavedState
                      ) -> dict[str, GroupHistory]:  # fmt: skip
    """The groups by outlines, and by records that are read from the journal when they are looked at."""
    return {
        name: _group(
            name,
            told,
            saved,
            records=OnDemand(partial(tuple, outlines), journal.experiments),
            entries=OnDemand(partial(_first, told.places[name], len(told.places[name])), journal.entries),
            decisions=MappingOnDemand({one.experiment.id: one for one in outlines}, journal.decisions),
            outlines=outlines,
        )
        for name, outlines in of_group.items()
    }


def _first(places: Sequence[int], count: int) -> Sequence[int]:
    """The first of some places, to which more are added while somebody reads."""
    return tuple(places[:count])


def _group(name: str, told: Told, saved: SavedState, *, records: Sequence[ExperimentRecord], entries: Sequence[Entry],
           decisions: Mapping[str, Sequence[Decided]], outlines: Sequence[Outline]) -> GroupHistory:  # fmt: skip
    members = [branch for branch in told.branches.values() if branch.head_branch == name]
    return GroupHistory(
        name=name,
        branches=tuple(members),
        records=records,
        entries=entries,
        outlined=Outlined(outlines=tuple(outlines), rulings=tuple(told.rulings.get(name, ()))),
        saved=saved,
        head_events=tuple(told.heads.get(name, ())),
        decisions=decisions,
        gain_event=told.gains.get(name),
        requests=tuple(told.requests.get(name, {}).values()),
        submissions=dict(told.submissions.get(name, {})),
        steering=told.steering.of_group(name, [branch.name for branch in members]),
    )


def _of_branch(group: GroupHistory, branch: str) -> Sequence[ExperimentRecord]:
    """The experiments of one of a group's branches."""
    if len(group.branches) == 1:
        return group.records
    places = [at for at, outline in enumerate(group.outlines) if outline.experiment.branch == branch]
    if isinstance(group.records, tuple):
        return tuple(group.records[at] for at in places)
    return OnDemand(partial(tuple, places), lambda chosen: [group.records[at] for at in chosen])


def _saved_states(reader: JournalReader) -> SavedState:
    """Returns the saved state of a group, of the records that were read; the file is read when one is asked for."""
    found: list[Mapping[str, tuple[int, GroupState]]] = []

    def state_of(group: str) -> "GroupState | None":
        from results.saved_states import SavedStates  # it needs NumPy, and without that a history is read at once

        if not found:
            found.append(SavedStates(reader.path.parent, reader.checksum, writes=False).load())
        return found[0][group][1] if group in found[0] else None

    return state_of


def assemble(
    experiments: Iterable[Experiment], runs: Iterable[tuple[str, RunResult]], verdicts: Iterable[tuple[str, Verdict]]
) -> list[ExperimentRecord]:
    """A record for each experiment, in the order given, with its runs and its latest verdict.

    Runs and verdicts come with their experiment's id, oldest first.
    """
    runs_of: dict[str, list[RunResult]] = {}
    for experiment_id, run in runs:
        runs_of.setdefault(experiment_id, []).append(run)
    latest = dict(verdicts)
    return [
        ExperimentRecord(experiment=one, runs=tuple(runs_of.get(one.id, ())), verdict=latest.get(one.id)) for one in experiments
    ]


def branch_named(histories: Sequence[BranchHistory], name: str | None) -> BranchHistory:
    """The branch with this name (the part before the slash may be left out), or the best of the branches that share the head
    of this name, or of this tag.

    None means the newest tag that has a score. A tag's branches compare with its newest one if platform and score
    fingerprint are equal. Raises UserError, which lists what there is. `histories` must not be empty.
    """
    if name is None:
        tag = next((history for history in reversed(histories) if history.keeps), histories[-1]).branch.tag
    else:
        exact = [history for history in histories if name in (history.branch.name, _short(history.branch.name))]
        if exact:
            return exact[0]
        sharing = [history for history in histories if name in (history.group.name, _short(history.group.name))]
        if sharing:
            return _best_of_comparable(sharing)
        tag = _short(name)
    tagged = [history for history in histories if history.branch.tag == tag]
    if not tagged:
        raise UserError(f"No branch or tag is called {name!r}: {names_there(histories)}.")
    return _best_of_comparable(tagged)


def branches_named(histories: Sequence[BranchHistory], name: str | None) -> list[BranchHistory]:
    """The branches with this name, of this tag, or that share the head of this name; all for None.

    Raises UserError, which lists what there is.
    """
    chosen = [history for history in histories if name is None or name in _names(history)]
    if not chosen:
        raise UserError(f"No branch or tag is called {name!r}: {names_there(histories)}.")
    return chosen


def by_head(histories: Iterable[BranchHistory]) -> list[list[BranchHistory]]:
    """The branches that share a head together, in the order of their loops."""
    of_group: dict[str, list[BranchHistory]] = {}
    for history in histories:
        of_group.setdefault(history.group.name, []).append(history)
    return [sorted(sharing, key=lambda one: (one.branch.loop, one.branch.name)) for sharing in of_group.values()]


def names_a_branch(histories: Sequence[BranchHistory], name: str) -> bool:
    """Whether a branch, a head or a tag has this name."""
    return any(name in _names(history) for history in histories)


def names_there(histories: Sequence[BranchHistory]) -> str:
    """The tags and their branches, the newest ones, in words."""
    if not histories:
        return "nothing is recorded yet"
    of_tag: dict[str, list[str]] = {}
    for history in reversed(histories):
        of_tag.setdefault(history.branch.tag, []).append(_short(history.branch.name))
    tags = list(of_tag)
    more = f" and {counted(len(tags) - MOST_NAMED, 'older tag')}" if len(tags) > MOST_NAMED else ""
    named = ", ".join(_with_branches(tag, of_tag[tag]) for tag in tags[:MOST_NAMED])
    return f"there {'is' if len(tags) == 1 else 'are'} {named}{more}"


def _with_branches(tag: str, names: Sequence[str]) -> str:
    """A tag with its branches, if they have other names."""
    others = sorted(name for name in names if name != tag)
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"{tag} ({', '.join(others[:MOST_NAMED])}{more})" if others else tag


def _names(history: BranchHistory) -> set[str]:
    """What a branch is chosen by: its tag, its name, and that of the head that it shares, in full and in short."""
    names = (history.branch.tag, history.branch.name, history.group.name)
    return {*names, *(_short(name) for name in names)}


def experiment_named(
    histories: Sequence[BranchHistory], name: str, *, ask: str = "farm sql", or_branch: bool = False
) -> ExperimentRecord:
    """The experiment with this id; else the one whose id or commit begins with it, or the newest branch's with this number.

    Raises UserError if there is none, or several; `ask` is the command that queries this history. With `or_branch` the error
    also lists the branches, whose names would have done.
    """
    every = [(history, at, outline.experiment) for history in histories for at, outline in enumerate(history.outlines)]
    for history, at, experiment in every:
        if experiment.id == name:
            return history.records[at]
    if name.isdigit() and len(name) < SHORTEST_COMMIT:
        newest = next((history for history in reversed(histories) if history.outlines), None)
        found = [one for one in every if one[0] is newest and one[2].number == int(name)]
    else:
        found = [one for one in every if name and (one[2].id.startswith(name) or one[2].commit.startswith(name))]
    if not found:
        what, there = ("branch, tag or experiment", f"{names_there(histories)}; ") if or_branch else ("experiment", "")
        lists = f"{ask} 'SELECT id, commit, title FROM history' lists {'experiments' if or_branch else 'them'}"
        raise UserError(f"No {what} is called {name!r}: {there}{lists}.")
    if len({experiment.commit for _, _, experiment in found}) > 1:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        some = ", ".join(experiment.id for _, _, experiment in found[:MOST_NAMED]) + more
        raise UserError(f"{name!r} could be any of {len(found)} experiments ({some}): give more characters.")
    history, at, _ = found[0]
    return history.records[at]


def _best_of_comparable(tagged: Sequence[BranchHistory]) -> BranchHistory:
    """The branch whose head is expected to score lowest, among those that compare with the newest one of the tag.

    Of branches that share that head it is the one that made it; the newest if none has a score.
    """
    newest = tagged[-1]
    terms = (newest.branch.platform, newest.branch.score_fingerprint)
    comparable = [one for one in tagged if (one.branch.platform, one.branch.score_fingerprint) == terms]
    scored = {one.group.name: one for one in comparable if one.group.head is not None}  # of each group the newest branch
    if not scored:
        return newest
    best = min(reversed(scored.values()), key=_expected) if len(scored) > 1 else next(iter(scored.values()))
    sharing = [one for one in comparable if one.group is best.group]
    head = best.group.head
    made = best.group.outlines[best.group.place_of[head.experiment_id]].experiment.branch if head else ""
    return next((one for one in sharing if one.branch.name == made), best)


def _expected(history: BranchHistory) -> float:
    """The val_bpb that is expected of a branch's head by now; by the time when it became the head, if that isn't known."""
    gain, head = history.group.gain, history.group.head
    assert head is not None, "only for branches with a score"
    return gain.head if gain else head.expected


def _short(branch_name: str) -> str:
    """A git branch's name without the part before its first slash."""
    return branch_name.partition("/")[2] or branch_name


def _last_change(history: BranchHistory) -> str:
    return history.outlines[-1].experiment.created if history.outlines else history.branch.created
