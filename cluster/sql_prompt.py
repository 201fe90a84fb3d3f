"""`farm sql` without a query: a prompt with a history, and completion of tables and columns by the schema and its comments."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from cluster.command_parser import SQL_FORMATS
from cluster.commands.read_home import query_history
from cluster.home import Home
from cluster.sql_output import Output, chosen_output, deliver
from research.errors import UserError
from research.formatting import shortened
from results.query import NOT_LISTED

if TYPE_CHECKING:
    from results.tables import Audience

COLUMNS = f"""
SELECT c.table_name, c.column_name, lower(c.data_type), coalesce(c.comment, ''), coalesce(t.comment, v.comment, '')
FROM duckdb_columns() c
LEFT JOIN duckdb_tables() t ON t.table_name = c.table_name AND NOT t.internal
LEFT JOIN duckdb_views() v ON v.view_name = c.table_name AND NOT v.internal
WHERE NOT c.internal AND c.table_name NOT IN {NOT_LISTED} ORDER BY c.table_name, c.column_index
"""

KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "GROUP BY ALL", "ORDER BY", "HAVING", "LIMIT", "JOIN", "LEFT JOIN", "ON", "USING",
    "AS", "WITH", "DISTINCT", "CASE", "WHEN", "THEN", "ELSE", "END", "AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN",
    "IS NULL", "IS NOT NULL", "DESC", "ASC", "NULLS LAST", "FILTER", "OVER", "PARTITION BY", "QUALIFY", "UNION ALL", "DESCRIBE",
    "SUMMARIZE", "count(*)", "avg(", "sum(", "min(", "max(", "median(", "stddev(", "round(", "coalesce(",
)  # fmt: skip

AFTER_TABLE_WORD = re.compile(r"\b(?:from|join|describe|summarize|\.schema)\s+\w*$", re.IGNORECASE)
"""The text before a cursor where the name of a table is expected."""

NAMED_TABLES = re.compile(r"\b(?:from|join)\s+(\w+)(?:\s+(?:as\s+)?(?!on\b|where\b|join\b|left\b|order\b|group\b)(\w+))?", re.I)
"""The tables that a query names, with their aliases."""

LONGEST_META = 70
"""Characters of a comment beside a completion."""

KEYS_HELP = (
    "Enter runs the query, Alt-Enter begins another line, Tab completes, Ctrl-R searches what was asked before, Ctrl-D ends."
)

COMMANDS: Mapping[str, str] = {
    ".tables": "tables and views, with what they hold",
    ".schema NAME": "the columns of one, with what they hold",
    ".format NAME": "how results are printed: table, csv, json or markdown",
    ".output FILE": "where the next result is written; the suffix says in which format",
    ".help": "this text",
    ".quit": "",
}
"""The commands of the prompt, and what each does: `.help` prints them, and Tab completes them."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as the schema has it."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The tables and views that a query can use."""

    columns: Mapping[str, tuple[Column, ...]]
    """The columns of each table or view."""
    comments: Mapping[str, str]
    """What each table or view holds."""


def ask_for_queries(home: Home, *, audience: "Audience") -> int:
    """Asks for queries and prints their results until Ctrl-D or `.quit`. Raises UserError if the home can't be read."""
    schema = read_schema(home, audience=audience)
    prompt: PromptSession[str] = PromptSession(
        "farm> ",
        history=history_of_queries(),
        completer=SqlCompleter(schema),
        auto_suggest=AutoSuggestFromHistory(),
        key_bindings=keys(),
        multiline=True,
        prompt_continuation=_continued,
    )
    print(f"{home.folder}: one SELECT at a time; .help says more, Ctrl-D ends.")
    session = SqlSession(home, schema, audience)
    while True:
        try:
            if not session.answer(prompt.prompt()):
                return 0
        except KeyboardInterrupt:  # drops what is typed
            continue
        except EOFError:
            return 0


def obey_lines(home: Home, text: str, output: Output, *, audience: "Audience") -> None:
    """Answers the commands of the prompt that a text begins with, one per line, and the query after them if there is one.

    Raises UserError at the first one that can't be answered.
    """
    session, lines = SqlSession(home, read_schema(home, audience=audience), audience, output), text.strip().splitlines()
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith(".")):
        if not session.answer(lines.pop(0), raises=True):
            return
    session.answer("\n".join(lines), raises=True)


class SqlSession:
    """What has been asked for at a prompt so far: how and to where it answers the next query."""

    def __init__(self, home: Home, schema: Schema, audience: "Audience", output: Output | None = None) -> None:
        self._home, self._schema, self._audience = home, schema, audience
        self._output = output or Output()

    def answer(self, typed: str, *, raises: bool = False) -> bool:
        """Prints the answer to a query or a command of the prompt, or the mistake in it. Returns whether the prompt goes on.

        With `raises` a mistake is a UserError instead.
        """
        words = typed.strip().rstrip(";").split(maxsplit=1)
        if not words:
            return True
        if words[0] in (".quit", ".exit", "exit", "quit"):
            return False
        try:
            if words[0].startswith("."):
                self._obey(words[0], words[1].strip() if len(words) > 1 else "")
            else:
                output, self._output = self._output, replace(self._output, file=None)
                deliver(self._home, typed, output, audience=self._audience)
        except UserError as error:
            if raises:
                raise
            print(error)
        except KeyboardInterrupt:
            if raises:
                raise
            print("stopped")
        return True

    def _obey(self, command: str, name: str) -> None:
        if command == ".tables":
            width = max(map(len, self._schema.columns), default=0)
            print("\n".join(f"{table:<{width}}  {text}" for table, text in self._schema.comments.items()))
        elif command == ".schema":
            print("\n".join(self._described(name)))
        elif command == ".format":
            formats = [one for one in SQL_FORMATS if one != "parquet"]
            if name not in formats:
                raise UserError(f".format takes {', '.join(formats)}; .output FILE.parquet writes Parquet.")
            self._output = chosen_output(name, None)
        elif command == ".output":
            if not name:
                raise UserError(".output needs a file, such as night.csv.")
            self._output = chosen_output(None, name)
        elif command == ".help":
            print("\n".join([KEYS_HELP, *(f"  {command:<19}{does}".rstrip() for command, does in COMMANDS.items())]))
        else:
            raise UserError(f"There is no {command}: .help lists what there is.")

    def _described(self, table: str) -> list[str]:
        columns = self._schema.columns.get(table.lower())
        if columns is None:
            raise UserError(f"There is no table {table!r}: there are {', '.join(self._schema.columns)}.")
        name, type = (max(len(one) for one in column) for column in zip(*((c.name, c.type) for c in columns), strict=True))
        lines = [f"{column.name:<{name}}  {column.type:<{type}}  {column.comment}" for column in columns]
        return [self._schema.comments[table.lower()], *lines]


def read_schema(home: Home, *, audience: "Audience") -> Schema:
    """The schema of a home's history. Raises UserError if that can't be read."""
    columns: dict[str, list[Column]] = {}
    comments: dict[str, str] = {}
    for table, name, type, comment, of_table in query_history(home, COLUMNS, audience=audience).rows:
        columns.setdefault(table, []).append(Column(name=name, type=type, comment=comment))
        comments[table] = of_table
    return Schema(columns={table: tuple(found) for table, found in columns.items()}, comments=comments)


class SqlCompleter(Completer):
    """Completes tables where a table is expected, elsewhere the columns of the tables that a query names, and keywords."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The completions at the cursor."""
        before = document.text_before_cursor
        word = document.get_word_before_cursor(pattern=re.compile(r"\.?\w+"))
        if before.startswith(".") and " " not in before:
            names = [command.split()[0] for command in COMMANDS]
            return [Completion(name, -len(before)) for name in names if name.startswith(before)]
        if AFTER_TABLE_WORD.search(before):
            return [_completion(table, word, text) for table, text in self._schema.comments.items() if _begins(table, word)]
        owner = re.search(r"(\w+)\.(\w*)$", before)
        if owner is not None:
            table = self._named(document.text).get(owner[1].lower(), owner[1].lower())
            columns = self._schema.columns.get(table, ())
            return [_of_column(column, owner[2]) for column in columns if _begins(column.name, owner[2])]
        return list(self._anything(document.text, word)) if word else []

    def _anything(self, text: str, word: str) -> Iterator[Completion]:
        tables = list(dict.fromkeys(self._named(text).values())) or list(self._schema.columns)
        columns = {column.name: column for table in reversed(tables) for column in self._schema.columns[table]}
        yield from (_of_column(columns[name], word) for name in sorted(columns) if _begins(name, word))
        yield from (_completion(table, word, text) for table, text in self._schema.comments.items() if _begins(table, word))
        yield from (Completion(keyword, -len(word)) for keyword in KEYWORDS if _begins(keyword, word))

    def _named(self, text: str) -> dict[str, str]:
        """The known tables that a query names, by their own names and by their aliases."""
        found = [(table.lower(), alias.lower()) for table, alias in NAMED_TABLES.findall(text)]
        return {name: table for table, alias in found for name in (table, alias) if name and table in self._schema.columns}


def _begins(name: str, word: str) -> bool:
    return name.lower().startswith(word.lower()) and name.lower() != word.lower()


def _completion(name: str, word: str, comment: str) -> Completion:
    return Completion(name, -len(word), display_meta=shortened(comment, LONGEST_META))


def _of_column(column: Column, word: str) -> Completion:
    return _completion(column.name, word, f"{column.type}: {column.comment}")


def history_of_queries(folder: Path | None = None) -> History:
    """What was asked before, in a file that only this user can read; in memory alone where that can't be written."""
    folder = folder or Path(platformdirs.user_state_dir("autoresearch-farm", appauthor=False))
    file = folder / "sql_history"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        with file.open("ab"):
            pass
    except OSError:
        return InMemoryHistory()
    return KeptHistory(file)


class KeptHistory(FileHistory):
    """A history in a file; what can't be written there any more is kept in memory."""

    def store_string(self, string: str) -> None:
        """Adds a query to the file."""
        with suppress(OSError):
            super().store_string(string)


def keys() -> KeyBindings:
    """Enter takes the completion that is chosen, else runs what is typed; Alt-Enter begins another line."""
    found = KeyBindings()

    @found.add("enter")
    def _run(event: KeyPressEvent) -> None:
        chosen = event.current_buffer.complete_state
        if chosen is not None and chosen.current_completion is not None:  # it is in the text already
            event.current_buffer.complete_state = None
        else:
            event.current_buffer.validate_and_handle()

    @found.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return found


def _continued(width: int, line: int, wraps: int) -> StyleAndTextTuples:
    return [("", "...> ".rjust(width))]
