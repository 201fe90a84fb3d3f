"""What is known of a row before it is inserted with others."""

from typing import Any

import duckdb
import pytest

from results.schema import migrate
from results.table_columns import TableColumns
from results.table_rows import TABLES, Row


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    migrate(connection)
    return connection


GOOD: Row = {
    "seq": 1, "id": "v", "experiment_id": "e", "decision": "keep", "reason": "", "gain": 1, "created": "2026-01-01T00:00:00Z"
}  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [
    ("seq", None), ("seq", "1"), ("seq", 2**63), ("decision", None), ("decision", 3), ("gain", "much"),
    ("created", "yesterday"),
])  # fmt: skip
def test_a_row_that_a_table_refuses_is_refused_before(connection: duckdb.DuckDBPyConnection, column: str, value: Any) -> None:
    columns = TableColumns(connection)
    columns.check("verdict", GOOD)
    with pytest.raises(duckdb.Error):
        columns.check("verdict", {**GOOD, column: value})


def test_every_type_of_every_table_is_known(connection: duckdb.DuckDBPyConnection) -> None:
    columns = TableColumns(connection)
    for kind in TABLES:
        with pytest.raises(duckdb.Error, match="needs a value"):
            columns.check(kind, {})
