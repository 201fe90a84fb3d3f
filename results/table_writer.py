"""Writes the records of a home into its database, which may fail and lag: the journal alone counts."""

import logging
import threading
from contextlib import suppress
from pathlib import Path

import duckdb

from research.errors import UserError
from research.formatting import one_line
from results.database import bring_up_to_date, open_database
from results.journal import Journal, JournalRecord
from results.table_rows import insert_one, row_of

log = logging.getLogger(__name__)

DATABASE_FAILED = (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException)
"""Errors that are about the database, its memory or its disk, and not about a row."""


class TableWriter:
    """The one writer of a database. Any thread may ask for the database; one at a time may add."""

    def __init__(self, path: Path, journal: Journal) -> None:
        """Raises UserError when another program has the file open."""
        self._path, self._journal = path, journal
        self._database = open_database(path, journal)
        self._writer = self._database.cursor()
        self._lags = False
        """Whether the journal holds records that the tables lack."""
        self._noting, self._catching_up = threading.Lock(), threading.Lock()

    def add(self, record: JournalRecord) -> None:
        """Appends a new record to the journal, and inserts its row, in a transaction that ends once the record is on disk.

        The insertion is tried first, so that the journal holds only what a table accepts. But where the database fails, the
        tables lag, and catch up when they are asked for. Raises UserError if the journal can't be written.
        """
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

    def database(self) -> duckdb.DuckDBPyConnection:
        """The database, up to date with the journal. Raises UserError if it can't be brought there."""
        if self._lags:
            with self._catching_up:
                if self._lags:
                    self._catch_up()
        return self._database

    def close(self) -> None:
        """Closes the database. A second call does nothing."""
        self._writer.close()
        self._database.close()

    def _inserted(self, record: JournalRecord) -> bool:
        """Whether the row was inserted, in a transaction that stays open. Raises duckdb.Error if no table accepts it."""
        row = row_of(len(self._journal) + 1, record)
        try:
            self._writer.execute("BEGIN")
            insert_one(self._writer, record.kind, row)
            return True
        except DATABASE_FAILED as problem:
            self._warn(problem)
            self._roll_back()
            return False
        except BaseException:
            self._roll_back()
            raise

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except duckdb.Error as problem:
            self._warn(problem)
            with self._noting:
                self._lags = True

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # there may be no transaction any more
            self._writer.execute("ROLLBACK")

    def _warn(self, problem: duckdb.Error) -> None:
        log.warning("%s: a record is in the journal alone for now: %s", self._path, one_line(str(problem)))

    def _catch_up(self) -> None:
        try:
            try:
                self._roll_back()
                known = bring_up_to_date(self._database, self._journal)
            except duckdb.Error:
                self.close()
                self._database = open_database(self._path, self._journal)
                self._writer = self._database.cursor()
                known = bring_up_to_date(self._database, self._journal)
        except (duckdb.Error, OSError) as problem:
            why = f"{self._path} can't be brought up to date ({one_line(str(problem))})"
            raise UserError(f"{why}: the journal has all of it, run the same command again.") from None
        with self._noting:
            self._lags = known < len(self._journal)
