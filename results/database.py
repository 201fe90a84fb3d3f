"""Opens the DuckDB file and brings it up to date with the journal, or rebuilds it."""

from pathlib import Path

import duckdb

from research.errors import UserError
from results.journal import Journal
from results.query import READ_ONLY_SETTINGS
from results.schema import UnknownSchema, migrate
from results.table_rows import TABLES, insert_many

BATCH = 5_000
"""Journal records per transaction while catching up."""


def open_database(path: Path, journal: Journal) -> duckdb.DuckDBPyConnection:
    """The database at `path`, holding exactly what the journal holds, with READ_ONLY_SETTINGS in force.

    A file that is missing, damaged, ahead of the journal, of another journal or of an unknown schema is rebuilt; one that is
    behind gets the missing records. Raises UserError when another program has the file open.
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
        connection.close()
        connection = _fresh(path)
        migrate(connection)
        applied = 0
    _catch_up(connection, journal, applied)
    for setting in READ_ONLY_SETTINGS:
        connection.execute(setting)
    return connection


def _fresh(path: Path) -> duckdb.DuckDBPyConnection:
    for leftover in (path, path.with_name(path.name + ".wal")):
        leftover.unlink(missing_ok=True)
    return duckdb.connect(str(path))


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
