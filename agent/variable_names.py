"""Names of variables, made equal in programs that differ in them alone."""

import ast
from collections.abc import Iterator

from research.valid_train_py import walk

Function = ast.FunctionDef | ast.AsyncFunctionDef


def normalise_names(tree: ast.Module) -> None:
    """Renames the variables of a module in the order in which they appear: those of its functions, and its own.

    Constants (names in upper case), functions, classes, parameters and attributes keep their names, since other code may
    go by them. So does a name that is a variable in several scopes.
    """
    functions = [node for node in tree.body if isinstance(node, Function)]
    functions += [node for body in _classes(tree) for node in body if isinstance(node, Function)]
    fixed = {name for node in walk(tree) for name in _fixed_names(node)}
    inside = {id(node) for function in functions for node in walk(function)}
    of_module = {name for name in _stored(node for node in walk(tree) if id(node) not in inside) if not name.isupper()}
    for function in functions:
        local = _stored(walk(function)) - fixed - of_module
        _rename(walk(function), local, "local")
    stored_inside = {name for function in functions for name in _stored(walk(function))}
    _rename(walk(tree), of_module - fixed - stored_inside, "global")


def _classes(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    return (node.body for node in tree.body if isinstance(node, ast.ClassDef))


def _fixed_names(node: ast.AST) -> Iterator[str]:
    """The names that a node holds as text, which a variable of the same name must not be told from."""
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, Function | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value  # as in globals()["name"]


def _stored(nodes: Iterator[ast.AST]) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _rename(nodes: Iterator[ast.AST], names: set[str], prefix: str) -> None:
    numbers: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in names:
            node.id = f"<{prefix} {numbers.setdefault(node.id, len(numbers))}>"
