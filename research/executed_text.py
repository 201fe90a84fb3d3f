"""The text of a train.py that a run executes, without what no run needs. Standard library only.

Comments and docstrings are free to write, so they must not reach a run, which could read its own file and execute them.
"""

import ast
import symtable
import tokenize
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from research.formatting import one_line
from research.valid_train_py import nodes_to_read, scopes, tree_to_read, walk

EXECUTES_TEXT = frozenset({"exec", "eval", "compile"})
"""Built-in functions that execute text; a name of the file's own may be the same where it can't be the built-in one."""

REACHES_BUILT_INS = frozenset({"__import__", "__builtins__"})

READS_ITSELF = frozenset({"__file__", "__loader__", "__spec__", "__cached__"})
"""Names of a module that lead to its own text."""

NEVER = REACHES_BUILT_INS | READS_ITSELF
"""Names that are refused wherever they stand, as strings and attributes too: a module's namespace can be asked for them."""

READERS = frozenset(
    {
        *("getsource", "getsourcelines", "getsourcefile", "findsource", "getcomments", "getdoc", "getblock", "get_source"),
        *("get_code", "source_to_code", "exec_module", "spec_from_file_location", "SourceFileLoader"),
        *("get_type_hints", "get_annotations", "ForwardRef", "eval_str", "getmodule"),
    }
)
"""Functions and options of the standard library that return source text, or execute text that they are given."""

TO_A_MODULE = frozenset({"__self__", "builtins", "linecache", "runpy", "codeop"})
"""Attributes by which the built-in functions' own module is reached, and names of modules that no attribute honestly has."""

SOURCE_MODULES = frozenset(
    {
        *("linecache", "builtins", "tokenize", "code", "codeop", "runpy", "imp", "ast", "symtable", "marshal", "zipimport"),
        *("timeit", "pdb", "bdb", "doctest", "cProfile", "profile", "trace"),
    }
)
"""Modules that read or execute source text."""

NAMESPACES = frozenset({"globals", "vars", "locals", "delattr", "__dict__", "__delattr__"})
"""Names by which a name of the file's own can be taken away again, so that the built-in one shows."""


@lru_cache(maxsize=64)
def without_comments(train_py: str) -> str:
    """The text without comments, docstrings and other strings that stand alone: the same program, on the same lines.

    All other characters stay as they are, so that tracebacks and compilers that read the source find what they look for.
    Raises SyntaxError.
    """
    tree = tree_to_read(train_py)
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
    if not _mean_the_same(tree_to_read(text), tree):
        raise SyntaxError("its comments can't be told from its code: write it more plainly")
    return text


def own_text_problem(train_py: str) -> str | None:
    """One line on where a train.py executes text or reads its own; None if nothing of the kind is seen. Raises SyntaxError.

    A run by hand passes __file__ on under `if __name__ == "__main__"`, which no judged run executes.
    """
    tree = tree_to_read(train_py)
    nodes = nodes_to_read(train_py)
    by_hand = {id(node) for guard in _main_guards(tree, nodes) for node in walk(guard)}
    built_in = {name for name in _used_as_global(scopes(train_py)) if not _is_own(tree, name)}
    free = bare_strings(tree)
    for node in nodes:
        name = None if id(node) in free else _executing_name(node, built_in)
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


def _executing_name(node: ast.AST, built_in: set[str]) -> str | None:
    """The name by which a node executes text or reads its file's own; None if it doesn't.

    `built_in`: the names of functions that execute text which may be the built-in ones here.
    """
    if isinstance(node, ast.Name):
        return node.id if node.id in NEVER or (node.id in built_in and isinstance(node.ctx, ast.Load)) else None
    if isinstance(node, ast.Attribute):
        return node.attr if node.attr in NEVER | READERS | TO_A_MODULE else None
    if isinstance(node, ast.keyword):
        return node.arg if node.arg in READERS else None
    if isinstance(node, ast.Constant):
        return _named_in(node.value)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return next((name for name in _imported(node) if name), None)
    return None


def _named_in(value: object) -> str | None:
    """What a string names that is refused as a string; pickled text names modules, so bytes count as well."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        return None
    if "builtins" in text:
        return "builtins"
    return text if text in NEVER | READERS | TO_A_MODULE else None


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules and functions that an import gets and that execute or read text."""
    names = [alias.name for alias in node.names]
    modules = names if isinstance(node, ast.Import) else [node.module or ""]
    for module in modules:
        first, *rest = module.split(".")
        if first in SOURCE_MODULES or TO_A_MODULE.intersection(rest):
            yield module
    if isinstance(node, ast.ImportFrom):
        yield from (name for name in names if name in NEVER | READERS | SOURCE_MODULES | {"exec", "eval"})
    yield from (alias.asname for alias in node.names if alias.asname in NEVER)


def _used_as_global(scope: symtable.SymbolTable) -> set[str]:
    """Names of functions that execute text which a scope, or one in it, looks up in the module and then among built-in names.

    A name that a function binds, a parameter among them, is never the built-in one in it, however late it is bound. In a class
    it is until it is bound.
    """
    found = {name for child in scope.get_children() for name in _used_as_global(child)}
    for symbol in scope.get_symbols():
        if symbol.get_name() in EXECUTES_TEXT and symbol.is_referenced():
            looked_up = (
                not symbol.is_free() if scope.get_type() == "class" else symbol.is_global() or symbol.is_declared_global()
            )
            if looked_up or scope.get_type() == "module":
                found.add(symbol.get_name())
    return found


def _is_own(tree: ast.Module, name: str) -> bool:
    """Whether a name is bound at the top of the file before all its uses, and is never taken away again."""
    bound = min((_end(statement) for statement in tree.body if _binds(statement, name)), default=None)
    if bound is None:
        return False
    for node in walk(tree):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            if (node.lineno, node.col_offset) < bound:
                return False
        elif _takes_away(node, name):
            return False
    return True


def _takes_away(node: ast.AST, name: str) -> bool:
    """Whether a node may delete a name of the module."""
    if isinstance(node, ast.ExceptHandler):  # at its end the name of the exception is deleted
        return node.name == name
    if not isinstance(node, ast.Name | ast.Attribute):
        return False
    found = node.id if isinstance(node, ast.Name) else node.attr
    return found in NAMESPACES or (found == name and isinstance(node.ctx, ast.Del))


def _binds(statement: ast.stmt, name: str) -> bool:
    """Whether a statement binds a name whatever happens."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name == name
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return any((alias.asname or alias.name) == name for alias in statement.names)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _end(statement: ast.stmt) -> tuple[int, int]:
    return statement.end_lineno or statement.lineno, statement.end_col_offset or 0


def _main_guards(tree: ast.Module, nodes: Sequence[ast.AST]) -> list[ast.stmt]:
    """The blocks that no judged run executes: `if __name__ == "__main__":`, unless the file sets `__name__`."""
    for node in nodes:
        is_set = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
        if is_set and "__name__" in (getattr(node, "id", None), getattr(node, "attr", None)):
            return []
        if "__name__" in [getattr(node, field, None) for field in ("name", "asname", "arg", "value")]:
            return []  # a function, an import, a keyword or a string, by which a namespace is changed
    return [statement for statement in tree.body if _is_main_guard(statement)]


def _is_main_guard(node: ast.stmt) -> bool:
    """Whether this is `if __name__ == "__main__":` without an else."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _stands_alone(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a string."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str | bytes)


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """All blocks of statements. Only statements hold some, with their handlers and cases: no expression is looked at."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        held = waiting.pop().__dict__
        for name in ("body", "orelse", "finalbody"):
            block = held.get(name)
            if isinstance(block, list) and block:
                yield block
                waiting += block
        for name in ("handlers", "cases"):
            waiting += held.get(name, ())


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


def _mean_the_same(one: ast.Module, other: ast.Module) -> bool:
    """Whether two trees are the same program on the same lines, apart from statements that do nothing."""
    waiting: list[tuple[Any, Any]] = [(one, other)]
    while waiting:
        first, second = waiting.pop()
        if first.__class__ is not second.__class__:
            return False
        if isinstance(first, ast.AST):
            if getattr(first, "lineno", 0) != getattr(second, "lineno", 0):
                return False
            waiting += [(getattr(first, name, None), getattr(second, name, None)) for name in first._fields]
        elif isinstance(first, list):
            these, those = _that_do_something(first), _that_do_something(second)
            if len(these) != len(those):
                return False
            waiting += zip(these, those, strict=True)
        elif first is not second and repr(first) != repr(second):
            return False
    return True


def _that_do_something(parts: list[Any]) -> list[Any]:
    return [part for part in parts if not isinstance(part, ast.stmt) or not _does_nothing(part)]
