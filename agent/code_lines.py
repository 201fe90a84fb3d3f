"""Lines of code that an edit adds and removes, by which its price goes: those of the program, however its text is laid out."""

import ast
import difflib
import math

from research.executed_text import remove_bare_strings
from research.valid_train_py import parse

LINE_WIDTH = 100
"""Characters of a line of code; a longer one, as with a long string in it, counts once for each."""


def changed_lines(old: str, new: str) -> tuple[int, int]:
    """Lines of code that the change from one train.py to another adds and removes.

    Both are written anew from their syntax trees, without comments and docstrings: blank lines, line breaks and statements
    joined by a semicolon change nothing. Of a text that can't be parsed, the lines that are neither blank nor comments count.
    """
    before, after = code_lines(old), code_lines(new)
    added = removed = 0
    for tag, first, last, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            removed += sum(map(_price, before[first:last]))
            added += sum(map(_price, after[start:end]))
    return added, removed


def code_lines(train_py: str) -> list[str]:
    """The program's lines as Python itself writes them, without comments and docstrings."""
    try:
        tree = parse(train_py)
        remove_bare_strings(tree)
        text = ast.unparse(tree)
    except (SyntaxError, ValueError):  # a ValueError: Python 3.11 can't write every f-string
        text = "\n".join(line for line in train_py.split("\n") if not line.lstrip().startswith("#"))
    return [line for line in text.split("\n") if line.strip()]


def _price(line: str) -> int:
    return math.ceil(len(line.strip()) / LINE_WIDTH)
