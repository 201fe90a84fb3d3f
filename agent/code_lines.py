"""Lines of code that an edit adds and removes, by which its price goes: those of the program, however its text is laid out."""

import ast
import difflib
import math
from functools import lru_cache

from research.executed_text import bare_strings
from research.plain_text import plain_text
from research.remembered_texts import Remembered
from research.valid_train_py import nodes_to_read, tree_to_read

LINE_WIDTH = 100
"""Characters of a line of code; a longer one, as with a long string in it, counts once for each."""

DENSE_LINE = 20
"""Nodes of syntax that an added line may hold: the shipped train.py's lines have eight, those of the densest honest edit 18."""

SPARSE_LINE = 3
"""Nodes of syntax that a removed line must have held: removals that the farm's own search tries have four or more a line."""

HIDDEN_STATEMENT = 10
"""Nodes that a `lambda` and a `:=` count for besides their own, since each stands for a statement."""

_UNCOUNTED = (ast.stmt, ast.expr_context, ast.JoinedStr)


@Remembered
def priced_lines(old: str, new: str) -> int:
    """Lines that an edit must pay for: those that it adds, less those that it removes, as far as the program grew or shrank.

    A program that is put into fewer lines (functions as lambdas, loops as comprehensions, one statement for many) has as many
    nodes of syntax as before, so it is no simpler, and what is added in that way is no shorter.
    """
    added, removed = changed_lines(old, new)
    try:
        grown = _nodes(new) - _nodes(old)
    except SyntaxError:
        return added - removed
    return max(added - removed, grown // DENSE_LINE if grown > 0 else -(-grown // SPARSE_LINE))


@Remembered
def changed_lines(old: str, new: str) -> tuple[int, int]:
    """Lines of code that the change from one train.py to another adds and removes.

    Both are written anew from their syntax trees, without comments and docstrings: blank lines, line breaks and statements
    joined by a semicolon change nothing. If one of them can't be parsed, of both the lines that are neither blank nor comments
    count.
    """
    before, after = _lines_of_both(old, new)
    added = removed = 0
    for tag, first, last, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            removed += sum(map(_price, before[first:last]))
            added += sum(map(_price, after[start:end]))
    return added, removed


def code_lines(train_py: str) -> list[str]:
    """The program's lines as Python itself writes them, without comments and docstrings. Raises SyntaxError."""
    return _not_blank(plain_text(train_py))


def _lines_of_both(old: str, new: str) -> tuple[list[str], list[str]]:
    """Lines of two texts by one rule, so that they can be compared."""
    try:
        return code_lines(old), code_lines(new)
    except SyntaxError:
        return _written_lines(old), _written_lines(new)


def _written_lines(train_py: str) -> list[str]:
    return [line for line in _not_blank(train_py) if not line.lstrip().startswith("#")]


def _not_blank(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


@lru_cache(maxsize=64)
def _nodes(train_py: str) -> int:
    """Nodes of syntax, but for statements, which may be put into one, for the text of f-strings, and for what has no text.

    Raises SyntaxError.
    """
    nodes = nodes_to_read(train_py)
    strings = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    texts = {id(part) for string in strings for part in string.values if isinstance(part, ast.Constant)}
    texts |= bare_strings(tree_to_read(train_py))
    counted = [node for node in nodes if not isinstance(node, _UNCOUNTED) and id(node) not in texts]
    return len(counted) + HIDDEN_STATEMENT * sum(isinstance(node, ast.Lambda | ast.NamedExpr) for node in counted)


def _price(line: str) -> int:
    return math.ceil(len(line.strip()) / LINE_WIDTH)
