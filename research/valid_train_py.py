"""The text of a train.py: how large and how deep it may be, and whether it is Python. Standard library only.

Nothing of it is executed. Whatever reads a train.py gets its syntax tree from `parse`, which refuses what later walks over the
tree, the compiler, JSON or a database can't take; so none of them has to be careful.
"""

import ast
import math
import symtable
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from research.printable import first_hidden
from research.remembered_texts import Remembered
from research.string_syntax import OLDEST, form_feed_in_string, later_f_string

MAX_BYTES = 200_000
"""The largest train.py in bytes, comments included: no idea needs more, a runaway edit does."""

MAX_DEPTH = 100
"""The deepest syntax tree. The shipped train.py's has 13 levels, and each `elif` and each `+` of a sum is one more."""

MAX_NODES = 20_000
"""The largest syntax tree. The shipped train.py's has 3,600 nodes."""

MAX_COMPILED_NODES = 200_000
"""The most nodes that are compiled, where each way out of a `try` has a copy of its `finally`."""

MAX_BITS = 1024
"""The longest integer: no hyperparameter is longer, and Python itself can't print the longest ones."""


_PARSING = threading.RLock()

_EXITS = (ast.Return, ast.Break, ast.Continue)


def parse(train_py: str) -> ast.Module:
    """The syntax tree. Raises SyntaxError for whatever can't be parsed, and for what is beyond the limits above.

    The grammar is that of Python 3.11, whatever version reads the text.
    """
    tree_to_read(train_py)
    return _parsed(train_py)


@lru_cache(maxsize=16)
def tree_to_read(train_py: str) -> ast.Module:
    """The syntax tree that `parse` returns, shared by all that read this text: nobody may change it. Raises SyntaxError."""
    if len(train_py) > MAX_BYTES:
        raise SyntaxError(f"the text has {len(train_py):,} characters, and the limit is {MAX_BYTES:,}")
    tree = _parsed(train_py)
    _require_limits(tree)
    if line := later_f_string(train_py, tree):
        raise _beyond(
            line, "an f-string is not as Python 3.11 reads it: no backslash, comment or quote of its own in its braces"
        )
    return tree


@lru_cache(maxsize=16)
def nodes_to_read(train_py: str) -> tuple[ast.AST, ...]:
    """All nodes of `tree_to_read`, in the order of `walk`: nobody may change them. Raises SyntaxError."""
    return tuple(walk(tree_to_read(train_py)))


def scopes(train_py: str) -> symtable.SymbolTable:
    """What the names of each scope are, as the compiler finds it. Raises SyntaxError."""
    tree_to_read(train_py)
    with _syntax_errors_only():
        return symtable.symtable(train_py, "train.py", "exec")


def _parsed(train_py: str) -> ast.Module:
    with _syntax_errors_only():
        return ast.parse(train_py, feature_version=OLDEST)


def size_problem(train_py: str) -> str | None:
    """One line that says that the text is not UTF-8 or too large; None if it is neither."""
    try:
        size = len(train_py.encode())
    except UnicodeEncodeError:
        return "train.py is not valid UTF-8"
    return f"train.py has {size:,} bytes: the limit is {MAX_BYTES:,}" if size > MAX_BYTES else None


@Remembered
def character_problem(train_py: str) -> str | None:
    """One line that names a character that no reader sees, but a language model may; None if there is none."""
    for number, line in enumerate(train_py.split("\n"), start=1):
        hidden = first_hidden(line.removesuffix("\r"))
        if hidden is not None:
            return (
                f"train.py line {number} holds U+{ord(hidden):04X}, which can't be seen: leave it out, or write it as an escape"
            )
    if line_of_string := form_feed_in_string(train_py):
        return f"train.py line {line_of_string} holds U+000C in a string, which can't be seen: leave it out, or write \\f"
    return None


@Remembered
def syntax_problem(train_py: str) -> str | None:
    """One line that says why the text is not Python, or beyond the limits of `parse`; None if it compiles."""
    try:
        tree_to_read(train_py)
        with _syntax_errors_only():
            compile(train_py, "train.py", "exec")
    except SyntaxError as error:
        line = "" if error.lineno is None else f"line {error.lineno}: "
        return f"train.py does not parse: {line}{error.msg}"
    return None


def problem_with(train_py: str) -> str | None:
    """One line that says why the text can't be read as train.py; None if it can."""
    return size_problem(train_py) or character_problem(train_py) or syntax_problem(train_py)


def _require_limits(tree: ast.Module) -> None:
    """Raises SyntaxError, with the line, for a tree that is too deep or too large, or holds a value that can't be recorded.

    It doesn't recurse, since a tree that is too deep is what it looks for.
    """
    nodes = exits = 0
    has_finally = False
    waiting: list[tuple[ast.AST, int, int]] = [(tree, 1, 1)]
    while waiting:
        node, depth, line = waiting.pop()
        line = getattr(node, "lineno", line)
        nodes += 1
        if depth > MAX_DEPTH:
            raise _beyond(line, f"it is nested more than {MAX_DEPTH} deep: split the expression or the chain of branches")
        if nodes > MAX_NODES:
            raise _beyond(line, f"the file has more than {MAX_NODES:,} nodes of syntax: shorten it")
        if isinstance(node, ast.Constant):
            if problem := _constant_problem(node.value):
                raise _beyond(line, problem)
            continue
        exits += isinstance(node, _EXITS)
        has_finally = has_finally or bool(getattr(node, "finalbody", None))
        for child in _children(node):
            waiting.append((child, depth + 1, line))
    if has_finally and _compiled_nodes(tree, exits) > MAX_COMPILED_NODES:
        raise SyntaxError("its `finally` blocks are copied too often: shorten them, or leave by fewer ways")


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, as ast.walk gives them; in a third of its time, since a search reads many texts."""
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        waiting.extend(_children(node))
        yield node


def _children(node: ast.AST) -> list[ast.AST]:
    """The nodes right below one, in their order."""
    found: list[ast.AST] = []
    held = node.__dict__
    for name in node._fields:
        value = held.get(name)
        if value.__class__ is list:
            found += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def _compiled_nodes(tree: ast.Module, exits: int) -> int:
    """About how many nodes the compiler writes down; `exits` is how many statements of the file may leave a block."""
    total = 0
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    while waiting and total <= MAX_COMPILED_NODES:
        node, copies = waiting.pop()
        total += copies
        last = {id(statement) for statement in getattr(node, "finalbody", ())}
        for child in ast.iter_child_nodes(node):
            waiting.append((child, copies * (exits + 2) if id(child) in last else copies))
    return total


def _constant_problem(value: object) -> str | None:
    """Why JSON, a database or Python's own printing can't take a literal's value; None if they can."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"an integer has more than {MAX_BITS:,} bits: compute it instead"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number is infinite: write math.inf instead"
    if isinstance(value, complex) and not (math.isfinite(value.real) and math.isfinite(value.imag)):
        return "a number is infinite: write math.inf instead"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "a string holds half of a surrogate pair, which is no text"
    return None


def _beyond(line: int, problem: str) -> SyntaxError:
    error = SyntaxError(problem)
    error.lineno = line
    return error


@contextmanager
def _syntax_errors_only() -> Iterator[None]:
    """Turns whatever Python's parser and compiler raise into a SyntaxError, and silences their warnings.

    An invalid escape in an idea is not the farm's warning. One thread at a time: in Python 3.11 the parser's count of its own
    depth is shared by all, and filters of warnings are in any version.
    """
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None
