"""Edits of train.py as text: what changed, and how many lines of code that took."""

import ast
import difflib
import io
import re

from research.hyperparameters import literal_text, read_constants
from research.profiles import Constant

_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def same_code(old: str, new: str) -> bool:
    """Whether two texts are the same but for line ends and the blank space at the end of lines."""
    before, after = old.rstrip().splitlines(), new.rstrip().splitlines()
    return [line.rstrip() for line in before] == [line.rstrip() for line in after]


def unified_diff(old: str, new: str) -> str:
    """The change from `old` to `new` as a unified diff of research/train.py; empty when nothing changed."""
    lines = difflib.unified_diff(_lines(old), _lines(new), fromfile="a/research/train.py", tofile="b/research/train.py")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def count_lines(diff: str) -> tuple[int, int]:
    """Lines of code that a unified diff adds and removes. Blank lines and comments are free, so they don't count."""
    added = removed = 0
    old_left = new_left = 0  # lines of the present hunk: outside of hunks, `---` and `+++` are file names
    for line in diff.split("\n"):
        if old_left <= 0 and new_left <= 0:
            if hunk := _HUNK.match(line):
                old_left, new_left = (int(count) if count is not None else 1 for count in hunk.groups())
            continue
        sign, text = line[:1], line[1:].strip()
        is_code = bool(text) and not text.startswith("#")
        if sign == "+":
            added, new_left = added + is_code, new_left - 1
        elif sign == "-":
            removed, old_left = removed + is_code, old_left - 1
        elif sign != "\\":
            old_left, new_left = old_left - 1, new_left - 1
    return added, removed


def changed_constants(old: str, new: str) -> dict[str, tuple[Constant | None, Constant | None]]:
    """Constants that differ: name -> (old, new), with None for one that isn't there. Both texts must parse."""
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
        added, removed = count_lines(unified_diff(old, new))
        parts.append(f"edit {', '.join(blocks[:3]) or 'train.py'} (+{added} -{removed} lines)")
    return "; ".join(parts)


def changed_blocks(old: str, new: str) -> list[str]:
    """Names of the top-level functions and classes that were added, removed or changed in more than their comments."""
    before, after = _blocks(old), _blocks(new)
    names = [*after, *(name for name in before if name not in after)]
    return [name for name in names if before.get(name) != after.get(name)]


def _lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline="\n"))  # as git sees lines: str.splitlines() also splits at form feeds


def _blocks(train_py: str) -> dict[str, str]:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: ast.dump(node) for node in ast.parse(train_py).body if isinstance(node, definitions)}


def _describe_constant(name: str, old: Constant | None, new: Constant | None) -> str:
    if new is None:
        return f"{name} removed"
    if old is None:
        return f"{name} = {literal_text(new)} added"
    return f"{name} {literal_text(old)} -> {literal_text(new)}"
