"""What the columns of a database's tables accept, so that a row is known to fit before it is inserted, alone or with others."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from results.journal import RecordKind
from results.table_rows import TABLES, Row


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column, as DuckDB describes it."""

    type: str
    may_be_null: bool


class TableColumns:
    """The columns of all tables that hold records."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._of: Mapping[RecordKind, Mapping[str, Column]] = {
            kind: {name: Column(type=type, may_be_null=not is_needed) for _, name, type, is_needed, *_ in
                   connection.execute(f"PRAGMA table_info({table})").fetchall()}
            for kind, table in TABLES.items()
        }  # fmt: skip

    def check(self, kind: RecordKind, row: Row) -> None:
        """Raises duckdb.DataError for a row that its table would not take."""
        for name, column in self._of[kind].items():
            value = row.get(name)
            if value is None and not column.may_be_null:
                raise duckdb.DataError(f"{TABLES[kind]}.{name} needs a value")
            if value is not None and not _FITS[column.type](value):
                raise duckdb.DataError(f"{TABLES[kind]}.{name} is a {column.type}, and {str(value)[:80]!r} is none")


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _is_json(value: Any) -> bool:
    try:
        return isinstance(value, str) and (json.loads(value) or True)
    except ValueError:
        return False


def _is_whole(bits: int) -> Callable[[Any], bool]:
    least = -(2 ** (bits - 1))
    return lambda value: isinstance(value, int) and least <= value < -least


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "VARCHAR": lambda value: isinstance(value, str),
    "INTEGER": _is_whole(32),
    "BIGINT": _is_whole(64),
    "DOUBLE": lambda value: isinstance(value, float | int),
    "TIMESTAMP": _is_time,
    "VARCHAR[]": lambda value: isinstance(value, list | tuple) and all(isinstance(part, str) for part in value),
    "JSON": _is_json,
}
"""Whether a value fits a column of a type."""
