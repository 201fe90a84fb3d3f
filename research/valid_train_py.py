"""The text of a train.py: how large it may be, and whether it is Python. Standard library only; it is not executed."""

import ast
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MAX_BYTES = 200_000
"""The largest train.py in bytes: no idea needs more, a runaway edit does."""


def parse(train_py: str) -> ast.Module:
    """The syntax tree. Raises SyntaxError for whatever can't be parsed: bad syntax, NUL bytes, nesting that is too deep."""
    with _syntax_errors_only():
        return ast.parse(train_py)


def size_problem(train_py: str) -> str | None:
    """One line that says that the text is not UTF-8 or too large; None if it is neither."""
    try:
        size = len(train_py.encode())
    except UnicodeEncodeError:
        return "train.py is not valid UTF-8"
    return f"train.py has {size:,} bytes: the limit is {MAX_BYTES:,}" if size > MAX_BYTES else None


def syntax_problem(train_py: str) -> str | None:
    """One line that says why the text is not Python; None if it compiles."""
    try:
        with _syntax_errors_only():
            compile(train_py, "train.py", "exec")
    except SyntaxError as error:
        line = "" if error.lineno is None else f"line {error.lineno}: "
        return f"train.py does not parse: {line}{error.msg}"
    return None


def problem_with(train_py: str) -> str | None:
    """One line that says why the text can't be tried as train.py; None if it can."""
    return size_problem(train_py) or syntax_problem(train_py)


@contextmanager
def _syntax_errors_only() -> Iterator[None]:
    """Turns whatever Python's parser and compiler raise into a SyntaxError, and silences their warnings.

    An invalid escape in an idea is not the farm's warning.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None
