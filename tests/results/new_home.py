"""New homes for tests, whose database has its tables: making them takes each test a tenth of a second of a core."""

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection as Connection

from results import database
from results.database import Records
from results.store import Store


def with_tables(home: Path) -> Path:
    """`home`, as a folder that holds an empty database, unless it holds one already."""
    database = home / "farm.duckdb"
    if not database.exists():
        home.mkdir(parents=True, exist_ok=True)
        database.write_bytes(empty_database())
    return home


def copy_tables(patch: pytest.MonkeyPatch, tables: bytes | None = None) -> None:
    """Lets this process begin each new database as a copy of an empty one: of `tables`, if some are given."""
    patch.setattr(database, "opened", partial(_opened, tables or empty_database(), database.opened))


def _opened(tables: bytes, opened: Callable[[Path, Records], Connection], path: Path, journal: Records) -> Connection:
    if not path.exists():
        path.write_bytes(tables)
    return opened(path, journal)


@cache
def empty_database() -> bytes:
    """The file of a database that has its tables and no rows."""
    with tempfile.TemporaryDirectory() as folder:
        Store.open(Path(folder)).close()
        return (Path(folder) / "farm.duckdb").read_bytes()
