"""Groups of branches in the store: their members, their policy's state, and the heads that they have had.

A state is computed from the records once, and brought up to date by those that are new.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentKind, Head, branch_from, experiment_from
from results.group_entries import HEAD, RULING, Entry, Joined, Ran, Ruled, ruled_from
from results.group_state import GroupState, advance, begin
from results.journal import JournalRecord
from results.remembered import RememberedAnswers
from results.saved_states import RECORDS_BETWEEN, SHARE_BETWEEN, SavedStates, States
from results.stored_events import StoredEvents
from results.stored_records import ExperimentLine, StoredRecords

FEWEST_TO_SAVE = 100
"""A state of fewer records is replayed in less time than anybody notices."""

Rows = Callable[..., list[tuple[Any, ...]]]
"""The rows of a query with parameters."""


class Groups:
    """The groups of a home. Any thread may ask."""

    def __init__(self, rows: Rows, *, records: Callable[[], StoredRecords], events: StoredEvents,
                 version: Callable[..., int], saved: SavedStates | None = None) -> None:  # fmt: skip
        """`version` returns a number that changes with every record of the kinds that it is given, those of events included.

        `saved` are the states of an earlier session; None: all records are replayed.
        """
        self._saved = saved
        self._loaded: States | None = None
        """What was saved; None until it has been read."""
        self._saved_at: dict[str, int] = {}
        """How many records each state followed from that is saved."""
        self._rows, self._records, self._events = rows, records, events
        self._lock = threading.RLock()
        self._states: dict[str, tuple[int, GroupState]] = {}
        self._follows = False
        """Whether a state was asked for, which new records bring up to date."""
        self._new: list[tuple[int, JournalRecord]] = []
        """Records that were added since the last look at them, with their positions."""
        self._new_of: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
        """What they and earlier ones say of each group, as far as its state doesn't have it yet."""
        self._known_branches: list[tuple[int, Branch]] = []
        self._by_name: dict[str, Branch] = {}
        self._branches_read = -1
        self._version = version
        self._of_members = RememberedAnswers(lambda: version("branch"))
        self._of_states = RememberedAnswers(lambda: version("branch", "run", RULING))
        self._of_heads = RememberedAnswers(lambda: version("branch", "experiment", "run", "verdict", HEAD))

    def names(self) -> list[str]:
        """The branches that hold the heads of all groups, the oldest group first."""
        return list(dict.fromkeys(branch.head_branch for _, branch in self._branches()))

    def members(self, group: str) -> list[Branch]:
        """The branches of a group, oldest first."""
        return self._of_members.answer(("members", group), lambda: [b for _, b in self._branches() if b.head_branch == group])

    def member_names(self, group: str) -> frozenset[str]:
        """The names of a group's branches."""
        return self._of_members.answer(("names", group), lambda: frozenset(branch.name for branch in self.members(group)))

    def state(self, group: str) -> GroupState:
        """The state of a group after all records so far. Raises KeyError for an unknown group."""
        return self._of_states.answer(("state", group), lambda: self._state(group))

    def _state(self, group: str) -> GroupState:
        with self._lock:
            self._follows = True
            position, state = self._states.get(group, (0, None))
            is_first = state is None
            if is_first:
                position, state = self._from_file().pop(group, (0, None))
                self._saved_at[group] = 0 if state is None else state.records
            for seq, entry in self.entries(group, position) if is_first else self._new_entries(group, position):
                if state is None:
                    if not isinstance(entry, Joined):  # the record of its branch is lost
                        continue
                    state = begin(entry.branch)
                position, state = seq, advance(state, entry)
            if state is None:
                raise KeyError(f"no branch has its head in {group!r}")
            self._states[group] = (position, state)
            new = state.records - self._saved_at[group]
            if new > max(RECORDS_BETWEEN, SHARE_BETWEEN * state.records):
                self.save()
            return state

    def save(self) -> None:
        """Saves the states that are known, unless they are as they were saved last, or quickly found again."""
        with self._lock:
            known = {group: state.records for group, (_, state) in self._states.items()}
            if self._saved is None or known == self._saved_at or max(known.values(), default=0) < FEWEST_TO_SAVE:
                return
            self._saved.save({**self._from_file(), **self._states})
            self._saved_at = known

    def _from_file(self) -> States:
        """The saved states of the groups that nobody has asked for yet."""
        if self._loaded is None:
            self._loaded = {} if self._saved is None else self._saved.load()
        return self._loaded

    def note(self, record: JournalRecord, position: int) -> None:
        """Notes a new record at a position of the journal, before `version` counts it."""
        if record.kind == "branch":
            self._note_branch(branch_from(json.loads(json.dumps(record.body))), position)
        if not self._follows:
            return
        if record.kind in ("branch", "run") or (record.kind == "event" and record.body["kind"] == RULING):
            self._new.append((position, record))

    def _note_branch(self, branch: Branch, position: int) -> None:
        """Adds a new branch to those that are known, if these are all: as many loops as there are add one at a start."""
        with self._lock:
            if self._branches_read == self._version("branch"):
                self._known_branches = [*self._known_branches, (position, branch)]
                self._by_name[branch.name] = branch
                self._branches_read += 1

    def _new_entries(self, group: str, after: int) -> list[tuple[int, Entry]]:
        """What was noted of a group, after a position of the journal up to which its state has all."""
        records = self._records()
        while self._new:
            position, record = self._new.pop(0)
            if record.kind == "branch":
                branch = branch_from(json.loads(json.dumps(record.body)))
                self._new_of[branch.head_branch].append((position, Joined(branch=branch)))
            elif record.kind == "run":
                line = records.line(record.body["experiment_id"])
                member = None if line is None else self.branch(line.branch)
                if line is not None and member is not None:  # else the record of its experiment or branch is lost
                    self._new_of[member.head_branch].append((position, records.ran(line.id, record.body["run_id"])))
            else:
                details = json.loads(json.dumps(record.body["details"]))
                self._new_of[details["group"]].append((position, ruled_from(details)))
        return [(seq, entry) for seq, entry in self._new_of.pop(group, []) if seq > after]

    def head(self, group: str) -> Head | None:
        """What new ideas of a group are tried on; None before a baseline has a score."""
        return self._of_heads.answer(("head", group), lambda: self._latest_head(group))

    def _latest_head(self, group: str) -> Head | None:
        recorded = self._events.of(HEAD, group, field="group")
        if recorded:
            return self._head(group, recorded[-1])
        first = self._first_head(group)
        return None if first is None else self._head(group, {"experiment": first.id, "commit": first.commit})

    def heads(self, group: str) -> list[Head]:
        """The heads that a group has had after its baseline, oldest first."""
        return [self._head(group, recorded) for recorded in self._events.of(HEAD, group, field="group")]

    def _head(self, group: str, recorded: Mapping[str, Any]) -> Head:
        records, names = self._records(), self.member_names(group)
        lines = [line for line in records.at_commit(recorded["commit"]) if line.branch in names and line.kind != "confirm"]
        runs = sorted(
            run for line in lines for run in records.runs_of(line.id) if run.status == "ok" and run.val_bpb is not None
        )
        peaks = [run.peak_memory_mb for run in runs if run.peak_memory_mb is not None]
        scores = tuple(run.val_bpb for run in runs if run.val_bpb is not None)
        return Head(
            commit=recorded["commit"],
            experiment_id=recorded["experiment"],
            scores=scores,
            expected=recorded.get("expected") or sum(scores) / max(1, len(scores)),
            patches=tuple(recorded.get("patches", ())),
            peak_memory_mb=sum(peaks) / len(peaks) if peaks else None,
        )

    def titles_of_kind(self, group: str, kind: ExperimentKind, *, done: bool = False) -> set[str]:
        """The titles of a group's experiments of one kind; of those that have a verdict, with `done`."""
        names = [branch.name for branch in self.members(group)]
        rows = self._rows(
            """SELECT title FROM experiments WHERE kind = ? AND branch = ANY(?)
               AND (NOT ? OR id IN (SELECT experiment_id FROM verdicts))""",
            kind,
            names,
            done,
        )
        return {title for (title,) in rows}

    def _first_head(self, group: str) -> ExperimentLine | None:
        """The group's baseline, or the latest keep of an older version of the farm, which recorded no heads.

        An idea that estimates keep is in a head only once that is recorded: a merge may have to verify it first.
        """
        kept = [line for branch in self.members(group) for line in self._records().kept(branch.name)]
        return max(filter(self._is_head_by_itself, kept), key=lambda line: (line.number, -line.seq), default=None)

    def _is_head_by_itself(self, kept: ExperimentLine) -> bool:
        if kept.kind == "baseline":
            return True
        verdict = self._records().with_id(kept.id).verdict
        return verdict is not None and verdict.effect is None

    def branch(self, name: str) -> Branch | None:
        """The branch with this name; None if there is none."""
        with self._lock:
            self._branches()
            return self._by_name.get(name)

    def branches(self) -> list[Branch]:
        """All branches, oldest first."""
        return [branch for _, branch in self._branches()]

    def _branches(self) -> list[tuple[int, Branch]]:
        """All branches with their positions in the journal. Each is parsed once: as many loops as there are ask at a start."""
        with self._lock:
            version = self._version("branch")
            if version != self._branches_read:
                last = self._known_branches[-1][0] if self._known_branches else 0
                new = self._rows("SELECT seq, record FROM branches WHERE seq > ? ORDER BY seq", last)
                found = [(seq, branch_from(json.loads(body))) for seq, body in new]
                self._known_branches = [*self._known_branches, *found]
                self._by_name.update({branch.name: branch for _, branch in found})
                self._branches_read = version
            return self._known_branches

    def entries(self, group: str, after: int = 0) -> list[tuple[int, Entry]]:
        """The group's records after a position of the journal, with their positions, in order."""
        branches = [(seq, branch) for seq, branch in self._branches() if branch.head_branch == group]
        names = [branch.name for _, branch in branches]
        found: list[tuple[int, Entry]] = [(seq, Joined(branch=branch)) for seq, branch in branches if seq > after]
        found += [(seq, _ran(experiment, run)) for seq, experiment, run in self._rows(
            """SELECT r.seq, e.record, r.record FROM runs r JOIN experiments e ON e.id = r.experiment_id
               WHERE r.seq > ? AND e.branch = ANY(?)""", after, names)]  # fmt: skip
        found += [(seq, ruled_from(json.loads(body))) for seq, body in self._rows(
            "SELECT seq, record FROM events WHERE seq > ? AND kind = ? AND record ->> '$.group' = ?",
            after, RULING, group)]  # fmt: skip
        return sorted(found, key=lambda item: item[0])


def head_event(group: str, head: Head, reason: str) -> dict[str, Any]:
    """The details of the event that a train.py has become a group's head."""
    return {"group": group, "branch": group, "commit": head.commit, "experiment": head.experiment_id,
            "expected": head.expected, "patches": list(head.patches), "reason": reason}  # fmt: skip


def ruling_event(group: str, ruled: Ruled) -> dict[str, Any]:
    """The details of the event that something was ruled about ideas."""
    return {"group": group, "branch": group, "ruling": ruled.ruling, "patches": list(ruled.patches), "reason": ruled.reason}


def _ran(experiment: str, run: str) -> Ran:
    body: Experiment = experiment_from(json.loads(experiment))
    return Ran(experiment=body, run=RunResult.from_json(run))
