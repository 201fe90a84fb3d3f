"""Strings as they are written in a train.py: alike for every version of Python, and without what can't be seen.

Whether a text is accepted must not depend on the Python that reads it. From 3.12 on f-strings may hold what 3.11 can't read:
their own quotes, backslashes, comments. The version that can read least decides. Standard library only.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from typing import AnyStr

OLDEST = (3, 11)
"""The oldest Python that runs train.py files, whose grammar all of them follow."""

MAX_SPECS = 1
"""Format specifications with expressions in them, one in another, at most."""

_QUOTED = re.compile(r"[A-Za-z]*('''|\"\"\"|'|\")(?:\\.|(?!\1)[^\\])*\1", re.DOTALL)
"""A string as Python 3.11 reads it: it ends at the first of its quotes that no backslash precedes."""

_SPACE_AFTER_CONVERSION = re.compile(r"![sra]\s+\}?$")


def form_feed_in_string(train_py: str) -> int | None:
    """The line of the first string with a form feed in it that is no escape; None if there is none, or no telling."""
    if "\f" not in train_py:
        return None
    try:
        return next((line for line, text in _strings(train_py) if "\f" in text), None)
    except SyntaxError:
        return None


def later_f_string(train_py: str, tree: ast.Module) -> int | None:
    """The line of the first f-string that Python 3.11 can't read; None if there is none. Raises SyntaxError."""
    if sys.version_info < (3, 12):  # its own parser has refused them
        return None
    values = [node for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)]
    if not values:
        return None
    found = [line for line, text in _strings(train_py) if not _ends_at_its_end(text)]
    lines = train_py.encode().split(b"\n")
    found += [value.lineno for value in values if _is_later(lines, value)]
    return min(found, default=None)


def _ends_at_its_end(string: str) -> bool:
    """Whether Python 3.11 would take a string for as long as it is."""
    match = _QUOTED.fullmatch(string)
    return match is not None and (len(match[1]) == 3 or "\n" not in string.replace("\\\r\n", "").replace("\\\n", ""))


def _is_later(lines: list[bytes], value: ast.FormattedValue) -> bool:
    """Whether a value in an f-string's braces is written as Python 3.11 can't read it."""
    spec = value.format_spec
    last = (value.end_lineno or 0, value.end_col_offset or 0) if spec is None else (spec.lineno, spec.col_offset)
    source = b"\n".join(_between(lines, (value.lineno, value.col_offset), last)).decode()
    return "\\" in source or bool(_SPACE_AFTER_CONVERSION.search(source)) or _specs(value) > MAX_SPECS


def _specs(value: ast.FormattedValue) -> int:
    """How many format specifications with expressions are in each other."""
    spec = value.format_spec
    inner = [part for part in spec.values if isinstance(part, ast.FormattedValue)] if isinstance(spec, ast.JoinedStr) else []
    return max((1 + _specs(part) for part in inner), default=0)


def _strings(train_py: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each string, also of those in an f-string, and of comments in its braces.

    Raises SyntaxError.
    """
    lines = train_py.split("\n")
    started: list[tuple[int, int]] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(train_py, newline="\n").readline):
            kind = tokenize.tok_name[token.type]
            if kind == "FSTRING_START":
                started.append(token.start)
            elif kind == "FSTRING_END":
                start = started.pop()
                yield start[0], "\n".join(_between(lines, start, token.end))
            elif kind == "STRING" or (kind == "COMMENT" and started):
                yield token.start[0], token.string
    except (tokenize.TokenError, IndentationError) as error:
        raise SyntaxError(f"it can't be read word by word: {error.args[0]}") from None


def _between(lines: list[AnyStr], start: tuple[int, int], end: tuple[int, int]) -> list[AnyStr]:
    """The lines from one position to another, each a line from 1 and a column from 0."""
    found = lines[start[0] - 1 : end[0]]
    found[-1] = found[-1][: end[1]]
    found[0] = found[0][start[1] :]
    return found
