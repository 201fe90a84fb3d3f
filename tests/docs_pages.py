"""The pages of docs/ that are made from the code: `uv run python -m tests.docs_pages` writes them."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

from cluster.command_parser import make_parser
from results.column_comments import AUDIT_COLUMNS, AUDIT_COMMENT
from results.query import NOT_LISTED
from results.schema import migrate

DOCS = Path(__file__).parent.parent / "docs"

MADE = "<!-- made by `uv run python -m tests.docs_pages`: edit the code, not this page -->"

TABLES = f"""
SELECT table_name, comment, 'table' FROM duckdb_tables() WHERE NOT internal AND table_name NOT IN {NOT_LISTED}
UNION ALL SELECT view_name, comment, 'view' FROM duckdb_views() WHERE NOT internal ORDER BY ALL
"""

COLUMNS = """
SELECT column_name, lower(data_type), comment FROM duckdb_columns() WHERE table_name = ? AND NOT internal ORDER BY column_index
"""


def schema_page() -> str:
    """Every table, view and column with the comment on it."""
    with duckdb.connect() as connection:
        migrate(connection)
        tables = connection.execute(TABLES).fetchall()
        tables.sort(key=lambda table: (table[0] != "history", table[2] == "table", table[0]))
        parts = [
            f"## {name}\n\n{comment} ({kind})\n\n{_table(connection.execute(COLUMNS, [name]).fetchall())}"
            for name, comment, kind in tables
        ]
    audit = _table((name, "", text) for name, text in AUDIT_COLUMNS.items())
    head = (
        f"{MADE}\n\n# Tables and views\n\nWhat `farm sql` and the dashboard's SQL page read. [The cookbook](cookbook.md) has "
        "queries to begin with.\nAgents find the same comments in `duckdb_tables()`, `duckdb_views()` and `duckdb_columns()`."
    )
    return "\n\n".join([head, *parts, f"## audit\n\n{AUDIT_COMMENT}\n\n{audit}"]) + "\n"


def _table(rows: "Iterator[tuple[str, str, str]] | list[tuple[str, str, str]]") -> str:
    return "\n".join(["| column | type | |", "| --- | --- | --- |", *(f"| `{n}` | {t} | {_cell(c)} |" for n, t, c in rows)])


def commands_page() -> str:
    """Every command with its arguments and options."""
    parser = make_parser()
    commands = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    parts = []
    for listing in str(parser.epilog).split("\n\n"):
        title, *lines = listing.splitlines()
        names = [name for line in lines if (name := line.split()[0]) in commands]
        parts += [f"## {title.removesuffix(':').capitalize()}", *(_command(name, commands[name]) for name in names)]
    head = (
        f"{MADE}\n\n# Commands\n\nWhat each command of `farm` takes. `farm COMMAND --help` says the same. What to use when is "
        "in\n[the README](../README.md#commands) and [the tutorial](tutorial.md)."
    )
    return "\n\n".join([head, *parts]) + "\n"


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    given = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    places = [action for action in given if not action.option_strings]
    words = " ".join(["farm", name, *(f"[{_name(one)}]" if one.nargs == "?" else _name(one) for one in places)])
    rows = [f"| `{_form(action)}` | {_cell(_help(action))} |" for action in given]
    text = [f"### {words}", str(parser.description), *([str(parser.epilog)] if parser.epilog else [])]
    return "\n\n".join([*text, *(["\n".join(["| | |", "| --- | --- |", *rows])] if rows else [])])


def _name(action: argparse.Action) -> str:
    return str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper()))


def _form(action: argparse.Action) -> str:
    """An option as it is typed, or the name of an argument."""
    if not action.option_strings:
        return _name(action).replace("|", "\\|")
    value = "" if action.nargs == 0 else f" {_name(action)}"
    return (", ".join(action.option_strings) + value).replace("|", "\\|")


def _help(action: argparse.Action) -> str:
    return str(action.help or "").replace("%%", "%")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


PAGES = {"schema.md": schema_page, "commands.md": commands_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
