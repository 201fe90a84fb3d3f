"""The result of a query of `farm sql`: printed, or written to a file."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cluster.command_parser import SQL_FORMATS, SqlFormat
from cluster.commands.read_home import query_history, query_in_full
from cluster.home import Home
from cluster.replaced_files import check_may_replace
from research.errors import UserError
from research.files import user_path, write_atomically
from research.formatting import counted

if TYPE_CHECKING:
    from results.query import Table
    from results.tables import Audience

SUFFIXES: Mapping[str, SqlFormat] = {".csv": "csv", ".json": "json", ".md": "markdown", ".parquet": "parquet", ".txt": "table"}
"""The format of a file, by its suffix."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a result goes, and in which format."""

    format: SqlFormat = "table"
    file: Path | None = None
    """None: standard output."""


def chosen_output(format: str | None, file: str | None, *, json: bool = False) -> Output:
    """The output by `--format`, `--output` and `--json`. Raises UserError if they don't say which format, or differ, or Parquet
    has no file.
    """
    if json and format not in (None, "json"):
        raise UserError(f"--json and --format {format} are two formats: leave one out.")
    format = "json" if json else format
    path = None if file is None else user_path(file, instead="an absolute path for --output")
    of_name = None if path is None else SUFFIXES.get(path.suffix.lower())
    if json and of_name not in (None, "table", "json"):
        raise UserError(f"--json and --output {file} are two formats: leave --json out, or choose a name that ends in .json.")
    chosen = format or ("table" if path is None else of_name)
    if chosen is None:
        raise UserError(
            f"{path} doesn't say in which format the result is to be written: add --format {' or '.join(SQL_FORMATS)}."
        )
    if chosen == "parquet" and path is None:
        raise UserError("Parquet is written to a file: add --output FILE.parquet.")
    return Output(format=cast(SqlFormat, chosen), file=path)


def deliver(home: Home, query: str, output: Output, *, audience: "Audience") -> None:
    """Prints or writes the answer to one SELECT. Raises UserError."""
    if output.file is not None:
        check_may_replace(output.file, home, option="--output")
    in_full = output.file is not None or output.format in ("csv", "markdown", "parquet")
    table = (query_in_full if in_full else query_history)(home, query, audience=audience)
    if output.file is None:
        print(str(rendered(table, output.format)).rstrip("\n"))
        return
    try:
        write_atomically(output.file, rendered(table, output.format, is_file=True))
    except OSError as error:
        raise UserError(f"{output.file} can't be written ({error.strerror}): choose another --output.") from None
    more = " (the first ones: add LIMIT and OFFSET for the others)" if table.truncated else ""
    print(f"{counted(len(table.rows), 'row')}{more} written to {output.file}")


def rendered(table: "Table", format: SqlFormat, *, is_file: bool = False) -> str | bytes:
    """A result in a format; as a table it is cut to the terminal, if it is printed on one."""
    if format == "json":
        return table.to_json()
    if format == "table":
        encoding = "utf-8" if is_file else sys.stdout.encoding
        if is_file or not sys.stdout.isatty():
            return table.to_text(cell_width=None, encoding=encoding)
        return table.to_text(width=shutil.get_terminal_size().columns, encoding=encoding)
    from results.table_formats import to_csv, to_markdown, to_parquet

    return to_csv(table) if format == "csv" else to_markdown(table) if format == "markdown" else to_parquet(table)
