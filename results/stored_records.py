"""The store's experiments with their runs and verdicts. Which belong together is kept in memory: loops ask at each step."""

import bisect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from results.experiment import ExperimentRecord
from results.history import assemble
from results.journal import RecordKind
from results.parsed_records import ParsedRecords

Rows = Callable[..., list[tuple[Any, ...]]]
"""The rows of a query with parameters."""


class StoredRecords:
    """The records that a database holds and those that are added to it. Any thread may ask.

    Only ids are kept of what nobody has asked for.
    """

    def __init__(self, rows: Rows) -> None:
        self._parsed = ParsedRecords(rows)
        self._lock = threading.Lock()
        self._experiments: dict[str, list[tuple[int, int, str]]] = {}
        """The number, the position in the journal and the id of each experiment of a branch, in order."""
        self._runs: dict[str, list[str]] = {}
        self._verdicts: dict[str, list[str]] = {}
        self._assembled: dict[str, ExperimentRecord] = {}
        for seq, id, branch, number in rows("SELECT seq, id, branch, number FROM experiments"):
            self._experiments.setdefault(branch, []).append((number, seq, id))
        for of_branch in self._experiments.values():
            of_branch.sort()
        for known, table in ((self._runs, "runs"), (self._verdicts, "verdicts")):
            for experiment_id, id in rows(f"SELECT experiment_id, id FROM {table} ORDER BY seq"):
                known.setdefault(experiment_id, []).append(id)

    def add(self, kind: RecordKind, key: str, body: Mapping[str, Any], *, position: int) -> None:
        """Takes note of a record that has been added, the one at `position` of the journal."""
        with self._lock:
            if kind == "experiment":
                bisect.insort(self._experiments.setdefault(body["branch"], []), (body["number"], position, key))
            elif kind in ("run", "verdict"):
                known = self._runs if kind == "run" else self._verdicts
                known.setdefault(body["experiment_id"], []).append(key)
                self._assembled.pop(body["experiment_id"], None)

    def of_branch(self, branch: str) -> list[ExperimentRecord]:
        """A branch's experiments, by their numbers."""
        with self._lock:
            return self._with_ids([id for _, _, id in self._experiments.get(branch, ())])

    def with_id(self, id: str) -> ExperimentRecord:
        """The experiment with this id, which must exist."""
        with self._lock:
            return self._with_ids([id])[0]

    def verdicts_of(self, experiment_id: str) -> list[str]:
        """The ids of all verdicts on an experiment, oldest first."""
        with self._lock:
            return list(self._verdicts.get(experiment_id, ()))

    def _with_ids(self, ids: list[str]) -> list[ExperimentRecord]:
        missing = [id for id in ids if id not in self._assembled]
        if missing:
            runs, verdicts = _pairs(self._runs, missing), _pairs(self._verdicts, missing)
            found = assemble(
                self._parsed.experiments(missing),
                zip((of for of, _ in runs), self._parsed.runs([id for _, id in runs]), strict=True),
                zip((of for of, _ in verdicts), self._parsed.verdicts([id for _, id in verdicts]), strict=True),
            )
            self._assembled.update(zip(missing, found, strict=True))
        return [self._assembled[id] for id in ids]


def _pairs(known: Mapping[str, list[str]], experiments: Iterable[str]) -> list[tuple[str, str]]:
    """The id of each experiment with each of what belongs to it."""
    return [(experiment, id) for experiment in experiments for id in known.get(experiment, ())]
