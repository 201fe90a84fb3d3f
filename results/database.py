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
from results.collection import without_collection
from results.history_rows import bring_history_up_to_date, holds_all_rows
from results.journal import Records
from results.query import READ_ONLY_SETTINGS, is_damage
from results.schema import UnknownSchema, migrate
from results.table_rows import TABLES, insert_many

log = logging.getLogger(__name__)

BATCH = 20_000
"""Journal records per transaction while catching up."""

BATCHES_PER_HISTORY = 10
"""Batches after which the rows of the view `history` are put together: of many at once that takes less time."""

HELD = "Could not set lock on file"
"""What DuckDB says of a file that another process has open."""

INTERRUPTED = "Query interrupted"
"""What DuckDB makes of Ctrl-C while a query runs: a RuntimeError of its own."""

T = TypeVar("T")


class Database:
    """The open database at a path, which holds what the journal holds, with READ_ONLY_SETTINGS in force.

    Any thread may read; one at a time writes. Damage can show at any query, long after the file was opened: the tables are then
    rebuilt from the journal, and the query runs again.
    """

    def __init__(self, path: Path, journal: Records) -> None:
        """A file that is missing, damaged, ahead of the journal, of another journal or of an unknown schema is rebuilt; one
        that is behind gets the missing records. Raises UserError when another program has the file open, when the journal is
        gone, or when the file can't be made.
        """
        self._path, self._journal = path, journal
        self._change = threading.Condition()
        self._users = 0
        """Threads that use the connection now, and so keep it from being replaced."""
        self._is_closed = False
        self._connection = opened(path, journal)
        self.writer = self._connection.cursor()
        """The cursor of the one writer, which uses it `in_use` only."""

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        self._is_closed = True
        self._disconnect()

    def read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """What `work` returns of a cursor of its own, which is closed afterwards. It must take no lock that a writer holds, and
        is called again if the database had to be rebuilt.
        """

        def with_cursor(connection: duckdb.DuckDBPyConnection) -> T:
            with connection.cursor() as cursor:
                return work(cursor)

        try:
            with self.in_use() as used:
                return with_cursor(used)
        except duckdb.Error as error:
            if not self.is_lost(error):
                raise
            self._replace(used, error)
        except RuntimeError as error:
            if str(error) == INTERRUPTED:
                raise KeyboardInterrupt from None
            raise
        with self.in_use() as rebuilt:
            return with_cursor(rebuilt)

    def bring_up_to_date(self) -> int:
        """Inserts the journal's records that the tables lack. Returns how many they hold then.

        A database where that fails is opened anew, and rebuilt if it is damaged. Raises duckdb.Error, OSError or UserError if
        it fails then, too.
        """
        try:
            with self.in_use() as used:
                return bring_up_to_date(used, self._journal)
        except duckdb.Error as error:
            self._replace(used, error)
        with self.in_use() as opened:
            return bring_up_to_date(opened, self._journal)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection, which no thread replaces meanwhile."""
        with self._change:
            self._users += 1
            connection = self._connection
        try:
            yield connection
        finally:
            with self._change:
                self._users -= 1
                self._change.notify_all()

    def is_lost(self, error: duckdb.Error) -> bool:
        """Whether the connection can't be used any more: it is damaged, or it was, and could not be replaced."""
        return is_damage(error) or (isinstance(error, duckdb.ConnectionException) and not self._is_closed)

    def _replace(self, lost: duckdb.DuckDBPyConnection, error: duckdb.Error) -> None:
        """Replaces the connection once no thread uses it, unless another thread has: by one to a new file if it is damaged."""
        with self._change:
            self._change.wait_for(lambda: not self._users)
            if self._connection is not lost or self._is_closed:
                return
            self._disconnect()
            if is_damage(error):
                log.warning("%s is damaged (%s): it is rebuilt from the journal", self._path, str(error)[:80])
                self._connection = _ready(_rebuilt(self._path, self._journal))
            else:
                self._connection = opened(self._path, self._journal)
            self.writer = self._connection.cursor()

    def _disconnect(self) -> None:
        for connection in (self.writer, self._connection):
            with contextlib.suppress(duckdb.Error):  # a damaged file is not brought up to date
                connection.close()


def opened(path: Path, journal: Records) -> duckdb.DuckDBPyConnection:
    """The database at a path, up to date with the journal, as `Database` opens it."""
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
    held = _held(connection)
    with contextlib.suppress(duckdb.Error):
        connection.close()
    _keep_what_the_journal_lacks(path, held, journal)
    return _ready(_rebuilt(path, journal))


def _ready(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    for setting in READ_ONLY_SETTINGS:
        connection.execute(setting)
    return connection


def _held(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of journal records that the tables were made from; 0 for tables that aren't ours."""
    try:
        every = " UNION ALL ".join(f"SELECT seq FROM {table}" for table in TABLES.values())
        ((count,),) = connection.execute(f"SELECT count(*) FROM ({every})").fetchall()
    except duckdb.Error:
        return 0
    return int(count)


def _keep_what_the_journal_lacks(path: Path, held: int, journal: Records) -> None:
    """Moves a database aside that has more records than the journal: what the journal has lost may be taken from it.

    Raises UserError if the journal has none at all: then it was emptied or removed, and not put back from a copy.
    """
    if held <= len(journal):
        return
    if not len(journal):
        where = path.with_name("journal.jsonl")
        raise UserError(
            f"{where} is empty or gone, and {path} was made from {held} of its records: put the journal back from a copy, or "
            f"move {path.name} away as well to begin anew."
        )
    for file in database_files(path):
        if file.exists():
            log.warning("%s holds records that the journal lacks: it is kept as %s", file, move_aside(file))


def database_files(path: Path) -> tuple[Path, Path]:
    """A database's file, and DuckDB's write-ahead log beside it, which need not be there."""
    return path, path.with_name(f"{path.name}.wal")


def _rebuilt(path: Path, journal: Records) -> duckdb.DuckDBPyConnection:
    """A new file with all that the journal holds. Raises UserError if it can't be made."""
    for leftover in database_files(path):
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


def bring_up_to_date(connection: duckdb.DuckDBPyConnection, journal: Records) -> int:
    """Inserts the journal's records that the tables lack. Returns how many they hold then.

    Raises duckdb.Error if that fails, or if the tables hold other records.
    """
    applied = _applied(connection, journal)
    if applied is None:
        raise duckdb.DataError("the tables are not those of this journal")
    return applied + _catch_up(connection, journal, applied)


def in_memory(journal: Records) -> duckdb.DuckDBPyConnection:
    """A database in this process's memory that holds what the journal holds, with READ_ONLY_SETTINGS in force."""
    connection = duckdb.connect(":memory:")
    migrate(connection)
    _catch_up(connection, journal, 0)
    return _ready(connection)


def _applied(connection: duckdb.DuckDBPyConnection, journal: Records) -> int | None:
    """The number of journal records that the tables hold, if these are the first ones and nothing else; otherwise None."""
    every = " UNION ALL ".join(f"SELECT seq, '{kind}:' || id AS id FROM {table}" for kind, table in TABLES.items())
    rows = connection.execute(f"SELECT count(*), max(seq), arg_max(id, seq) FROM ({every})").fetchall()
    count, last, last_id = rows[0]
    if not holds_all_rows(connection):
        return None
    if count == 0:
        return 0
    return int(count) if count == last and journal.position(last_id) == last else None


def _catch_up(connection: duckdb.DuckDBPyConnection, journal: Records, applied: int) -> int:
    """Inserts the records after the first `applied` ones, and returns how many there were."""
    with without_collection():
        return _inserted(connection, journal, applied)


def _inserted(connection: duckdb.DuckDBPyConnection, journal: Records, applied: int) -> int:
    batch, count = [], 0
    for position_and_record in journal.records(after=applied) if applied < len(journal) else ():
        batch.append(position_and_record)
        count += 1
        if len(batch) == BATCH:
            insert_many(connection, batch)
            if count % (BATCH * BATCHES_PER_HISTORY) == 0:
                bring_history_up_to_date(connection)
            batch = []
    if batch:
        insert_many(connection, batch)
    if count:
        bring_history_up_to_date(connection)
    return count
