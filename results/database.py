"""Opens the DuckDB file and brings it up to date with the journal, or rebuilds it."""

import logging
from pathlib import Path

import duckdb

from research.errors import UserError
from research.files import move_aside
from results.journal import Records
from results.query import READ_ONLY_SETTINGS
from results.schema import UnknownSchema, migrate
from results.table_rows import TABLES, insert_many

log = logging.getLogger(__name__)

BATCH = 5_000
"""Journal records per transaction while catching up."""


def open_database(path: Path, journal: Records) -> duckdb.DuckDBPyConnection:
    """The database at `path`, holding exactly what the journal holds, with READ_ONLY_SETTINGS in force.

    A file that is missing, damaged, ahead of the journal, of another journal or of an unknown schema is rebuilt; one that is
    behind gets the missing records. Raises UserError when another program has the file open, or the journal is gone.
    """
    try:
        connection = duckdb.connect(str(path))
    except duckdb.Error as problem:
        if "lock" in str(problem):
            raise UserError(f"{path} is open in another program: close it there first.") from None
        connection = _fresh(path)
    try:
        migrate(connection)
        applied = _applied(connection, journal)
    except (duckdb.Error, UnknownSchema):
        applied = None
    if applied is None:
        held = _held(connection)
        connection.close()
        _keep_what_the_journal_lacks(path, held, journal)
        connection = _fresh(path)
        migrate(connection)
        applied = 0
    _catch_up(connection, journal, applied)
    _bind(connection)
    return connection


def _bind(connection: duckdb.DuckDBPyConnection) -> None:
    for setting in READ_ONLY_SETTINGS:
        connection.execute(setting)


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
    for file in (path, path.with_name(path.name + ".wal")):
        if file.exists():
            log.warning("%s holds records that the journal lacks: it is kept as %s", file, move_aside(file))


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
    _bind(connection)
    return connection


def _fresh(path: Path) -> duckdb.DuckDBPyConnection:
    for leftover in (path, path.with_name(path.name + ".wal")):
        leftover.unlink(missing_ok=True)
    return duckdb.connect(str(path))


def _applied(connection: duckdb.DuckDBPyConnection, journal: Records) -> int | None:
    """The number of journal records that the tables hold, if these are the first ones and nothing else; otherwise None."""
    every = " UNION ALL ".join(f"SELECT seq, '{kind}:' || id AS id FROM {table}" for kind, table in TABLES.items())
    rows = connection.execute(f"SELECT count(*), max(seq), arg_max(id, seq) FROM ({every})").fetchall()
    count, last, last_id = rows[0]
    if count == 0:
        return 0
    return int(count) if count == last and journal.position(last_id) == last else None


def _catch_up(connection: duckdb.DuckDBPyConnection, journal: Records, applied: int) -> int:
    """Inserts the records after the first `applied` ones, and returns how many there were."""
    batch, count = [], 0
    for position_and_record in journal.records(after=applied) if applied < len(journal) else ():
        batch.append(position_and_record)
        count += 1
        if len(batch) == BATCH:
            insert_many(connection, batch)
            batch = []
    if batch:
        insert_many(connection, batch)
    return count
