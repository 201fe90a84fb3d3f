"""Names of variables, made equal in programs that differ in them alone."""

import ast
from collections.abc import Iterable, Iterator

from research.valid_train_py import walk

Function = ast.FunctionDef | ast.AsyncFunctionDef


def normalise_names(tree: ast.Module) -> None:
    """Renames the variables of a module in the order in which they appear: those of its functions, and its own.

    Constants (names in upper case), functions, classes, parameters and attributes keep their names, since other code may
    go by them. So does a name that is a variable in several scopes.
    """
    functions = [node for node in tree.body if isinstance(node, Function)]
    functions += [node for body in _classes(tree) for node in body if isinstance(node, Function)]
    nodes, nodes_of = list(walk(tree)), [list(walk(function)) for function in functions]
    fixed = {name for node in nodes for name in _fixed_names(node)}
    inside = {id(node) for of_function in nodes_of for node in of_function}
    of_module = {name for name in _stored(node for node in nodes if id(node) not in inside) if not name.isupper()}
    for of_function in nodes_of:
        _rename(of_function, _stored(of_function) - fixed - of_module, "local")
    stored_inside = {name for of_function in nodes_of for name in _stored(of_function)}
    _rename(nodes, of_module - fixed - stored_inside, "global")


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


def _stored(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _rename(nodes: Iterable[ast.AST], names: set[str], prefix: str) -> None:
    numbers: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in names:
            node.id = f"<{prefix} {numbers.setdefault(node.id, len(numbers))}>"
