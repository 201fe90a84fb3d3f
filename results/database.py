"""The DuckDB view of a journal: opened, brought up to date, and rebuilt whenever it turns out to be damaged."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import duckdb

from research.errors import UserError
from research.files import move_aside
from results.journal import Journal
from results.query import READ_ONLY_SETTINGS, is_damage
from results.schema import UnknownSchema, migrate
from results.table_rows import TABLES, insert_many

BATCH = 5_000
"""Journal records per transaction while catching up."""

HELD = "Could not set lock on file"
"""What DuckDB says of a file that another process has open."""

INTERRUPTED = "Query interrupted"
"""What DuckDB makes of Ctrl-C while a query runs: a RuntimeError of its own."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class Database:
    """The open database at a path, which holds exactly what the journal holds, with READ_ONLY_SETTINGS in force.

    Any thread may read; one at a time writes. Damage can show at any query, long after the file was opened: the tables are then
    rebuilt from the journal, and the query runs again.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        """A file that is missing, damaged, ahead of the journal, of another journal or of an unknown schema is rebuilt; one
        that is behind gets the missing records. Raises UserError when another program has the file open, or it can't be made.
        """
        self._path, self._journal = path, journal
        self._change = threading.Condition()
        self._users = 0
        """Threads that use the connection now, and so keep it from being replaced."""
        self._connection = _opened(path, journal)
        self._writer = self._connection.cursor()

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        for connection in (self._writer, self._connection):
            with contextlib.suppress(duckdb.Error):  # a damaged file is not brought up to date
                connection.close()

    def read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """What `work` returns of a cursor of its own, which is closed afterwards. It must take no lock that a writer holds."""

        def with_cursor() -> T:
            with self._connection.cursor() as cursor:
                return work(cursor)

        return self._twice_if_damaged(with_cursor)

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], None], *, record: Callable[[], object] = bool) -> None:
        """Does `work` in a transaction that ends once `record`, which appends to the journal, has returned."""
        recorded = False

        def in_transaction() -> None:
            nonlocal recorded
            if recorded:  # the tables were rebuilt, and hold what the journal holds
                return
            self._writer.execute("BEGIN")
            try:
                work(self._writer)
                record()
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    self._writer.execute("ROLLBACK")
                raise
            recorded = record is not bool
            self._writer.execute("COMMIT")

        self._twice_if_damaged(in_transaction)

    def _twice_if_damaged(self, work: Callable[[], T]) -> T:
        try:
            with self._in_use() as used:
                return work()
        except duckdb.Error as error:
            if not is_damage(error):
                raise
            self._rebuild(used, error)
        except RuntimeError as error:
            if str(error) == INTERRUPTED:
                raise KeyboardInterrupt from None
            raise
        with self._in_use():
            return work()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._change:
            self._users += 1
            connection = self._connection
        try:
            yield connection
        finally:
            with self._change:
                self._users -= 1
                self._change.notify_all()

    def _rebuild(self, damaged: duckdb.DuckDBPyConnection, error: duckdb.Error) -> None:
        """Replaces a damaged database once no thread uses it, unless another thread has. Meanwhile no thread may begin."""
        with self._change:
            self._change.wait_for(lambda: not self._users)
            if self._connection is not damaged:
                return
            log.warning("%s is damaged (%s): it is rebuilt from the journal", self._path, str(error)[:80])
            self.close()
            self._connection = _ready(_rebuilt(self._path, self._journal))
            self._writer = self._connection.cursor()


def _opened(path: Path, journal: Journal) -> duckdb.DuckDBPyConnection:
    try:
        connection = duckdb.connect(str(path))
    except duckdb.Error as problem:
        if HELD in str(problem):
            raise UserError(f"{path} is open in another program: close it there first.") from None
        return _ready(_rebuilt(path, journal))
    try:
        migrate(connection)
        applied = _applied(connection, journal)
        if applied is not None:
            _catch_up(connection, journal, applied)
            return _ready(connection)
    except (duckdb.Error, UnknownSchema):
        pass
    connection.close()
    return _ready(_rebuilt(path, journal))


def _ready(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    for setting in READ_ONLY_SETTINGS:
        connection.execute(setting)
    return connection


def _rebuilt(path: Path, journal: Journal) -> duckdb.DuckDBPyConnection:
    """A new file with all that the journal holds. Raises UserError if it can't be made."""
    for leftover in (path, path.with_name(path.name + ".wal")):
        if leftover.is_dir() and not leftover.is_symlink():
            log.warning("%s is a folder where a file should be: it is now %s", leftover, move_aside(leftover))
        leftover.unlink(missing_ok=True)
    try:
        connection = duckdb.connect(str(path))
        migrate(connection)
        _catch_up(connection, journal, 0)
    except duckdb.IOException as problem:
        raise UserError(f"{path} can't be made ({str(problem).splitlines()[0]}): free some space there, or choose another "
                        "--home.") from None  # fmt: skip
    return connection


def _applied(connection: duckdb.DuckDBPyConnection, journal: Journal) -> int | None:
    """The number of journal records that the tables hold, if these are the first ones and nothing else; otherwise None."""
    every = " UNION ALL ".join(f"SELECT seq, '{kind}:' || id AS id FROM {table}" for kind, table in TABLES.items())
    rows = connection.execute(f"SELECT count(*), max(seq), arg_max(id, seq) FROM ({every})").fetchall()
    count, last, last_id = rows[0]
    if count == 0:
        return 0
    return int(count) if count == last and journal.position(last_id) == last else None


def _catch_up(connection: duckdb.DuckDBPyConnection, journal: Journal, applied: int) -> None:
    batch = []
    for position_and_record in journal.records(after=applied) if applied < len(journal) else ():
        batch.append(position_and_record)
        if len(batch) == BATCH:
            insert_many(connection, batch)
            batch = []
    if batch:
        insert_many(connection, batch)
