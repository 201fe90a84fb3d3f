"""Text in parquet files: a column of strings, or of their UTF-8 bytes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from research.data.json_documents import TEXT_FIELD
from research.errors import UserError
from research.formatting import printable

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet


IfCorrupt = Literal["delete", "download again", "replace"]
"""What becomes of a corrupt file: it is deleted, the user is asked to delete it, or, of the user's own, to replace it."""


def parquet_texts(path: Path, *, start: int = 0, stop: int | None = None, delete_if_corrupt: bool = False) -> Iterator[str]:
    """Texts in rows `start` to `stop - 1` of the column `text`, read in batches; empty ones are left out.

    Raises UserError for a file that can't be read. With `delete_if_corrupt` that file is deleted.
    """
    if_corrupt: IfCorrupt = "delete" if delete_if_corrupt else "download again"
    values = parquet_values(path, TEXT_FIELD, start=start, stop=stop, if_corrupt=if_corrupt)
    return (text for text in values if text)


def parquet_values(
    path: Path, column: str, *, start: int = 0, stop: int | None = None, if_corrupt: IfCorrupt = "replace"
) -> Iterator[str | None]:
    """Values in rows `start` to `stop - 1` of a column; None where there is no text. Bytes are decoded as UTF-8.

    Raises UserError for a file that can't be read, or without such a column.
    """
    try:
        with _open(path) as file:
            if column not in parquet_columns(file):
                raise UserError(
                    f"{printable(path)} has no column `{column}` of text: rename the column, or leave the file out."
                )
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows > start and (stop is None or first < stop):
                    yield from _row_group_values(file, group, column, start - first, rows if stop is None else stop - first)
                first += rows
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise _corrupt(path, if_corrupt) from error


def parquet_rows(path: Path, *, delete_if_corrupt: bool = False) -> int:
    """Number of rows of a parquet file. Raises UserError for a file that can't be read."""
    try:
        with _open(path) as file:
            return int(file.metadata.num_rows)
    except (OSError, ValueError) as error:
        raise _corrupt(path, "delete" if delete_if_corrupt else "replace") from error


def parquet_fields(path: Path) -> tuple[list[str], list[str]]:
    """The columns that hold text, and the others, which are given with their types. Raises UserError for a corrupt file."""
    try:
        with _open(path) as file:
            columns = parquet_columns(file)
            others = [f"{field.name} ({field.type})" for field in file.schema_arrow if field.name not in columns]
    except (OSError, ValueError) as error:
        raise _corrupt(path, "replace") from error
    return columns, others


def parquet_columns(file: "pyarrow.parquet.ParquetFile") -> list[str]:
    """Names of the columns that hold strings or bytes."""
    return [field.name for field in file.schema_arrow if _holds_text(field.type)]


def _holds_text(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(types, check)(kind) for check in checks)


def _open(path: Path) -> "pyarrow.parquet.ParquetFile":
    import pyarrow
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(pyarrow.OSFile(os.fsencode(path)))  # as bytes: a name need not be UTF-8


def _row_group_values(
    file: "pyarrow.parquet.ParquetFile", group: int, column: str, start: int, stop: int
) -> Iterator[str | None]:
    """Rows `start` to `stop - 1` of one row group."""
    place = 0
    for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=[column]):
        wanted = batch.column(0)[max(start - place, 0) : max(stop - place, 0)]
        for value in wanted.to_pylist():
            yield value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        place += batch.num_rows


def _corrupt(path: Path, how: IfCorrupt) -> UserError:
    if how == "delete":
        path.unlink(missing_ok=True)
        return UserError(f"{printable(path)} is corrupt and was deleted: run the same command again to download it again.")
    cure = "replace it, or leave it out" if how == "replace" else "delete it, and run the same command again"
    return UserError(f"{printable(path)} is corrupt: {cure}.")
