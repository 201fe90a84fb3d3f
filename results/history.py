"""The history as records, looked up by name. It is read from the journal, which works while a farm is running."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.errors import UserError
from research.formatting import counted
from research.result import RunResult
from results.experiment import (
    Branch,
    Experiment,
    ExperimentRecord,
    Usage,
    Verdict,
    branch_from,
    experiment_from,
    run_from,
    verdict_from,
)
from results.group_entries import (
    GAIN,
    HEAD,
    REQUEST,
    REQUEST_TAKEN,
    RULING,
    SUBMISSION,
    SUBMISSION_ENDED,
    Entry,
    Joined,
    Ran,
    ruled_from,
)
from results.group_history import Decided, GroupHistory, SavedState, is_baseline, is_keep
from results.journal import DamagedLine, JournalReader, JournalRecord
from results.researcher_costs import cost_in
from results.steering import SteeringEvents

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
    records: tuple[ExperimentRecord, ...]
    costs: tuple[Usage, ...] = ()
    """What its researcher cost, failed proposals included (`results/researcher_costs.py`)."""
    group: GroupHistory
    """The branches that it shares its head with, itself included."""

    @property
    def keeps(self) -> list[ExperimentRecord]:
        """The baseline and what was kept since on this branch, oldest first, as far as it has a score."""
        return [record for record in self.records if is_keep(record)]

    @property
    def baseline(self) -> ExperimentRecord | None:
        """The branch's own baseline, else another one of its group; None before one has a score."""
        return next((record for record in self.records if is_baseline(record) and is_keep(record)), self.group.baseline)

    @property
    def head(self) -> ExperimentRecord | None:
        """The experiment that made its group's head, on whatever branch; None before the baseline has a score."""
        return self.group.head_record


def read_history(journal: Path, *, on_damage: Callable[[DamagedLine], None] = lambda _: None) -> list[BranchHistory]:
    """All branches in a journal file, the one with the newest experiment last; none if the file does not exist.

    Damaged lines are left out, and passed to `on_damage`.
    """
    told, reader = _Told(), JournalReader(journal)
    for record in reader.one_by_one():
        told.take(record)
    for damage in reader.damaged:
        on_damage(damage)
    return told.histories(_saved_states(reader))


class HistoryFollower:
    """The branches of a journal that another process writes, which may not exist yet. Any thread may ask."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._lock = journal, threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._reader, self._told = JournalReader(self._journal), _Told()
        self._histories: list[BranchHistory] = []

    def histories(self) -> list[BranchHistory]:
        """All branches by now, the one with the newest experiment last; the same list as before if nothing is new."""
        with self._lock:
            if not self._reader.is_same_file():
                self._begin()
            new = self._reader.read_on()
            for record in new:
                self._told.take(record)
            if new:
                self._histories = self._told.histories(_saved_states(self._reader))
            return self._histories

    @property
    def damaged(self) -> int:
        """The number of damaged lines, which are left out."""
        return len(self._reader.damaged)


@dataclass(frozen=True)
class _Told:
    """What a journal has told so far."""

    branches: dict[str, Branch] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: list[tuple[str, RunResult]] = field(default_factory=list)
    verdicts: list[tuple[str, Verdict]] = field(default_factory=list)
    costs: dict[str, list[Usage]] = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    """By group, as are the heads, the gains and the requests."""
    heads: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    gains: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The latest event of each group."""
    requests: dict[str, dict[int, str]] = field(default_factory=dict)
    """What people have asked for and no loop has taken up, by its number."""
    submissions: dict[str, dict[str, str]] = field(default_factory=dict)
    """The titles of what was submitted from outside and no loop has taken up, by its id."""
    decisions: dict[str, list[Decided]] = field(default_factory=dict)
    steering: SteeringEvents = field(default_factory=SteeringEvents)

    def histories(self, saved: SavedState) -> list[BranchHistory]:
        """All branches, the one with the newest experiment last."""
        of_branch: dict[str, list[ExperimentRecord]] = {name: [] for name in self.branches}
        for assembled in assemble(self.experiments.values(), self.runs, self.verdicts):
            of_branch[assembled.experiment.branch].append(assembled)
        groups = {
            name: _group(name, self, of_branch, saved) for name in {branch.head_branch for branch in self.branches.values()}
        }
        histories = [
            BranchHistory(
                branch=branch,
                records=tuple(of_branch[name]),
                costs=tuple(self.costs.get(name, ())),
                group=groups[branch.head_branch],
            )
            for name, branch in self.branches.items()
        ]
        return sorted(histories, key=_last_change)

    def take(self, record: JournalRecord) -> None:
        """Takes one record of the journal into account."""
        body = record.body
        if record.kind == "branch":
            branch = branch_from(body)
            self.branches[branch.name] = branch
            self.entries.setdefault(branch.head_branch, []).append(Joined(branch=branch))
        elif record.kind == "experiment" and body["branch"] in self.branches:  # the branch's line may be damaged
            self.experiments[body["id"]] = experiment_from(body)
        elif record.kind == "run" and body["experiment_id"] in self.experiments:
            self._take_run(self.experiments[body["experiment_id"]], run_from(body))
        elif record.kind == "verdict":
            verdict = verdict_from(body)
            self.verdicts.append((body["experiment_id"], verdict))
            self.decisions.setdefault(body["experiment_id"], []).append(Decided(time=record.time, verdict=verdict))
        elif record.kind == "event":
            self._take_event(body["kind"], body["details"])
            self.steering.take(body["kind"], body["details"], record.time)
        cost = cost_in(record)
        if cost is not None:
            self.costs.setdefault(cost.branch, []).append(cost.usage)

    def _take_run(self, experiment: Experiment, run: RunResult) -> None:
        self.runs.append((experiment.id, run))
        self.entries[self.branches[experiment.branch].head_branch].append(Ran(experiment=experiment, run=run))

    def _take_event(self, kind: str, details: Mapping[str, Any]) -> None:
        if kind == RULING:
            self.entries.setdefault(details["group"], []).append(ruled_from(details))
        elif kind == HEAD:
            self.heads.setdefault(details["group"], []).append(details)
        elif kind == GAIN:
            self.gains[details["group"]] = details
        elif kind == REQUEST:
            self.requests.setdefault(details["branch"], {})[details["number"]] = details["request"]
        elif kind == REQUEST_TAKEN:
            self.requests.get(details["branch"], {}).pop(details["number"], None)
        elif kind == SUBMISSION:
            self.submissions.setdefault(details["branch"], {})[details["id"]] = details["title"]
        elif kind == SUBMISSION_ENDED:
            self.submissions.get(details["branch"], {}).pop(details["id"], None)


def _saved_states(reader: JournalReader) -> SavedState:
    """Returns the saved state of a group, of the records that were read; the file is read when one is asked for."""
    found: list[Mapping[str, tuple[int, GroupState]]] = []

    def state_of(group: str) -> "GroupState | None":
        from results.saved_states import SavedStates  # it needs NumPy, and without that a history is read at once

        if not found:
            found.append(SavedStates(reader.path.parent, reader.checksum, writes=False).load())
        return found[0][group][1] if group in found[0] else None

    return state_of


def _group(name: str, told: _Told, of_branch: Mapping[str, Sequence[ExperimentRecord]], saved: SavedState) -> GroupHistory:
    members = [branch for branch in told.branches.values() if branch.head_branch == name]
    records = {record.experiment.id: record for branch in members for record in of_branch[branch.name]}
    return GroupHistory(
        name=name,
        branches=tuple(members),
        records=tuple(records[id] for id in told.experiments if id in records),
        entries=tuple(told.entries[name]),
        saved=saved,
        head_events=tuple(told.heads.get(name, ())),
        decisions={id: told.decisions.get(id, ()) for id in records},
        gain_event=told.gains.get(name),
        requests=tuple(told.requests.get(name, {}).values()),
        submissions=told.submissions.get(name, {}),
        steering=told.steering.of_group(name, [branch.name for branch in members]),
    )


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
    records = [record for history in histories for record in history.records]
    for record in records:
        if record.experiment.id == name:
            return record
    if name.isdigit() and len(name) < SHORTEST_COMMIT:
        newest = next((history.records for history in reversed(histories) if history.records), ())
        found = [record for record in newest if record.experiment.number == int(name)]
    else:
        found = [r for r in records if name and (r.experiment.id.startswith(name) or r.experiment.commit.startswith(name))]
    if not found:
        what, there = ("branch, tag or experiment", f"{names_there(histories)}; ") if or_branch else ("experiment", "")
        lists = f"{ask} 'SELECT id, commit, title FROM history' lists {'experiments' if or_branch else 'them'}"
        raise UserError(f"No {what} is called {name!r}: {there}{lists}.")
    if len({record.experiment.commit for record in found}) > 1:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        some = ", ".join(record.experiment.id for record in found[:MOST_NAMED]) + more
        raise UserError(f"{name!r} could be any of {len(found)} experiments ({some}): give more characters.")
    return found[0]


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
    return next((one for one in sharing if best.head in one.records), best)


def _expected(history: BranchHistory) -> float:
    """The val_bpb that is expected of a branch's head by now; by the time when it became the head, if that isn't known."""
    gain, head = history.group.gain, history.group.head
    assert head is not None, "only for branches with a score"
    return gain.head if gain else head.expected


def _short(branch_name: str) -> str:
    """A git branch's name without the part before its first slash."""
    return branch_name.partition("/")[2] or branch_name


def _last_change(history: BranchHistory) -> str:
    return history.records[-1].experiment.created if history.records else history.branch.created
