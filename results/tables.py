"""The tables of a database, as the farm's own code and queries read them. Nothing here changes a record."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any, Literal, Protocol, TypeVar

import duckdb
import pyarrow as pa

from results.column_comments import AUDIT_COLUMNS, AUDIT_COMMENT
from results.group_entries import RULING
from results.group_state import estimates
from results.groups import Groups
from results.history_rows import bring_history_up_to_date
from results.journal import JournalRecord, Records
from results.query import Table, run_query
from results.remembered import RememberedAnswers
from results.saved_states import SavedStates
from results.stored_events import StoredEvents
from results.stored_records import StoredRecords
from results.table_rows import AUDIT_FIELDS

Audience = Literal["agent", "person"]
"""Who asks: queries of a `person` also see the table `audit`."""

AUDIT = "audit"
"""The table that only people see."""

ESTIMATED = ("estimates", "near_misses", "leaderboard")
"""The tables that are computed from the runs when a query names them."""

T = TypeVar("T")


class Read(Protocol):
    """Reads an open database: returns what `work` returns of a cursor of its own, which is closed afterwards.

    `work` takes no lock, and may be called twice.
    """

    def __call__(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T: ...


class Tables:
    """The tables of one open database. Any thread may read."""

    def __init__(self, read: Read, records: Records, *, saved: SavedStates | None = None) -> None:
        """`read` reads the open database, up to date with `records`; `saved` are states of an earlier session."""
        self._read, self._records = read, records
        self._estimating, self._reading_audit, self._refreshing_history = threading.RLock(), threading.Lock(), threading.Lock()
        self._audit: list[dict[str, Any]] | None = None
        self._version = 0
        self._versions: Counter[str] = Counter()
        """How many records of each kind, and events of each kind, have been noted."""
        self._remembered = RememberedAnswers(lambda: self._version)
        self._estimated: tuple[int, int] | None = None
        """The version of the records that the table `estimates` is computed from, and its rows; None: it isn't yet."""
        self._experiments: StoredRecords | None = None
        self._reading_experiments = threading.Lock()
        self.events = StoredEvents(self.fetch)
        self.groups = Groups(self.fetch, records=self.experiments, events=self.events, version=self._version_of, saved=saved)

    def experiments(self) -> StoredRecords:
        """The experiments, which are read the first time that somebody asks for them."""
        with self._reading_experiments:
            if self._experiments is None:
                self._experiments = StoredRecords(self.fetch)
            return self._experiments

    def _version_of(self, *kinds: str) -> int:
        """A number that changes with every record of these kinds, or event of these."""
        return sum(self._versions[kind] for kind in kinds)

    def note(self, record: JournalRecord, position: int) -> None:
        """Notes a new record at a position of the journal, once it can be read: remembered answers are out of date."""
        with self._reading_experiments:
            if self._experiments is not None:
                self._experiments.add(record.kind, record.id.partition(":")[2], record.body, position=position)
        if record.kind == "event":
            self.events.add(record.body["kind"], record.body["details"], position=position)
        self.groups.note(record, position)
        self._versions[record.body["kind"] if record.kind == "event" else record.kind] += 1
        with self._reading_audit:
            if self._audit is not None and record.kind == "run" and record.body["audit_bpb"] is not None:
                self._audit.append(_audit_row(record.body))
        self._version += 1

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query with parameters, remembered until there is another record."""
        return self._remembered.answer((sql, repr(parameters)), lambda: self.fetch(sql, *parameters))

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query with parameters."""
        return self._read(lambda cursor: cursor.execute(sql, list(parameters)).fetchall())

    def query(self, sql: str, *, max_rows: int, timeout_s: float, audience: Audience) -> Table:
        """The result of one read-only SELECT. Raises UserError, one line, if it is refused, wrong or exceeds `timeout_s`."""
        if any(name in sql.lower() for name in ESTIMATED):
            self.refresh_estimates()
        self.refresh_history()
        audit = self._audit_table(is_read=AUDIT in sql.lower()) if audience == "person" else None

        def answer(cursor: duckdb.DuckDBPyConnection) -> Table:
            if audit is not None:
                _show_audit(cursor, audit)
            return run_query(cursor, sql, max_rows=max_rows, timeout_s=timeout_s)

        return self._read(answer)

    def refresh_history(self) -> None:
        """Brings the rows of the view `history` up to date with the stored records."""
        with self._refreshing_history:
            self._read(bring_history_up_to_date)

    def refresh_estimates(self) -> None:
        """Computes the table `estimates` anew from the stored runs, unless nothing that it follows from has been recorded."""
        with self._estimating:
            version = self._version_of("branch", "run", RULING)
            ((there,),) = self.fetch("SELECT count(*) FROM estimates")  # a database that was rebuilt since has none
            if (version, there) == self._estimated:
                return
            rows = [(group, *astuple(found)) for group in self.groups.names() for found in estimates(self.groups.state(group))]
            self._read(lambda cursor: _replace_estimates(cursor, rows))
            self._estimated = (version, len(rows))

    def _audit_table(self, *, is_read: bool) -> pa.Table:
        """The audit scores; none for a query that doesn't name them, since all runs of the journal are read for them."""
        with self._reading_audit:
            return pa.Table.from_pylist(self._audit_rows() if is_read else [], schema=_AUDIT_SCHEMA)

    def _audit_rows(self) -> list[dict[str, Any]]:
        """All audit scores, read from the journal the first time that a person asks for them."""
        if self._audit is None:
            runs = (record.body for _, record in self._records.records() if record.kind == "run")
            self._audit = [_audit_row(body) for body in runs if body["audit_bpb"] is not None]
        return self._audit


_AUDIT_SCHEMA = pa.schema(
    [("experiment_id", pa.string()), ("run_id", pa.string()), ("audit_bpb", pa.float64()), ("audit_rows", pa.int64())]
)


def _show_audit(cursor: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
    """Makes the table `audit` for this cursor alone: it is temporary, and no other connection can reach it."""
    cursor.register("audit_batch", table)
    cursor.execute("CREATE TEMP TABLE audit AS SELECT * FROM audit_batch")
    cursor.execute(f"COMMENT ON TABLE audit IS '{AUDIT_COMMENT}'")
    for column, text in AUDIT_COLUMNS.items():
        cursor.execute(f"COMMENT ON COLUMN audit.{column} IS '{text}'")
    cursor.unregister("audit_batch")


def _replace_estimates(cursor: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]]) -> None:
    """Replaces the table by these rows, in one insert: each alone takes a tenth of a millisecond, and there are thousands."""
    names = [name for name, *_ in cursor.execute("DESCRIBE estimates").fetchall()]
    cursor.execute("BEGIN")
    cursor.execute("DELETE FROM estimates")
    if rows:
        columns = zip(*rows, strict=True)
        cursor.register("estimated", pa.table({name: list(values) for name, values in zip(names, columns, strict=True)}))
        cursor.execute("INSERT INTO estimates BY NAME SELECT * FROM estimated")
        cursor.unregister("estimated")
    cursor.execute("COMMIT")


def _audit_row(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in ("experiment_id", "run_id", *AUDIT_FIELDS)}
