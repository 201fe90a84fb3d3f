"""Diffs and queries coloured on the server, as HTML in which all text is escaped."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, SqlLexer

from research.formatting import printable

MOST_LINES = 3_000
"""Lines of a diff that are shown."""

LONGEST_LINE = 400
"""Characters of a line that are coloured; longer ones are shown plain."""

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")


@dataclass(frozen=True, kw_only=True)
class DiffLine:
    """A line of a diff."""

    kind: Literal["added", "removed", "same", "place"]
    code: Markup
    old: int | None = None
    new: int | None = None
    """Its numbers in the old and the new file; None where it isn't in it, or the diff doesn't say."""


def diff_lines(diff: str) -> list[DiffLine]:
    """The lines of a unified diff of Python, or of one without places. Those beyond MOST_LINES are left out."""
    lines: list[DiffLine] = []
    old = new = None
    for line in diff.splitlines()[:MOST_LINES]:
        place = _HUNK.match(line)
        if place:
            old, new = int(place[1]), int(place[2])
            lines.append(DiffLine(kind="place", code=Markup("") + _shown(line)))
        elif line.startswith(("--- ", "+++ ", "diff ", "index ")) and old is None:
            continue
        elif line.startswith("+"):
            lines.append(DiffLine(kind="added", code=python(line[1:]), new=new))
            new = _next(new)
        elif line.startswith("-"):
            lines.append(DiffLine(kind="removed", code=python(line[1:]), old=old))
            old = _next(old)
        elif not line.startswith("\\"):
            lines.append(DiffLine(kind="same", code=python(line[1:]), old=old, new=new))
            old, new = _next(old), _next(new)
    return lines


def python(line: str) -> Markup:
    """A line of Python, coloured."""
    text = _shown(line)
    return _coloured(text, PythonLexer(ensurenl=False, stripnl=False)) if len(text) <= LONGEST_LINE else Markup("") + text


def sql(query: str) -> Markup:
    """A query, coloured."""
    return _coloured("\n".join(map(_shown, query.splitlines())), SqlLexer(ensurenl=False, stripnl=False))


def _coloured(text: str, lexer: PythonLexer | SqlLexer) -> Markup:
    return Markup(highlight(text, lexer, _formatter()).removesuffix("\n"))  # the formatter escapes all text


@lru_cache(maxsize=1)
def _formatter() -> "HtmlFormatter[str]":
    return HtmlFormatter(nowrap=True)


def _shown(line: str) -> str:
    """A line in which what can't be seen becomes `?`."""
    return printable(line.expandtabs(4))


def _next(number: int | None) -> int | None:
    return None if number is None else number + 1
