"""Read-only SQL for people and agents: one SELECT, no files, no settings, a time limit and a cap on rows."""

import json
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb

from research.errors import UserError
from research.formatting import counted, is_text, shortened
from results.history_rows import OWN_TABLES

READ_ONLY_SETTINGS = (
    "SET temp_directory = ''",  # a hungry query fails instead of filling the disk
    "SET python_enable_replacements = false",  # no reading of Python's own variables
    "SET enable_external_access = false",  # no files, network, extensions or other databases
    "SET memory_limit = '2GB'",
    "SET threads = 2",  # runs on this machine are scored by the clock: a query must not slow them
    "SET lock_configuration = true",
)
"""Settings of an open database: they hold for every query and can't be undone."""

_FIRST_WORD = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)

NOT_LISTED = ("schema_version", *OWN_TABLES)
"""Tables that nobody need query."""

CELL_WIDTH = 200
"""Characters of a cell in a prompt or a terminal, and of a column to which cells are aligned elsewhere."""

NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""What stands for the floats that JSON can't hold."""

LEAST_CELL = 20
"""Characters of text that are left of a column at least."""

Rows = tuple[tuple[str, ...], tuple[str, ...], list[tuple[Any, ...]]]
"""The names and types of columns, and rows."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A query's result."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False
    """Whether there were more rows than the limit."""
    types: tuple[str, ...] = ()
    """DuckDB's types of the columns; empty if they aren't known."""

    def to_text(self, *, cell_width: int | None = CELL_WIDTH, width: int | None = None, encoding: str = "utf-8") -> str:
        """Aligned columns for a terminal or a prompt. A single cell is printed whole, which suits diffs and logs.

        Text is cut to `cell_width` characters; None: all of it is printed, and longer text is not aligned. It is cut further
        so that lines have `width` characters, as far as the names of columns and figures allow; None: any width. What
        `encoding` lacks is escaped before columns are aligned, since it is longer then.
        """
        if len(self.rows) == 1 and len(self.columns) == 1:
            return f"{cell_text(self.rows[0][0])}\n"
        cut = partial(_cut, encoding=encoding)
        names = tuple(_escaped(name, encoding) for name in self.columns)
        whole = [[_escaped(cell_text(value), encoding) for value in row] for row in self.rows]
        cells = whole if cell_width is None else [[cut(cell, cell_width) for cell in row] for row in whole]
        longest = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
        widths = [max(len(name), min(most, cell_width or CELL_WIDTH)) for name, most in zip(names, longest, strict=True)]
        numeric = [all(_is_number(row[i]) for row in self.rows) and bool(self.rows) for i in range(len(widths))]
        fitted = widths if width is None else _fitted(widths, names, numeric, width)
        if width is not None:
            cells = [[cut(cell, most) for cell, most in zip(row, fitted, strict=True)] for row in cells]
        lines = [_aligned(names, fitted, numeric), "  ".join("-" * most for most in fitted)]
        lines += [_aligned(row, fitted, numeric) for row in cells]
        is_cut = width is not None and cells != whole
        lines.append(self._footer() + (" (text is cut to the terminal: --json or a pipe has all of it)" if is_cut else ""))
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """`{"columns": [...], "rows": [[...]], "truncated": false}`; times as text, and so is a float that is not finite."""
        rows = [[_plain(value) for value in row] for row in self.rows]
        return json.dumps({"columns": self.columns, "rows": rows, "truncated": self.truncated}, default=str)

    def _footer(self) -> str:
        if self.truncated:
            return f"(the first {counted(len(self.rows), 'row')}; there are more: narrow the query or use LIMIT and OFFSET)"
        return f"({counted(len(self.rows), 'row')})"


def is_damage(problem: duckdb.Error) -> bool:
    """Whether an error says that the file is damaged, or that DuckDB uses this database no more after an error of its own.

    No text of a query can cause the former: what a query raises by `error()` is of another class.
    """
    if isinstance(problem, duckdb.FatalException | duckdb.SerializationException):
        return True
    return type(problem) in (duckdb.Error, duckdb.IOException) and "orrupt" in str(problem)


def run_query(cursor: duckdb.DuckDBPyConnection, sql: str, *, max_rows: int, timeout_s: float) -> Table:
    """Runs one SELECT on `cursor`, and closes it.

    Safe only on a database with READ_ONLY_SETTINGS. Raises UserError, one line, for anything but one SELECT, for what DuckDB
    refuses, and after `timeout_s` seconds (a single function call over one row, such as a giant repeat(), is not interrupted);
    KeyboardInterrupt at Ctrl-C; and DuckDB's own error if the file is damaged.
    """
    if not is_text(sql):
        cursor.close()
        raise UserError("The query holds bytes or characters that are no UTF-8 text: use others.")

    def rows_of() -> Rows:
        statement = _only_select(cursor, sql)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        cursor.execute(statement)
        described = cursor.description or ()
        names, types = tuple(column[0] for column in described), tuple(str(column[1]) for column in described)
        return names, types, cursor.fetchmany(max_rows + 1)

    try:
        columns, types, rows = _limited(rows_of, cursor, timeout_s)
    except TimeoutError:
        raise UserError(f"The query was stopped after {timeout_s:g} s: ask for less.") from None
    except duckdb.Error as problem:
        if is_damage(problem):
            raise
        raise UserError(_in_one_line(problem, cursor)) from None
    finally:
        cursor.close()
    return Table(columns=columns, rows=tuple(rows[:max_rows]), truncated=len(rows) > max_rows, types=types)


def _only_select(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        raise UserError(f"Exactly one SELECT is allowed; this text holds {len(statements)} statements.")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = _first_word(sql) or statements[0].type.name
        raise UserError(f"Only reading is allowed (SELECT, WITH, DESCRIBE, SHOW, SUMMARIZE), not {kind}.")
    return statements[0]


def _first_word(sql: str) -> str:
    """The word that says what a statement does; empty for those that reading may begin with, too."""
    word = _FIRST_WORD.match(sql)
    found = word[1].upper() if word else ""
    return "" if found in ("WITH", "FROM", "VALUES", "SELECT") else found


def _limited(work: Callable[[], Rows], cursor: duckdb.DuckDBPyConnection, timeout_s: float) -> Rows:
    """What `work` returns of the cursor. It runs in a thread of its own, so that this one hears Ctrl-C.

    Raises TimeoutError after `timeout_s` seconds, and KeyboardInterrupt, once the cursor was interrupted.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="query") as pool:
        answer = pool.submit(work)
        try:
            return answer.result(timeout_s)
        except BaseException:
            while not answer.done():  # repeatedly: an interrupt between two calls of DuckDB is lost
                cursor.interrupt()
                wait([answer], 0.05)
            raise


def _in_one_line(problem: duckdb.Error, cursor: duckdb.DuckDBPyConnection) -> str:
    """DuckDB's message without the quoted query; for an unknown table it lists the tables."""
    message, _, _ = str(problem).partition("\n\nLINE ")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if isinstance(problem, duckdb.CatalogException) and lines[0].startswith("Catalog Error: Table with name"):
        return f"{lines[0]} There are: {', '.join(table_names(cursor))}."
    return " ".join(lines) or "the query failed"


def table_names(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the tables and views that a query can use, sorted."""
    with cursor.cursor() as other:  # the cursor's own transaction has failed
        rows = other.execute("SELECT table_name FROM information_schema.tables ORDER BY 1").fetchall()
    return [name for (name,) in rows if name not in NOT_LISTED]


def cell_text(value: Any) -> str:
    """A value of a result as people read it."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return _bytes_as_text(value)
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else _not_finite(value)
    return str(value)


def _not_finite(value: float) -> str:
    """The name of a float that JSON can't hold, as JavaScript and Python's parser have it."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _bytes_as_text(value: bytes) -> str:
    """A BLOB as DuckDB writes it: ASCII, and each other byte as \\xNN."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02X}" for byte in value)


def _escaped(text: str, encoding: str) -> str:
    """Text on one line in which line breaks, and characters that an encoding lacks, can be seen."""
    line = text.replace("\n", "\\n").replace("\t", " ").replace("\r", "")
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _cut(text: str, most: int, *, encoding: str) -> str:
    """Text of at most so many characters, all of which are in the encoding."""
    short = shortened(text, most)
    if short == text or _escaped("\u2026", encoding) == "\u2026":
        return short
    return text[: most - 3] + "..."


def _fitted(widths: list[int], columns: Sequence[str], numeric: list[bool], width: int) -> list[int]:
    """The widths of columns after the widest columns of text were narrowed until all fit, none below LEAST_CELL or its name."""
    fitted = list(widths)
    names = [max(len(name), LEAST_CELL) for name in columns]
    least = [full if number else min(full, name) for full, name, number in zip(widths, names, numeric, strict=True)]
    while sum(fitted) + 2 * (len(fitted) - 1) > width:
        wide = [at for at in range(len(fitted)) if fitted[at] > least[at]]
        if not wide:
            break
        fitted[max(wide, key=lambda at: fitted[at])] -= 1
    return fitted


def _aligned(cells: tuple[str, ...] | list[str], widths: list[int], numeric: list[bool]) -> str:
    aligned = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
    return "  ".join(aligned).rstrip()


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float) or value in NOT_FINITE


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities become text, so that they can be told from NULL."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, bytes):
        return _bytes_as_text(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
