"""Groups of branches in the store: their members, their policy's state, and the heads that they have had.

A state is computed from the records once, and brought up to date by those that are new.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentKind, Head, branch_from, experiment_from
from results.group_entries import HEAD, RULING, Entry, Joined, Ran, Ruled, ruled_from
from results.group_state import GroupState, advance, begin
from results.remembered import RememberedAnswers

Rows = Callable[..., list[tuple[Any, ...]]]
"""The rows of a query with parameters."""


class Groups:
    """The groups of a home. Any thread may ask."""

    def __init__(self, rows: Rows, *, version: Callable[[], int]) -> None:
        """`version` returns a number that changes with every record."""
        self._rows = rows
        self._lock = threading.RLock()
        self._states: dict[str, tuple[int, GroupState]] = {}
        self._known_branches: list[tuple[int, Branch]] = []
        self._answer = RememberedAnswers(version).answer

    def names(self) -> list[str]:
        """The branches that hold the heads of all groups, the oldest group first."""
        return list(dict.fromkeys(branch.head_branch for _, branch in self._branches()))

    def members(self, group: str) -> list[Branch]:
        """The branches of a group, oldest first."""
        return self._answer(("members", group), lambda: [b for _, b in self._branches() if b.head_branch == group])

    def state(self, group: str) -> GroupState:
        """The state of a group after all records so far. Raises KeyError for an unknown group."""
        return self._answer(("state", group), lambda: self._state(group))

    def _state(self, group: str) -> GroupState:
        with self._lock:
            position, state = self._states.get(group, (0, None))
            for seq, entry in self.entries(group, position):
                if state is None:
                    if not isinstance(entry, Joined):  # the record of its branch is lost
                        continue
                    state = begin(entry.branch)
                position, state = seq, advance(state, entry)
            if state is None:
                raise KeyError(f"no branch has its head in {group!r}")
            self._states[group] = (position, state)
            return state

    def head(self, group: str) -> Head | None:
        """What new ideas of a group are tried on; None before a baseline has a score."""
        return self._answer(("head", group), lambda: self._latest_head(group))

    def _latest_head(self, group: str) -> Head | None:
        recorded = self._head_events(group, latest=True) or self._first_head(group)
        return self._head(group, recorded[0]) if recorded else None

    def heads(self, group: str) -> list[Head]:
        """The heads that a group has had after its baseline, oldest first."""
        return [self._head(group, recorded) for recorded in self._head_events(group)]

    def _head(self, group: str, recorded: dict[str, Any]) -> Head:
        runs = self._rows(
            """SELECT r.val_bpb, r.peak_memory_mb FROM runs r JOIN experiments e ON e.id = r.experiment_id
               WHERE e.commit = ? AND e.branch = ANY(?) AND e.kind <> 'confirm' AND r.status = 'ok' AND r.val_bpb IS NOT NULL
               ORDER BY r.seq""",
            recorded["commit"],
            [branch.name for branch in self.members(group)],
        )
        peaks = [peak for _, peak in runs if peak is not None]
        scores = tuple(score for score, _ in runs)
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

    def _head_events(self, group: str, *, latest: bool = False) -> list[dict[str, Any]]:
        order = "DESC LIMIT 1" if latest else ""
        sql = f"SELECT record FROM events WHERE kind = ? AND record ->> '$.group' = ? ORDER BY seq {order}"
        return [json.loads(details) for (details,) in self._rows(sql, HEAD, group)]

    def _first_head(self, group: str) -> list[dict[str, Any]]:
        """The latest keep of the group: its baseline, or what an older version of the farm kept after it."""
        rows = self._rows(
            """SELECT e.id, e.commit FROM experiments e JOIN verdicts v ON v.experiment_id = e.id WHERE e.branch = ANY(?)
               GROUP BY e.id, e.commit, e.number, e.seq HAVING arg_max(v.decision, v.seq) = 'keep'
               ORDER BY e.number DESC, e.seq LIMIT 1""",
            [branch.name for branch in self.members(group)],
        )
        return [{"experiment": id, "commit": commit} for id, commit in rows]

    def branches(self) -> list[Branch]:
        """All branches, oldest first."""
        return [branch for _, branch in self._branches()]

    def _branches(self) -> list[tuple[int, Branch]]:
        """All branches with their positions in the journal. Each is parsed once: as many loops as there are ask at a start."""
        with self._lock:
            last = self._known_branches[-1][0] if self._known_branches else 0
            new = self._rows("SELECT seq, record FROM branches WHERE seq > ? ORDER BY seq", last)
            self._known_branches += [(seq, branch_from(json.loads(body))) for seq, body in new]
            return list(self._known_branches)

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
