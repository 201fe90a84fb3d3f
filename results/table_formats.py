"""A query's result in the formats that other programs read: CSV, Markdown and Parquet."""

import csv
import datetime
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from research.formatting import one_line
from results.query import Table, cell_text

ARROW_TYPES: Mapping[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "BOOLEAN": pa.bool_(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
}
"""DuckDB's types of the columns of our tables; others follow from the values."""


def to_csv(table: Table) -> str:
    """The rows under a line of names. NULL is empty; lists are JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_csv_cell(value) for value in row] for row in table.rows)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown, with numbers on the right."""
    numeric = [all(isinstance(row[at], int | float | None) for row in table.rows) for at in range(len(table.columns))]
    lines = [table.columns, ["---:" if is_number else "---" for is_number in numeric]]
    lines += [[cell_text(value) for value in row] for row in table.rows]
    return "".join(f"{markdown_row(line)}\n" for line in lines)


def markdown_row(cells: Iterable[str]) -> str:
    """A row of such a table."""
    return f"| {' | '.join(map(_markdown_cell, cells))} |"


def to_parquet(table: Table) -> bytes:
    """A Parquet file, with DuckDB's types where Arrow has them."""
    types = table.types or ("",) * len(table.columns)
    columns = [_column([row[at] for row in table.rows], ARROW_TYPES.get(type)) for at, type in enumerate(types)]
    made = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=_distinct(table.columns)), made)
    return made.getvalue()


def _column(values: list[Any], type: pa.DataType | None) -> pa.Array:
    """The values of a column; as text if they are of a kind that Arrow doesn't have."""
    try:
        return pa.array(values, type=type)
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([None if value is None else cell_text(value) for value in values])


def _distinct(names: tuple[str, ...]) -> list[str]:
    """Names of columns of which no two are alike: few readers of Parquet take a name twice."""
    found: list[str] = []
    for name in names:
        number = 1
        while (one := name if number == 1 else f"{name}_{number}") in found:
            number += 1
        found.append(one)
    return found


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else cell_text(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return value if isinstance(value, str) else cell_text(value)


def _markdown_cell(text: str) -> str:
    return one_line(text).replace("\\", "\\\\").replace("|", "\\|")
