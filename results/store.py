"""The store: everything that is recorded in a home. The journal is the source of truth; DuckDB is a view that can be rebuilt.

One process at a time owns a home. Within it any thread may read and write.
"""

import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from research.command_hints import to_type
from research.errors import UserError
from research.formatting import one_line, utc_now
from research.result import RunResult
from results.experiment import (
    Branch,
    Experiment,
    ExperimentRecord,
    Head,
    Usage,
    Verdict,
    to_body,
)
from results.group_entries import REQUEST, REQUEST_TAKEN
from results.journal import Journal, JournalRecord, RecordKind
from results.journal_damage import repair_hint
from results.journal_repair import NUMBERS_TAKEN
from results.parquet_export import export_table
from results.query import Table
from results.query_process import QueryProcess
from results.researcher_costs import ANSWER
from results.saved_states import SavedStates
from results.stored_records import StoredRecords
from results.table_writer import DATABASE_FAILED, TableWriter
from results.tables import Audience, Tables

log = logging.getLogger(__name__)


class Store:
    """The records of a home folder, for reading and writing.

    A record survives a kill -9 once its `add_...` method has returned. Adding it again changes nothing and returns False.
    Records that are read back hold no audit scores, since researchers see them.
    """

    def __init__(self, home: Path) -> None:
        """Raises UserError when another process has the home open."""
        self.home = home
        self._lock = threading.RLock()
        self.journal = Journal(home / "journal.jsonl")
        for damage in self.journal.damaged:
            log.warning("%s, line %d: %s; the line is skipped", self.journal.path, damage.number, damage.problem)
        try:
            self._writer = TableWriter(home / "farm.duckdb", self.journal)
        except BaseException:
            self.journal.close()
            raise
        self._tables = Tables(self._writer.read, self.journal, saved=SavedStates(home, self.journal.checksum))
        self.groups, self._rows = self._tables.groups, self._tables.rows
        self._next_numbers: dict[str, int] = {}
        self._lost: set[str] | None = None
        """The experiments whose own records are lost; None until a number was asked for."""
        self._is_closed = False
        self.queries = QueryProcess(home)
        """Runs what others ask in SQL: in this process it could use up the farm's memory."""

    @classmethod
    def open(cls, home: Path, *, wait_s: float = 0.0) -> "Store":
        """Opens or creates a home, waiting up to `wait_s` seconds for another process to release it. Raises UserError."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return cls(home)
            except UserError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.1)

    def close(self) -> None:
        """Releases the home. A second call does nothing."""
        self.queries.close()
        with self._lock:
            if not self._is_closed:
                self.groups.save()
            self._is_closed = True
            self._writer.close()
            self.journal.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Writing

    def add_branch(self, branch: Branch) -> bool:
        """Adds a line of research, once per name."""
        return self._add("branch", branch.name, to_body(branch), time=branch.created)

    def add_experiment(self, experiment: Experiment) -> bool:
        """Adds a committed proposal, once per id. Raises KeyError for an unknown branch."""
        self._expect("branch", experiment.branch)
        return self._add("experiment", experiment.id, to_body(experiment), time=experiment.created)

    def add_run(self, experiment_id: str, run: RunResult) -> bool:
        """Adds an experiment's run, once per run id. Raises KeyError for an unknown experiment."""
        self._expect("experiment", experiment_id)
        return self._add("run", run.run_id, {"experiment_id": experiment_id, **to_body(run)})

    def add_verdict(self, experiment_id: str, verdict: Verdict) -> bool:
        """Adds the decision on an experiment's runs so far.

        It can be decided again after another run, and differently after other experiments' runs. Raises KeyError for an
        unknown experiment.
        """
        self._expect("experiment", experiment_id)
        with self._lock:
            runs, latest = len(self.experiments.runs_of(experiment_id)), self.experiments.decision(experiment_id)
            name = f"{experiment_id}/{runs}"
            changes = sum(id.partition(".")[0] == name for id in self.experiments.verdicts_of(experiment_id))
            if changes and latest == verdict.decision:
                return False
            body = {"experiment_id": experiment_id, "runs": runs, **to_body(verdict)}
            return self._add("verdict", f"{name}.{changes}" if changes else name, body)

    def add_event(self, kind: str, body: Mapping[str, Any], *, id: str | None = None) -> bool:
        """Adds anything else that is worth recording; with an `id`, only once."""
        return self._add("event", id or uuid.uuid4().hex, {"kind": kind, "details": dict(body)})

    def add_answer(self, branch: str, usage: Usage) -> bool:
        """Adds the cost of one answer of a branch's researcher."""
        return self.add_event(ANSWER, {"branch": branch, **asdict(usage)})

    def _add(self, kind: RecordKind, key: str, body: Mapping[str, Any], *, time: str | None = None) -> bool:
        """Appends a record to the journal and inserts its row."""
        record = JournalRecord(id=f"{kind}:{key}", kind=kind, time=time or utc_now(), body=body)
        with self._lock:
            if self.journal.position(record.id) is not None:
                return False
            self._writer.add(record)
            self._tables.note(
                record, len(self.journal)
            )  # after it can be read: what another thread has read before is not kept
            return True

    def _expect(self, kind: RecordKind, key: str) -> None:
        if self.journal.position(f"{kind}:{key}") is None:
            raise KeyError(f"no {kind} {key!r} in {self.home}")

    # Reading

    def branches(self, tag: str | None = None) -> list[Branch]:
        """All branches, or those of a tag, oldest first."""
        return [branch for branch in self.groups.branches() if tag is None or branch.tag == tag]

    def branch(self, name: str) -> Branch | None:
        """The branch with this name; None if there is none."""
        return self.groups.branch(name)

    @property
    def experiments(self) -> StoredRecords:
        """What experiments are found by: their lines in memory, and the records themselves when they are used."""
        return self._tables.experiments()

    def records(self, branch: str) -> list[ExperimentRecord]:
        """A branch's experiments in order, lost ones included. All are read: what loops ask at each step, `experiments` answers
        without that.
        """
        return list(self.experiments.of_branch(branch))

    def record(self, id: str) -> ExperimentRecord:
        """The experiment with this id. Raises KeyError for an unknown one."""
        self._expect("experiment", id)
        return self.experiments.with_id(id)

    def head(self, branch: str) -> Head | None:
        """What the branch's new ideas are tried on: the head of its group; None before a baseline has a score."""
        known = self.branch(branch)
        return None if known is None else self.groups.head(known.head_branch)

    def baseline(self, branch: str) -> ExperimentRecord | None:
        """The branch's kept baseline; None before it is measured. Baselines that failed don't count."""
        experiments = self.experiments
        first = min((line for line in experiments.kept(branch) if line.kind == "baseline"), default=None)
        return None if first is None else experiments.with_id(first.id)

    def unfinished(self, branch: str) -> list[ExperimentRecord]:
        """The branch's experiments without a verdict, in order, but for confirmations, which are no loop's."""
        experiments = self.experiments
        lines = experiments.lines_of(branch)
        open_ones = [line.id for line in lines if line.kind != "confirm" and experiments.decision(line.id) is None]
        return experiments.with_ids(open_ones)

    def events(self, kind: str, branch: str) -> Sequence[dict[str, Any]]:
        """The details of a branch's events of one kind, oldest first."""
        return self._tables.events.of(kind, branch)

    def add_request(self, group: str, request: str) -> bool:
        """Adds something that a person asks of a group's loops."""
        return self.add_event(REQUEST, {"branch": group, "request": request, "number": len(self.events(REQUEST, group))})

    def open_requests(self, group: str) -> list[dict[str, Any]]:
        """What people have asked of a group's loops and none of them has taken up yet, oldest first."""
        closed = {event["number"] for event in self.events(REQUEST_TAKEN, group)}
        return [event for event in self.events(REQUEST, group) if event["number"] not in closed]

    def close_request(self, request: Mapping[str, Any]) -> bool:
        """Adds that a loop has taken a request up."""
        return self.add_event(REQUEST_TAKEN, {"branch": request["branch"], "number": request["number"]})

    def commits(self) -> dict[str, str]:
        """The commits of experiments that have one of their own, by id: all but baselines, controls and confirmations."""
        sql = "SELECT id, commit FROM experiments WHERE kind NOT IN ('baseline', 'control', 'confirm')"
        return dict(self._tables.fetch(sql))

    def next_number(self, branch: str) -> int:
        """The number of the branch's next experiment; 0 is the baseline. No number is given out twice, not even one of an
        experiment whose own record is lost: it may have runs, verdicts or a commit.
        """
        with self._lock:
            lines = self.experiments.lines_of(branch)
            if branch not in self._next_numbers:  # of what is lost no more comes while the home is open
                name = re.compile(re.escape(branch.partition("/")[2] or branch) + "-([0-9]+)")
                self._lost = self.experiments.without_record() if self._lost is None else self._lost
                taken = [int(found[1]) for id in self._lost if (found := name.fullmatch(id))]
                taken += [int(event["number"]) for event in self.events(NUMBERS_TAKEN, branch)]
                self._next_numbers[branch] = max(taken, default=-1) + 1
            return max(self._next_numbers[branch], lines[-1].number + 1 if lines else 0)

    def spent_usd(self, tag: str) -> float:
        """US dollars that the researchers of a tag have cost, over all of its branches and sessions, as far as known."""
        ((spent,),) = self._rows("SELECT coalesce(sum(cost_usd), 0) FROM costs WHERE tag = ?", tag)
        return float(spent)

    def spent_by_loop_usd(self, branch: str) -> float:
        """US dollars that the researcher of a branch's loop has cost, over all sessions, as far as known."""
        ((spent,),) = self._rows("SELECT coalesce(sum(cost_usd), 0) FROM costs WHERE branch = ?", branch)
        return float(spent)

    def query(self, sql: str, *, max_rows: int = 1000, timeout_s: float = 10.0, audience: Audience = "agent") -> Table:
        """The result of one read-only SELECT, run in this process; `queries` is for those that others ask.

        Raises UserError, one line, if it is refused, wrong or exceeds `timeout_s`.
        """
        return self._tables.query(sql, max_rows=max_rows, timeout_s=timeout_s, audience=audience)

    def export_parquet(self) -> Path:
        """Writes the view `history` to history.parquet, as `farm export` does. Returns its path.

        Raises OSError, or UserError if the database fails.
        """
        try:
            self._tables.refresh_history()
            return self._writer.read(lambda cursor: export_table(cursor, "history", self.home)).path
        except DATABASE_FAILED as problem:
            raise UserError(f"{self.home / 'history.parquet'} can't be made: {one_line(str(problem))}.") from None


def query_home(home: Path, sql: str, *, max_rows: int = 1000, timeout_s: float = 10.0, audience: Audience = "agent",
               home_option: str = "") -> Table:  # fmt: skip
    """The result of one SELECT over a home, which need not be writable.

    Raises UserError if nothing is recorded, or a farm has the home open. `home_option` is what names the home in the commands
    that the error, or a warning of damaged lines, names.
    """
    journal = home / "journal.jsonl"
    check_recorded(home, home_option=home_option)
    with ExitStack() as cleanup:
        if not all(os.access(path, os.W_OK) for path in (home, journal)):  # somebody else's, or on a read-only mount
            home = _copied_journal(home, Path(cleanup.enter_context(TemporaryDirectory(prefix="autoresearch-home-"))))
        store = cleanup.enter_context(Store.open(home, wait_s=3.0))
        if store.journal.damaged:
            log.warning("%s", repair_hint(home_option))
        return store.query(sql, max_rows=max_rows, timeout_s=timeout_s, audience=audience)


def check_recorded(home: Path, *, home_option: str) -> None:
    """Raises UserError, which names the command that starts a history, if nothing is recorded in a home."""
    if not os.path.lexists(home / "journal.jsonl") and (os.access(home, os.X_OK) or not os.path.lexists(home)):
        # otherwise it can't be seen
        raise UserError(f"Nothing is recorded in {home} yet: `{to_type(f'farm demo{home_option}')}` starts a history.")


def _copied_journal(home: Path, folder: Path) -> Path:
    """`folder`, with a copy of a home's journal. Raises UserError if that can't be read."""
    try:
        shutil.copyfile(home / "journal.jsonl", folder / "journal.jsonl")
    except OSError as error:
        raise UserError(f"{home} can't be read ({error.strerror}): ask its owner, or choose another --home.") from None
    return folder
