"""The store: everything that is recorded in a home. The journal is the source of truth; DuckDB is a view that can be rebuilt.

One process at a time owns a home. Within it any thread may read and write.
"""

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from research.errors import UserError
from research.files import replacing
from research.formatting import utc_now
from research.result import RunResult
from results.database import Database
from results.experiment import (
    Branch,
    Experiment,
    ExperimentRecord,
    Head,
    Usage,
    Verdict,
    branch_from,
    to_body,
)
from results.group_entries import REQUEST, REQUEST_TAKEN
from results.group_state import estimates
from results.groups import Groups
from results.history import assemble
from results.journal import Journal, JournalRecord, RecordKind
from results.known_records import KnownRecords
from results.parsed_records import ParsedRecords, Rows
from results.query import Table, run_query
from results.remembered import RememberedAnswers
from results.researcher_costs import ANSWER
from results.table_rows import AUDIT_FIELDS, insert_one, row_of

log = logging.getLogger(__name__)

Audience = Literal["agent", "person"]
"""Who asks: queries of a `person` also see the table `audit`."""

ESTIMATED = ("estimates", "near_misses", "leaderboard")
"""The tables that are computed from the runs when a query names them."""


class Store:
    """The records of a home folder, for reading and writing.

    A record survives a kill -9 once its `add_...` method has returned. Adding it again changes nothing and returns False.
    Records that are read back hold no audit scores, since researchers see them.
    """

    def __init__(self, home: Path) -> None:
        """Raises UserError when another process has the home open."""
        self.home = home
        self._lock = threading.RLock()
        self._audit: list[dict[str, Any]] | None = None
        self.journal = Journal(home / "journal.jsonl")
        for damage in self.journal.damaged:
            log.warning("%s, line %d: %s; the line is skipped", self.journal.path, damage.number, damage.problem)
        try:
            self._database = Database(home / "farm.duckdb", self.journal)
        except BaseException:
            self.journal.close()
            raise
        self._version = 0
        self._remembered = RememberedAnswers(lambda: self._version)
        self._parsed = ParsedRecords(self._fetch)
        self._known = KnownRecords(
            lambda branch: [
                id for (id,) in self._rows("SELECT id FROM experiments WHERE branch = ? ORDER BY number, seq", branch)
            ],
            lambda ids: self._records("e.id = ANY(?)", ids),
        )
        self.groups = Groups(self._rows, version=lambda: self._version)

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
        with self._lock:
            self._database.close()
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
        with self._lock:
            body = {"experiment_id": experiment_id, **to_body(run)}
            added = self._add("run", run.run_id, body)
            if added and self._audit is not None and run.audit_bpb is not None:
                self._audit.append(_audit_row(body))
            return added

    def add_verdict(self, experiment_id: str, verdict: Verdict) -> bool:
        """Adds the decision on an experiment's runs so far.

        It can be decided again after another run, and differently after other experiments' runs. Raises KeyError for an
        unknown experiment.
        """
        self._expect("experiment", experiment_id)
        with self._lock:
            ((runs,),) = self._rows("SELECT count(*) FROM runs WHERE experiment_id = ?", experiment_id)
            latest = self._rows("SELECT id, decision FROM verdicts WHERE experiment_id = ? ORDER BY seq", experiment_id)
            name = f"{experiment_id}/{runs}"
            changes = sum(id.partition(".")[0] == name for id, _ in latest)
            if changes and latest[-1][1] == verdict.decision:
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
        """Appends a record to the journal and inserts its row, in a transaction that ends once the record is on disk.

        The insertion is tried first, so that the journal holds only what a table accepts.
        """
        record = JournalRecord(id=f"{kind}:{key}", kind=kind, time=time or utc_now(), body=body)
        with self._lock:
            if self.journal.position(record.id) is not None:
                return False
            row = row_of(len(self.journal) + 1, record)
            self._database.write(lambda writer: insert_one(writer, kind, row), record=lambda: self.journal.append(record))
            self._version += 1  # after the commit: what another thread has read before it is not kept
            if kind in ("experiment", "run", "verdict"):
                is_new = kind == "experiment"
                self._known.forget(
                    experiment=key if is_new else body["experiment_id"], branch=body["branch"] if is_new else None
                )
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
        rows = self._rows("SELECT record FROM branches WHERE id = ?", name)
        return branch_from(json.loads(rows[0][0])) if rows else None

    def records(self, branch: str) -> list[ExperimentRecord]:
        """A branch's experiments in order, lost ones included."""
        return self._known.of_branch(branch)

    def record(self, id: str) -> ExperimentRecord:
        """The experiment with this id. Raises KeyError for an unknown one."""
        self._expect("experiment", id)
        return self._records("e.id = ?", id)[0]

    def head(self, branch: str) -> Head | None:
        """What the branch's new ideas are tried on: the head of its group; None before a baseline has a score."""
        known = self.branch(branch)
        return None if known is None else self.groups.head(known.head_branch)

    def baseline(self, branch: str) -> ExperimentRecord | None:
        """The branch's kept baseline; None before it is measured. Baselines that failed don't count."""
        rows = self._rows(
            """SELECT e.id FROM experiments e JOIN latest_verdicts v ON v.experiment_id = e.id
               WHERE e.branch = ? AND e.kind = 'baseline' AND v.decision = 'keep' ORDER BY e.number, e.seq LIMIT 1""",
            branch,
        )
        return self.record(rows[0][0]) if rows else None

    def unfinished(self, branch: str) -> list[ExperimentRecord]:
        """The branch's experiments without a verdict, in order, but for confirmations, which are no loop's."""
        return self._records(
            "e.branch = ? AND e.kind <> 'confirm' AND e.id NOT IN (SELECT experiment_id FROM verdicts)", branch
        )

    def events(self, kind: str, branch: str) -> list[dict[str, Any]]:
        """The details of a branch's events of one kind, oldest first."""
        rows = self._rows("SELECT record FROM events WHERE kind = ? AND record ->> '$.branch' = ? ORDER BY seq", kind, branch)
        return [json.loads(details) for (details,) in rows]

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
        return dict(self._fetch("SELECT id, commit FROM experiments WHERE kind NOT IN ('baseline', 'control', 'confirm')"))

    def next_number(self, branch: str) -> int:
        """The number of the branch's next experiment; 0 is the baseline."""
        ((number,),) = self._rows("SELECT coalesce(max(number) + 1, 0) FROM experiments WHERE branch = ?", branch)
        return int(number)

    def spent_usd(self, tag: str) -> float:
        """US dollars that the researchers of a tag have cost, over all of its branches and sessions, as far as known."""
        ((spent,),) = self._rows("SELECT coalesce(sum(cost_usd), 0) FROM costs WHERE tag = ?", tag)
        return float(spent)

    def query(self, sql: str, *, max_rows: int = 1000, timeout_s: float = 10.0, audience: Audience = "agent") -> Table:
        """The result of one read-only SELECT. Raises UserError, one line, if it is refused, wrong or exceeds `timeout_s`."""
        if any(name in sql.lower() for name in ESTIMATED):
            self.refresh_estimates()
        audit = self._audit_table() if audience == "person" else None

        def answer(cursor: duckdb.DuckDBPyConnection) -> Table:
            if audit is not None:
                _show_audit(cursor, audit)
            return run_query(cursor, sql, max_rows=max_rows, timeout_s=timeout_s)

        return self._database.read(answer)

    def export_parquet(self) -> Path:
        """Writes the view `history` to history.parquet, atomically. Returns its path."""
        path = self.home / "history.parquet"
        table = self._database.read(lambda cursor: cursor.sql("SELECT * FROM history").to_arrow_table())
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
        return path

    def refresh_estimates(self) -> None:
        """Computes the table `estimates` anew from the stored runs."""
        with self._lock:
            rows = [(group, *astuple(found)) for group in self.groups.names() for found in estimates(self.groups.state(group))]
            self._database.write(lambda writer: _replace_estimates(writer, rows))

    def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._remembered.answer((sql, repr(parameters)), lambda: self._fetch(sql, *parameters))

    def _fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._database.read(lambda cursor: cursor.execute(sql, list(parameters)).fetchall())

    def _ids_of(self, branch: str) -> list[str]:
        return [id for (id,) in self._fetch("SELECT id FROM experiments WHERE branch = ? ORDER BY number, seq", branch)]

    def _records(self, condition: str, *parameters: Any) -> list[ExperimentRecord]:
        return _assembled(self._rows, self._parsed, condition, *parameters)

    def _audit_table(self) -> pa.Table:
        with self._lock:
            return pa.Table.from_pylist(self._audit_rows(), schema=_AUDIT_SCHEMA)

    def _audit_rows(self) -> list[dict[str, Any]]:
        """All audit scores, read from the journal the first time that a person asks for them."""
        if self._audit is None:
            runs = (record.body for _, record in self.journal.records() if record.kind == "run")
            self._audit = [_audit_row(body) for body in runs if body["audit_bpb"] is not None]
        return self._audit


def query_home(home: Path, sql: str, *, max_rows: int = 1000, timeout_s: float = 10.0, audience: Audience = "agent",
               begin: str = "farm demo") -> Table:  # fmt: skip
    """The result of one SELECT over a home, which need not be writable.

    Raises UserError if nothing is recorded, which names the command `begin` that starts a history, or a farm has the home open.
    """
    journal = home / "journal.jsonl"
    if not os.path.lexists(journal) and (os.access(home, os.X_OK) or not os.path.lexists(home)):  # else it can't be seen
        raise UserError(f"Nothing is recorded in {home} yet: `{begin}` starts a history.")
    with ExitStack() as cleanup:
        if not all(os.access(path, os.W_OK) for path in (home, journal)):  # somebody else's, or on a read-only mount
            home = _copied_journal(home, Path(cleanup.enter_context(TemporaryDirectory(prefix="autoresearch-home-"))))
        store = cleanup.enter_context(Store.open(home, wait_s=3.0))
        return store.query(sql, max_rows=max_rows, timeout_s=timeout_s, audience=audience)


def _copied_journal(home: Path, folder: Path) -> Path:
    """`folder`, with a copy of a home's journal. Raises UserError if that can't be read."""
    try:
        shutil.copyfile(home / "journal.jsonl", folder / "journal.jsonl")
    except OSError as error:
        raise UserError(f"{home} can't be read ({error.strerror}): ask its owner, or choose another --home.") from None
    return folder


_AUDIT_SCHEMA = pa.schema(
    [("experiment_id", pa.string()), ("run_id", pa.string()), ("audit_bpb", pa.float64()), ("audit_rows", pa.int64())]
)


def _assembled(rows: Rows, parsed: ParsedRecords, condition: str, *parameters: Any) -> list[ExperimentRecord]:
    """The experiments `e` that a condition of SQL is true of, in order."""
    chosen = f"SELECT e.id FROM experiments e WHERE {condition}"
    experiments = rows(f"{chosen} ORDER BY e.number, e.seq", *parameters)
    runs = rows(f"SELECT experiment_id, id FROM runs WHERE experiment_id IN ({chosen}) ORDER BY seq", *parameters)
    verdicts = rows(f"SELECT experiment_id, id FROM verdicts WHERE experiment_id IN ({chosen}) ORDER BY seq", *parameters)
    return assemble(
        parsed.experiments([id for (id,) in experiments]),
        zip((of for of, _ in runs), parsed.runs([id for _, id in runs]), strict=True),
        zip((of for of, _ in verdicts), parsed.verdicts([id for _, id in verdicts]), strict=True),
    )


def _show_audit(cursor: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
    """Makes the table `audit` for this cursor alone: it is temporary, and no other connection can reach it."""
    cursor.register("audit_batch", table)
    cursor.execute("CREATE TEMP TABLE audit AS SELECT * FROM audit_batch")
    cursor.unregister("audit_batch")


def _replace_estimates(writer: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]]) -> None:
    writer.execute("DELETE FROM estimates")
    if rows:
        writer.executemany("INSERT INTO estimates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _audit_row(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in ("experiment_id", "run_id", *AUDIT_FIELDS)}
