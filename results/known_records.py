"""Experiments with their runs and verdicts as they were read last: what has not changed since is not put together again."""

import threading
from collections.abc import Callable, Iterable, Sequence

from results.experiment import ExperimentRecord

Load = Callable[[Sequence[str]], Iterable[ExperimentRecord]]


class KnownRecords:
    """The experiments of branches that have been asked for. Any thread may ask."""

    def __init__(self, ids_of: Callable[[str], list[str]], load: Load) -> None:
        """`ids_of` returns the ids of a branch's experiments in order, and `load` the experiments with these ids, in any."""
        self._ids_of, self._load = ids_of, load
        self._lock = threading.RLock()
        self._changes = 0
        self._ids: dict[str, list[str]] = {}
        self._records: dict[str, ExperimentRecord] = {}

    def of_branch(self, branch: str) -> list[ExperimentRecord]:
        """A branch's experiments in order."""
        with self._lock:
            changes, ids = self._changes, self._ids.get(branch)
            known = {id: self._records.get(id) for id in ids or ()}
        if ids is None:
            ids = self._ids_of(branch)
        missing = [id for id in ids if known.get(id) is None]
        read = {record.experiment.id: record for record in self._load(missing)} if missing else {}
        with self._lock:
            if self._changes == changes:  # else what was read may be out of date by now
                self._ids[branch] = ids
                self._records.update(read)
        known.update(read)
        return [record for id in ids if (record := known.get(id)) is not None]

    def forget(self, *, experiment: str, branch: str | None = None) -> None:
        """Reads an experiment again when it is asked for next; and with `branch`, which experiments that has.

        To be called after a change can be read.
        """
        with self._lock:
            self._changes += 1
            self._records.pop(experiment, None)
            if branch is not None:
                self._ids.pop(branch, None)
