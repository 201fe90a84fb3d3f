"""The store's experiments with their runs and verdicts. Where each belongs is kept in memory: loops ask at each step.

Of each experiment that is a line: what it is found by. Whole records are read when they are used, and the latest ones are kept.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from research.result import RunStatus
from results.collection import without_collection
from results.experiment import ABANDONED, IDEAS, Decision, ExperimentKind, ExperimentRecord
from results.group_entries import Ran
from results.growing import GrowingSequence
from results.history import assemble
from results.journal import RecordKind
from results.parsed_records import ParsedRecords
from results.records_on_demand import OnDemand

Rows = Callable[..., list[tuple[Any, ...]]]
"""The rows of a query with parameters."""

MOST_KEPT = 20_000
"""The most records that are kept in memory: about 400 MB."""

_LINES = """
    SELECT number, seq, id, branch, kind, commit, parent_commit, researcher,
           regexp_extract(record, '"program": "([^"]*)"', 1), parents
    FROM experiments ORDER BY seq
"""
"""A title may hold half a surrogate pair, with which DuckDB doesn't read the record as JSON."""


_RUNS = "SELECT experiment_id, seq, id, status, val_bpb, peak_memory_mb FROM runs ORDER BY seq"

_LAST = """
    SELECT coalesce(max(seq), 0)
    FROM (SELECT seq FROM experiments UNION ALL SELECT seq FROM runs UNION ALL SELECT seq FROM verdicts)
"""


class ExperimentLine(NamedTuple):
    """What an experiment is found by. Lines sort by number."""

    number: int
    seq: int
    """The place of its record in the journal."""
    id: str
    branch: str
    kind: ExperimentKind
    commit: str
    parent_commit: str
    researcher: str
    program: str
    parents: tuple[str, ...]


class RunLine(NamedTuple):
    """What is kept in memory of a run."""

    seq: int
    """The place of its record in the journal."""
    id: str
    status: RunStatus
    val_bpb: float | None
    peak_memory_mb: float | None


RecordsOnDemand = OnDemand[ExperimentLine, ExperimentRecord]
"""Experiments in an order, of which those are read that are looked at."""


class StoredRecords:
    """The records that a database holds and those that are added to it. Any thread may ask."""

    def __init__(self, rows: Rows) -> None:
        self._parsed = ParsedRecords(rows, most=MOST_KEPT)
        self._lock = threading.RLock()
        self._lines: dict[str, ExperimentLine] = {}
        self._of_branch: dict[str, GrowingSequence[ExperimentLine]] = {}
        self._of_kinds: dict[
            tuple[str, frozenset[ExperimentKind]], tuple[GrowingSequence[ExperimentLine], int, GrowingSequence[ExperimentLine]]
        ] = {}
        """The lines of some kinds on a branch, of how many of its lines they are chosen, and these."""
        self._at_commit: dict[str, list[ExperimentLine]] = defaultdict(list)
        self._with_program: dict[str, list[ExperimentLine]] = defaultdict(list)
        self._with_parent: dict[str, list[ExperimentLine]] = defaultdict(list)
        self._runs: dict[str, list[RunLine]] = {}
        self._crashed_on: dict[str, dict[str, ExperimentLine]] = defaultdict(dict)
        """The ideas with a crash among their runs by the commit that they were tried on."""
        self._verdicts: dict[str, list[str]] = {}
        self._decisions: dict[str, Decision] = {}
        self._kept: dict[str, dict[str, None]] = defaultdict(dict)
        """The experiments of each branch whose latest decision is a keep."""
        self._outcomes: dict[str, Counter[tuple[ExperimentKind, Decision]]] = defaultdict(Counter)
        """How many experiments of each kind on each branch have been decided how, by the latest decision."""
        self._abandoned: set[str] = set()
        self._ideas: list[ExperimentLine] = []
        """The ideas of all branches, oldest first."""
        self._done: Counter[str] = Counter()
        """How many ideas of each branch have a verdict and were not lost."""
        self._changes: Counter[str] = Counter()
        """How many runs and verdicts each branch has."""
        self._assembled: dict[str, ExperimentRecord] = {}
        ((self._last,),) = rows(_LAST)
        with without_collection():
            self._read(rows)

    def _read(self, rows: Rows) -> None:
        """Takes note of all that the database holds."""
        of_branch: dict[str, list[ExperimentLine]] = defaultdict(list)
        for *fields, parents in rows(_LINES):
            line = ExperimentLine._make((*fields, tuple(parents or ())))
            of_branch[line.branch].append(line)
            self._find_by(line)
        self._of_branch = {branch: GrowingSequence(sorted(lines)) for branch, lines in of_branch.items()}
        for experiment, *figures in rows(_RUNS):
            self._add_run(experiment, RunLine(*figures))
        verdicts = f"SELECT experiment_id, id, decision, reason = '{ABANDONED}' FROM verdicts ORDER BY seq"
        for experiment, id, decision, is_abandoned in rows(verdicts):
            self._add_verdict(experiment, id, decision, is_abandoned=is_abandoned)

    # Writing

    def add(self, kind: RecordKind, key: str, body: Mapping[str, Any], *, position: int) -> None:
        """Takes note of a record that has been added, the one at `position` of the journal."""
        self._parsed.keep(kind, key, body)
        with self._lock:
            if position <= self._last:  # it was read before it was told
                return
            if kind == "experiment":
                self._add_line(_line_of(key, body, position))
            elif kind == "run":
                run = RunLine(position, key, body["status"], body["val_bpb"], body["peak_memory_mb"])
                self._add_run(body["experiment_id"], run)
                self._assembled.pop(body["experiment_id"], None)
            elif kind == "verdict":
                self._add_verdict(body["experiment_id"], key, body["decision"], is_abandoned=body["reason"] == ABANDONED)
                self._assembled.pop(body["experiment_id"], None)

    def _add_line(self, line: ExperimentLine) -> None:
        self._find_by(line)
        before = self._of_branch.get(line.branch) or GrowingSequence()
        is_last = not before or before[-1] < line
        self._of_branch[line.branch] = before.with_item(line) if is_last else GrowingSequence(sorted([*before, line]))

    def _find_by(self, line: ExperimentLine) -> None:
        """Has a line found by all but its branch."""
        self._lines[line.id] = line
        self._at_commit[line.commit].append(line)
        if line.kind in IDEAS:
            self._ideas.append(line)
        if line.program:
            self._with_program[line.program].append(line)
        for parent in line.parents:
            self._with_parent[parent].append(line)

    def _add_run(self, experiment: str, run: RunLine) -> None:
        self._runs.setdefault(experiment, []).append(run)
        line = self._lines.get(experiment)
        if line is not None:
            self._changes[line.branch] += 1
        if run.status == "crash" and line is not None and line.kind in IDEAS:
            self._crashed_on[line.parent_commit][line.id] = line

    def _add_verdict(self, experiment: str, id: str, decision: Decision, *, is_abandoned: bool) -> None:
        self._verdicts.setdefault(experiment, []).append(id)
        before = self._decisions.get(experiment)
        self._decisions[experiment] = decision
        if experiment in self._lines:
            line = self._lines[experiment]
            self._changes[line.branch] += 1
            outcomes = self._outcomes[line.branch]
            if before is not None:
                outcomes[line.kind, before] -= 1
            outcomes[line.kind, decision] += 1
            (self._abandoned.add if is_abandoned and decision == "lost" else self._abandoned.discard)(experiment)
            if line.kind in IDEAS:
                self._done[line.branch] += (decision != "lost") - (before not in (None, "lost"))
            kept = self._kept[line.branch]
            kept.pop(experiment, None)
            if decision == "keep":
                kept[experiment] = None

    # Reading

    def of_branch(self, branch: str, kinds: Collection[ExperimentKind] | None = None) -> RecordsOnDemand:
        """A branch's experiments by their numbers; of some kinds, if they are given."""
        lines = self.lines_of(branch, kinds)
        return self.on_demand(lambda: lines)

    def on_demand(self, find: Callable[[], Sequence[ExperimentLine]]) -> RecordsOnDemand:
        """The experiments whose lines `find` returns, in their order."""
        return OnDemand(find, lambda lines: self.with_ids([line.id for line in lines]))

    def with_id(self, id: str) -> ExperimentRecord:
        """The experiment with this id, which must exist."""
        return self.with_ids([id])[0]

    def line(self, id: str) -> ExperimentLine | None:
        """The line of an experiment; None if there is none with this id."""
        return self._lines.get(id)

    def lines_of(self, branch: str, kinds: Collection[ExperimentKind] | None = None) -> Sequence[ExperimentLine]:
        """The lines of a branch by their numbers; of some kinds, if they are given."""
        with self._lock:
            every = self._of_branch.get(branch) or GrowingSequence()
            if kinds is None:
                return every
            chosen, seen, of = self._of_kinds.get((branch, frozenset(kinds)), (GrowingSequence(), 0, every))
            if not of.begins(every):  # an experiment was added with a smaller number than others have
                chosen, seen = GrowingSequence(), 0
            for line in islice(every, seen, None):
                chosen = chosen.with_item(line) if line.kind in kinds else chosen
            self._of_kinds[branch, frozenset(kinds)] = chosen, len(every), every
            return chosen

    def at_commit(self, commit: str) -> list[ExperimentLine]:
        """The experiments that run a commit, in the order in which they were added."""
        with self._lock:
            return list(self._at_commit.get(commit, ()))

    def with_program(self, program: str) -> list[ExperimentLine]:
        """The experiments that run a program, in the order in which they were added."""
        with self._lock:
            return list(self._with_program.get(program, ()))

    def with_parent(self, experiment: str) -> list[ExperimentLine]:
        """The experiments that name another one as a parent, in the order in which they were added."""
        with self._lock:
            return list(self._with_parent.get(experiment, ()))

    def crashed_on(self, commit: str) -> list[ExperimentLine]:
        """The ideas that were tried on a commit and have crashed, in the order in which they first did."""
        with self._lock:
            return list(self._crashed_on.get(commit, {}).values())

    def without_record(self) -> set[str]:
        """The experiments that have runs or verdicts, and whose own record is lost."""
        with self._lock:
            return (self._runs.keys() | self._verdicts.keys()) - self._lines.keys()

    def runs_of(self, experiment: str) -> list[RunLine]:
        """The runs of an experiment, in order."""
        with self._lock:
            return list(self._runs.get(experiment, ()))

    def decision(self, experiment: str) -> Decision | None:
        """How an experiment was decided last; None if it was not."""
        return self._decisions.get(experiment)

    def kept(self, branch: str) -> list[ExperimentLine]:
        """The experiments of a branch whose latest decision is a keep, that which was kept last at the end."""
        with self._lock:
            return [self._lines[id] for id in self._kept.get(branch, ())]

    def done(self, branch: str) -> int:
        """How many ideas of a branch have a verdict; lost ones don't count."""
        return self._done[branch]

    def ran(self, experiment: str, run: str) -> Ran:
        """An experiment and a run of it, both of which must exist."""
        return Ran(experiment=self._parsed.experiments([experiment])[0], run=self._parsed.runs([run])[0])

    def outcomes(self, branch: str) -> Counter[tuple[ExperimentKind, Decision]]:
        """How many experiments of each kind on a branch have been decided how, by the latest decision."""
        with self._lock:
            return Counter(self._outcomes.get(branch, {}))

    def abandoned(self, branch: str) -> int:
        """How many ideas of a branch a person has abandoned."""
        with self._lock:
            lines = [self._lines[id] for id in self._abandoned]
        return sum(line.branch == branch and line.kind in IDEAS for line in lines)

    def ideas_newest_first(self, branches: Collection[str]) -> Iterator[ExperimentLine]:
        """The ideas of some branches, that which was added last first."""
        return (line for line in reversed(self._ideas) if line.branch in branches)

    def changes(self, branch: str) -> int:
        """How many runs and verdicts a branch has: a number that grows with each."""
        return self._changes[branch]

    def verdicts_of(self, experiment_id: str) -> list[str]:
        """The ids of all verdicts on an experiment, oldest first."""
        with self._lock:
            return list(self._verdicts.get(experiment_id, ()))

    def with_ids(self, ids: Sequence[str]) -> list[ExperimentRecord]:
        """The experiments with these ids, which must exist, in the order given."""
        with self._lock:
            found = {id: self._assembled[id] for id in ids if id in self._assembled}
            missing = [id for id in ids if id not in found]
            if missing:
                runs = [(of, run.id) for of in missing for run in self._runs.get(of, ())]
                verdicts = [(of, self._verdicts[of][-1]) for of in missing if of in self._verdicts]
                new = assemble(
                    self._parsed.experiments(missing),
                    zip((of for of, _ in runs), self._parsed.runs([id for _, id in runs]), strict=True),
                    zip((of for of, _ in verdicts), self._parsed.verdicts([id for _, id in verdicts]), strict=True),
                )
                found.update(zip(missing, new, strict=True))
                if len(self._assembled) > MOST_KEPT:
                    self._assembled.clear()
                self._assembled.update(zip(missing, new, strict=True))
            return [found[id] for id in ids]


def _line_of(id: str, body: Mapping[str, Any], position: int) -> ExperimentLine:
    """The line of an experiment whose record is at a position of the journal."""
    named = ("number", "branch", "kind", "commit", "parent_commit", "researcher")
    fields = {name: body[name] for name in named}
    return ExperimentLine(id=id, seq=position, program=body.get("program", ""), parents=tuple(body["parents"]), **fields)
