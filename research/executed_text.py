"""The text of a train.py that a run executes, without what no run needs. Standard library only.

Comments and docstrings are free to write, so they must not reach a run, which could read its own file and execute them.
"""

import ast
import tokenize
from collections.abc import Iterator
from functools import lru_cache

from research.formatting import one_line
from research.valid_train_py import parse, walk

EXECUTES_TEXT = frozenset({"exec", "eval", "compile", "__import__", "__builtins__"})
"""Built-in names that execute text, or reach those that do."""

READS_ITSELF = frozenset({"__file__", "__loader__", "__spec__", "__cached__"})
"""Names of a module that lead to its own text."""

SOURCE_READERS = frozenset({"getsource", "getsourcelines", "getsourcefile", "findsource", "getcomments", "getdoc", "getblock"})
"""Functions that return the source text of a program."""

IN_STRINGS = READS_ITSELF | {"__builtins__", "__import__"}
"""Names that are refused as strings and as attributes, too, since a module's namespace can be asked for them."""

SOURCE_MODULES = frozenset({"linecache", "builtins", "tokenize", "code", "codeop", "runpy", "imp", "ast"})
"""Modules that read or execute source text."""


@lru_cache(maxsize=4)
def without_comments(train_py: str) -> str:
    """The text without comments, docstrings and other strings that stand alone: the same program, on the same lines.

    All other characters stay as they are, so that tracebacks and compilers that read the source find what they look for.
    Raises SyntaxError.
    """
    tree = parse(train_py)
    lines = [f"{line}\n" for line in train_py.split("\n")]
    lines[-1] = lines[-1][:-1]
    for row, column in _comments(lines):
        ending = "\r\n" if lines[row].endswith("\r\n") else "\n" if lines[row].endswith("\n") else ""
        lines[row] = lines[row][:column].rstrip(" \t\f") + ending
    needed = {id(body[0]) for body in _bodies(tree) if all(map(_stands_alone, body))}
    strings = [statement for body in _bodies(tree) for statement in body if _stands_alone(statement)]
    for statement in sorted(strings, key=lambda statement: (statement.lineno, statement.col_offset), reverse=True):
        _blank(lines, statement, needed=id(statement) in needed)
    text = "".join(lines)
    if _meaning(text) != _meaning(train_py):
        raise SyntaxError("its comments can't be told from its code: write it more plainly")
    return text


def own_text_problem(train_py: str) -> str | None:
    """One line on where a train.py executes text or reads its own; None if nothing of the kind is seen. Raises SyntaxError.

    A run by hand passes __file__ on under `if __name__ == "__main__"`, which no judged run executes.
    """
    tree = parse(train_py)
    imported = {alias.asname or alias.name for node in walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    own = {node.name for node in walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    by_hand = {id(node) for guard in tree.body if _is_main_guard(guard) for node in walk(guard)}
    for node in walk(tree):
        name = _executing_name(node, imported | own)
        if name and id(node) not in by_hand:
            shown = one_line(name, 40)
            return (
                f"train.py line {getattr(node, 'lineno', 1)} uses {shown}: train.py executes no text and doesn't read its own"
            )
    return None


def bare_strings(tree: ast.Module) -> set[int]:
    """Ids of the constants that are docstrings, or other strings that stand alone."""
    statements = (statement for body in _bodies(tree) for statement in body if isinstance(statement, ast.Expr))
    return {id(statement.value) for statement in statements if _stands_alone(statement)}


def remove_bare_strings(tree: ast.Module) -> None:
    """Removes the docstrings of a tree, and other strings that stand alone; a block that has nothing else becomes `pass`."""
    for body in list(_bodies(tree)):
        body[:] = [statement for statement in body if not _stands_alone(statement)] or [ast.Pass()]


def _executing_name(node: ast.AST, known: set[str]) -> str | None:
    """The name by which a node executes text or reads its file's own; None if it doesn't. `known` names are the file's own."""
    if isinstance(node, ast.Name) and node.id in EXECUTES_TEXT | READS_ITSELF and node.id not in known:
        return node.id
    if isinstance(node, ast.Attribute) and node.attr in SOURCE_READERS | IN_STRINGS:
        return node.attr
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.name.partition(".")[0] in SOURCE_MODULES), None)
    if isinstance(node, ast.ImportFrom):
        if (node.module or "").partition(".")[0] in SOURCE_MODULES:
            return node.module
        return next((alias.name for alias in node.names if alias.name in SOURCE_READERS), None)
    if isinstance(node, ast.Constant) and node.value in IN_STRINGS:
        return str(node.value)
    return None


def _is_main_guard(node: ast.stmt) -> bool:
    """Whether this is `if __name__ == "__main__":` without an else."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _stands_alone(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a string."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str | bytes)


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """All blocks of statements."""
    for node in walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                yield block


def _comments(lines: list[str]) -> list[tuple[int, int]]:
    """The line index and the column of each comment. Raises SyntaxError."""
    found = []
    try:
        for token in tokenize.generate_tokens(iter([*lines, ""]).__next__):
            if token.type == tokenize.COMMENT:
                found.append((token.start[0] - 1, token.start[1]))
            elif token.type == tokenize.ERRORTOKEN and token.string.strip():
                raise SyntaxError("it can't be read word by word")
    except (tokenize.TokenError, IndentationError) as error:
        raise SyntaxError(f"it can't be read word by word: {error.args[0]}") from None
    return found


def _blank(lines: list[str], statement: ast.stmt, *, needed: bool) -> None:
    """Takes a string out of its lines; an empty statement takes its place if one is `needed`, or if code shares its lines."""
    first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
    head = lines[first].encode()[: statement.col_offset].decode()
    tail = lines[last].encode()[statement.end_col_offset :].decode()
    continues = first > 0 and lines[first - 1].rstrip("\r\n").endswith("\\")
    alone = not head.strip() and not tail.strip() and not continues and not needed
    opening, closing = ("", "") if alone else ("pass", "") if first == last else ("(", ")")
    for row in range(first, last):
        lines[row] = "\r\n" if lines[row].endswith("\r\n") else "\n"
    rest = tail.lstrip(" \t\f") if alone else closing + tail
    if first == last:
        lines[first] = ("" if alone else head) + opening + rest
    else:
        lines[first] = ("" if alone else head) + opening + lines[first]
        lines[last] = rest


def _does_nothing(statement: ast.stmt) -> bool:
    """Whether a statement is a string, `pass` or `()`."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return _stands_alone(statement) or isinstance(statement, ast.Pass) or (isinstance(value, ast.Tuple) and not value.elts)


def _meaning(text: str) -> str:
    """The program as text, with the line of each node, without statements that do nothing."""
    tree = parse(text)
    for body in list(_bodies(tree)):
        body[:] = [statement for statement in body if not _does_nothing(statement)]
    places = [getattr(node, "lineno", 0) for node in walk(tree)]
    return f"{ast.dump(tree)} {places}"
