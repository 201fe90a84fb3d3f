"""Edits of train.py as text: what they change."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache

from agent.code_lines import changed_lines
from agent.variable_names import normalise_names
from research.hyperparameters import literal_text, read_constants, without_constants
from research.recipes import Constant
from research.remembered_texts import Remembered
from research.valid_train_py import parse, tree_to_read, walk

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def same_code(old: str, new: str) -> bool:
    """Whether two texts are the same program: they differ in nothing that can change what it does."""
    return same_lines(old, new) or program_of(old) == program_of(new)


def same_lines(old: str, new: str) -> bool:
    """Whether two texts differ in nothing but line endings and trailing whitespace."""
    return _lines(old) == _lines(new)


@Remembered
def program_of(train_py: str) -> str:
    """SHA-256 of a program: equal for texts that differ in nothing but comments, docstrings, formatting and the names of
    variables.

    No number is left out, a seed's neither: a program can compute anything from it. (A seed that isn't the judge's is refused.)
    Of a text that doesn't parse the lines count. Another version of Python may give the same text another value.
    """
    try:
        tree = parse(train_py)
    except SyntaxError:
        meaning = "\n".join(_lines(train_py))
    else:
        remove_docstrings(tree)
        normalise_names(tree)
        meaning = ast.dump(tree)
    return hashlib.sha256(meaning.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=8)
def code_of(train_py: str) -> str:
    """The code without constants, comments, formatting and docstrings: two files with equal code differ in constants alone.

    Raises SyntaxError.
    """
    tree = parse(train_py)
    without_constants(tree)
    remove_docstrings(tree)
    return ast.dump(tree)


@Remembered
def structure_of(train_py: str) -> str:
    """A short name of the code of a train.py, equal for those that differ in constants alone; empty if it doesn't parse."""
    try:
        return hashlib.sha256(code_of(train_py).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    except SyntaxError:
        return ""


@Remembered
def slots_of(old: str, new: str) -> tuple[str, ...]:
    """What an edit changes: names of constants, functions and classes. Empty if a text doesn't parse."""
    try:
        return (*changed_constants(old, new), *changed_blocks(old, new))
    except SyntaxError:
        return ()


def remove_docstrings(tree: ast.Module) -> None:
    """Removes the docstrings of a module and of its functions and classes, nested ones included."""
    for node in [tree, *_definitions(tree)]:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]


@Remembered
def changed_constants(old: str, new: str) -> dict[str, tuple[Constant | None, Constant | None]]:
    """Constants that differ: name -> (old, new), with None for one that is absent; nobody may change it. Raises SyntaxError."""
    before, after = read_constants(old), read_constants(new)
    names = [*after, *(name for name in before if name not in after)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def describe_changes(old: str, new: str) -> str:
    """One short line on what an edit does: `EMBEDDING_LR 0.6 -> 0.8`, or `edit Muon, norm (+12 -3 lines)`."""
    constants = [_describe_constant(name, *values) for name, values in changed_constants(old, new).items()]
    blocks = changed_blocks(old, new)
    parts = []
    if constants:
        parts.append(", ".join(constants[:3]) + (f" and {len(constants) - 3} more" if len(constants) > 3 else ""))
    if blocks or not constants:
        added, removed = changed_lines(old, new)
        parts.append(f"edit {', '.join(blocks[:3]) or 'train.py'} (+{added} -{removed} lines)")
    return "; ".join(parts)


def changed_blocks(old: str, new: str) -> list[str]:
    """Top-level functions and classes that an edit adds, removes or changes; comments and formatting don't count.

    Raises SyntaxError.
    """
    before, after = _blocks(old), _blocks(new)
    names = [*after, *(name for name in before if name not in after)]
    return [name for name in names if before.get(name) != after.get(name)]


def _definitions(tree: ast.Module) -> Iterator[Definition]:
    return (node for node in walk(tree) if isinstance(node, Definition))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


@lru_cache(maxsize=64)
def _blocks(train_py: str) -> Mapping[str, str]:
    return {node.name: ast.dump(node) for node in tree_to_read(train_py).body if isinstance(node, Definition)}


def _describe_constant(name: str, old: Constant | None, new: Constant | None) -> str:
    if new is None:
        return f"{name} removed"
    if old is None:
        return f"{name} = {literal_text(new)} added"
    return f"{name} {literal_text(old)} -> {literal_text(new)}"
