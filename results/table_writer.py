"""Writes the records of a home into its database, many at once: the journal alone counts, and the tables may lag."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import duckdb

from research.errors import UserError
from research.formatting import one_line
from results.database import Database
from results.journal import Journal, JournalRecord
from results.table_columns import TableColumns
from results.table_rows import insert_many, row_of

log = logging.getLogger(__name__)

DATABASE_FAILED = (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException)
"""Errors that are about the database, its memory or its disk, and not about a row."""

MOST_WAITING = 256
"""After so many records the tables catch up, beside the work of whoever adds them."""

T = TypeVar("T")


class TableWriter:
    """The one writer of a database. Any thread may read; one at a time may add."""

    def __init__(self, path: Path, journal: Journal) -> None:
        """Raises UserError when another program has the file open, or it can't be made."""
        self._path, self._journal = path, journal
        self._database = Database(path, journal)
        self._columns = self._database.read(TableColumns)
        self._waiting: list[tuple[int, JournalRecord]] = []
        """The latest records of the journal, each with its position, which the tables lack."""
        self._has_failed = False
        """Whether the tables may lack other records, too."""
        self._noting, self._catching_up = threading.Lock(), threading.Lock()
        self._beside: threading.Thread | None = None

    def add(self, record: JournalRecord) -> None:
        """Appends a new record to the journal. Its row follows when the tables are read, or with many others.

        Raises duckdb.DataError for a record that no table would take, so that the journal holds no such one, and UserError if
        the journal can't be written.
        """
        position = len(self._journal) + 1
        self._columns.check(record.kind, row_of(position, record))
        self._journal.append(record)
        with self._noting:
            self._waiting.append((position, record))
            many = len(self._waiting) >= MOST_WAITING
        if many and (self._beside is None or not self._beside.is_alive()):
            self._beside = threading.Thread(target=self._catch_up_quietly, name="tables", daemon=True)
            self._beside.start()

    def read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """What `work` returns of a cursor on the database, which is up to date with the journal; see `Database.read`.

        Raises UserError if the database can't be brought there.
        """
        if self._waiting or self._has_failed:
            self._catch_up()
        return self._database.read(work)

    def close(self) -> None:
        """Closes the database, up to date if it can be. A second call does nothing."""
        if self._waiting or self._has_failed:
            self._catch_up_quietly()
        if self._beside is not None:
            self._beside.join()
        self._database.close()

    def _catch_up_quietly(self) -> None:
        """Inserts what waits; if that fails, it is tried again when somebody reads."""
        try:
            self._catch_up()
        except (UserError, duckdb.Error) as problem:
            log.warning("%s", one_line(str(problem)))

    def _catch_up(self) -> None:
        """Inserts what waits; where that fails, whatever the tables lack is read from the journal. Raises UserError."""
        with self._catching_up:
            with self._noting:
                waiting = list(self._waiting)
            if not self._has_failed:
                try:
                    self._insert(waiting)
                except (duckdb.Error, MemoryError) as problem:
                    log.warning("%s: records are in the journal alone for now: %s", self._path, one_line(str(problem)))
                    self._has_failed = True
            if self._has_failed:
                waiting = self._take_all(waiting)
            with self._noting:
                del self._waiting[: len(waiting)]

    def _insert(self, waiting: list[tuple[int, JournalRecord]]) -> None:
        if waiting:
            with self._database.in_use():
                insert_many(self._database.writer, waiting)

    def _take_all(self, waiting: list[tuple[int, JournalRecord]]) -> list[tuple[int, JournalRecord]]:
        """Brings the tables up to date with the journal. Returns those of `waiting` that they hold then: all."""
        try:
            known = self._database.bring_up_to_date()
        except (duckdb.Error, OSError) as problem:
            why = f"{self._path} can't be brought up to date ({one_line(str(problem))})"
            raise UserError(f"{why}: the journal has all of it, run the same command again.") from None
        self._has_failed = False
        with self._noting:
            return [one for one in self._waiting if one[0] <= known]
