"""What the loops of a group have tried, as follow-ups ask for it: by its id, its parent or its program."""

from collections.abc import Collection
from typing import Protocol

from agent.researcher import Context
from results.experiment import CHANGE_TRAIN_PY, Experiment, ExperimentKind, ExperimentRecord
from results.store import Store
from results.stored_records import ExperimentLine

OWN: tuple[ExperimentKind, ...] = (*CHANGE_TRAIN_PY, "baseline", "wave")
"""The kinds of a loop's own experiments that its researcher is shown; of another loop's those of CHANGE_TRAIN_PY.

Controls try nothing new, and no idea may be chosen by fresh seeds.
"""


class KnownExperiments(Protocol):
    """The experiments that a loop's researcher is shown."""

    def with_id(self, id: str) -> ExperimentRecord | None:
        """The experiment with this id; None if there is none."""

    def with_parent(self, id: str) -> list[Experiment]:
        """The experiments that follow up this one alone, oldest first."""

    def has_program(self, program: str) -> bool:
        """Whether one of them has this program, even a lost one."""


class KnownInContext:
    """The experiments of a context, all of which are read."""

    def __init__(self, context: Context) -> None:
        self._records = {record.experiment.id: record for record in (*context.records, *context.others)}
        self._programs = {record.experiment.program for record in self._records.values()}

    def with_id(self, id: str) -> ExperimentRecord | None:
        """The experiment with this id; None if there is none."""
        return self._records.get(id)

    def with_parent(self, id: str) -> list[Experiment]:
        """The experiments that follow up this one alone, oldest first."""
        return [record.experiment for record in self._records.values() if record.experiment.parents == (id,)]

    def has_program(self, program: str) -> bool:
        """Whether one of them has this program, even a lost one."""
        return program in self._programs


class KnownInStore:
    """The experiments of a group's branches in the store, of which those are read that are asked for."""

    def __init__(self, store: Store, branch: str, group: Collection[str]) -> None:
        """`branch` is the loop's own, and `group` are the names of all branches of its group."""
        self._store, self._branch, self._group = store, branch, group

    def with_id(self, id: str) -> ExperimentRecord | None:
        """The experiment with this id; None if there is none."""
        line = self._store.experiments.line(id)
        return self._store.record(id) if line is not None and self._is_shown(line) else None

    def with_parent(self, id: str) -> list[Experiment]:
        """The experiments that follow up this one alone, oldest first."""
        lines = [line for line in self._store.experiments.with_parent(id) if line.parents == (id,) and self._is_shown(line)]
        return [record.experiment for record in self._store.experiments.with_ids([line.id for line in lines])]

    def has_program(self, program: str) -> bool:
        """Whether one of them has this program, even a lost one."""
        return any(self._is_shown(line) for line in self._store.experiments.with_program(program))

    def _is_shown(self, line: ExperimentLine) -> bool:
        return line.branch in self._group and line.kind in (OWN if line.branch == self._branch else CHANGE_TRAIN_PY)
