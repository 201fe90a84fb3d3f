"""Writes the records of a home into its database, which may fail and lag: the journal alone counts."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import duckdb

from research.errors import UserError
from research.formatting import one_line
from results.database import Database
from results.journal import Journal, JournalRecord
from results.table_rows import insert_one, row_of

log = logging.getLogger(__name__)

DATABASE_FAILED = (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException)
"""Errors that are about the database, its memory or its disk, and not about a row."""

T = TypeVar("T")


class TableWriter:
    """The one writer of a database. Any thread may read; one at a time may add."""

    def __init__(self, path: Path, journal: Journal) -> None:
        """Raises UserError when another program has the file open, or it can't be made."""
        self._path, self._journal = path, journal
        self._database = Database(path, journal)
        self._lags = False
        """Whether the journal holds records that the tables lack."""
        self._noting, self._catching_up = threading.Lock(), threading.Lock()

    def add(self, record: JournalRecord) -> None:
        """Appends a new record to the journal, and inserts its row, in a transaction that ends once the record is on disk.

        The insertion is tried first, so that the journal holds only what a table accepts. But where the database fails, the
        tables lag, and catch up when they are asked for. Raises UserError if the journal can't be written.
        """
        with self._database.in_use():
            inserted = not self._lags and self._inserted(record)
            try:
                with self._noting:
                    self._journal.append(record)
                    self._lags = self._lags or not inserted
            except BaseException:
                self._roll_back()
                raise
            if inserted:
                self._commit()

    def read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """What `work` returns of a cursor on the database, which is up to date with the journal; see `Database.read`.

        Raises UserError if the database can't be brought there.
        """
        if self._lags:
            with self._catching_up:
                if self._lags:
                    self._catch_up()
        return self._database.read(work)

    def close(self) -> None:
        """Closes the database. A second call does nothing."""
        self._database.close()

    def _inserted(self, record: JournalRecord) -> bool:
        """Whether the row was inserted, in a transaction that stays open. Raises duckdb.Error if no table accepts it."""
        row = row_of(len(self._journal) + 1, record)
        try:
            self._database.writer.execute("BEGIN")
            insert_one(self._database.writer, record.kind, row)
            return True
        except BaseException as problem:
            self._roll_back()
            if not isinstance(problem, duckdb.Error) or not self._has_failed(problem):
                raise
            self._warn(problem)
            return False

    def _has_failed(self, problem: duckdb.Error) -> bool:
        """Whether an error is about the database, and not about a row."""
        return isinstance(problem, DATABASE_FAILED) or self._database.is_lost(problem)

    def _commit(self) -> None:
        try:
            self._database.writer.execute("COMMIT")
        except duckdb.Error as problem:
            self._warn(problem)
            self._roll_back()
            with self._noting:
                self._lags = True

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # there may be no transaction any more
            self._database.writer.execute("ROLLBACK")

    def _warn(self, problem: duckdb.Error) -> None:
        log.warning("%s: a record is in the journal alone for now: %s", self._path, one_line(str(problem)))

    def _catch_up(self) -> None:
        try:
            known = self._database.bring_up_to_date()
        except (duckdb.Error, OSError) as problem:
            why = f"{self._path} can't be brought up to date ({one_line(str(problem))})"
            raise UserError(f"{why}: the journal has all of it, run the same command again.") from None
        with self._noting:
            self._lags = known < len(self._journal)
