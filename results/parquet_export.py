"""The history as Parquet files, for notebooks, pandas, polars, DuckDB and the Hugging Face hub. They hold no audit score.

Each file says its schema version, and what its table and columns are, in its metadata.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from research.files import replacing
from results.database import in_memory
from results.journal import JournalReader
from results.schema import MIGRATIONS
from results.tables import Tables

SCHEMA_VERSION = len(MIGRATIONS)
"""The version of the tables: a step of the schema that changes any of them adds one."""

VERSION_KEY, TABLE_KEY = b"autoresearch_farm.schema_version", b"autoresearch_farm.table"
"""The keys of a file's metadata."""

BATCH_ROWS = 100_000
"""Rows that are in memory at once."""

_FROM_RECORD: Mapping[str, Mapping[str, str]] = {
    "branches": {"contract": "record ->> '$.contract_json'", "head_branch": "coalesce(nullif(record ->> '$.group', ''), id)"},
    "experiments": {
        "patches": "CAST(record -> '$.patches' AS VARCHAR[])",
        "left_out": "CAST(record -> '$.left_out' AS VARCHAR[])",
        "slots": "CAST(record -> '$.slots' AS VARCHAR[])",
        "price": "CAST(record ->> '$.price' AS DOUBLE)",
        "program": "record ->> '$.program'",
    },
    "runs": {
        "cpu_share": "CAST(record ->> '$.cpu_share' AS DOUBLE)",
        "gpu_tflops": "CAST(record ->> '$.gpu_tflops' AS DOUBLE)",
        "sandbox": "CAST(record -> '$.sandbox' AS VARCHAR[])",
        "software": "CAST(record -> '$.software' AS VARCHAR)",
        "score_fingerprint": "record ->> '$.score_fingerprint'",
    },
    "verdicts": {name: f"CAST(record ->> '$.{name}' AS DOUBLE)" for name in ("effect", "low", "high", "helps")},
}
"""Columns that a table's JSON records hold and the table itself doesn't."""

_CURVES = """
SELECT id AS run_id, experiment_id, CAST(point ->> 0 AS DOUBLE) AS seconds, CAST(point ->> 1 AS BIGINT) AS step,
       CAST(point ->> 2 AS DOUBLE) AS loss
FROM (SELECT id, experiment_id, unnest(CAST(record -> '$.reported_curve' AS JSON[])) AS point FROM runs)
"""

QUERIES: Mapping[str, str] = {
    **{
        table: f"SELECT * EXCLUDE (record), {', '.join(f'{what} AS {name}' for name, what in columns.items())} FROM {table}"
        for table, columns in _FROM_RECORD.items()
    },
    "curves": _CURVES,
    **{
        view: f"SELECT * FROM {view}"
        for view in ("history", "estimates", "heads", "decisions", "changes", "costs", "work", "workers", "foreign_results")
    },
}
"""The tables that are exported -> the query for each."""

CURVES_COMMENT = "The training loss that each run has reported, in nats per token; nothing is decided by it."

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A table that was written."""

    name: str
    path: Path
    rows: int
    comment: str
    """What the table holds; empty if the schema doesn't say."""
    columns: Mapping[str, str]
    """What each column holds, as far as the schema says."""


def export_tables(journal: Path, folder: Path) -> list[Exported]:
    """Writes a file for each table of QUERIES to a folder, each atomically. Works while a farm writes the journal.

    Raises OSError, duckdb.Error.
    """
    reader = JournalReader(journal)
    reader.read_on()
    with contextlib.closing(in_memory(reader)) as connection:

        def read(work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
            with connection.cursor() as cursor:
                return work(cursor)

        Tables(read, reader).refresh_estimates()
        return read(lambda cursor: [export_table(cursor, name, folder) for name in QUERIES])


def export_table(cursor: duckdb.DuckDBPyConnection, name: str, folder: Path) -> Exported:
    """Writes a table of QUERIES to its file in a folder, atomically. Raises OSError, duckdb.Error."""
    path = folder / f"{name}.parquet"
    comment, columns = _comments(cursor, name)
    batches = cursor.sql(QUERIES[name]).to_arrow_reader(BATCH_ROWS)
    schema = _described(batches.schema, name, comment, columns)
    rows = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in _batches(batches):
            writer.write_batch(batch.cast(schema))
            rows += batch.num_rows
    return Exported(name=name, path=path, rows=rows, comment=comment, columns=columns)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    yield from reader


def _comments(cursor: duckdb.DuckDBPyConnection, table: str) -> tuple[str, dict[str, str]]:
    """What the schema says of a table or view, and of its columns."""
    if table == "curves":
        return CURVES_COMMENT, {}
    sources = "SELECT table_name AS name, comment FROM duckdb_tables() UNION ALL SELECT view_name, comment FROM duckdb_views()"
    ((comment,),) = cursor.execute(f"SELECT any_value(comment) FROM ({sources}) WHERE name = ?", [table]).fetchall()
    columns: Sequence[tuple[str, str]] = cursor.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = ? AND comment IS NOT NULL", [table]
    ).fetchall()
    return str(comment or ""), dict(columns)


def _described(schema: pa.Schema, name: str, comment: str, columns: Mapping[str, str]) -> pa.Schema:
    """The schema with its version and the comments as metadata."""
    fields = [
        field.with_metadata({b"comment": columns[field.name].encode()}) if field.name in columns else field for field in schema
    ]
    about = {VERSION_KEY: str(SCHEMA_VERSION).encode(), TABLE_KEY: name.encode(), b"comment": comment.encode()}
    return pa.schema(fields, metadata=about)
