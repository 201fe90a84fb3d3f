"""What docs/style.md asks of every file and a program can check: lengths, and docstrings that stand alone."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.test_imports import ROOT, source_files

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_CLASS = 500, 60, 250
MAY_BE_LONG = {"research/train.py"}
"""The file that researchers edit is one file."""

LEANS_ON_CONTEXT = re.compile(r"(Of|By which|In which|For which|That|What for|Where to|As that|The same|Likewise|Ditto)\b")
"""How a docstring begins that can't be read without what stands before it: in a hover, or in a search result."""

FILES = sorted([*source_files(), *(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks").glob("*.py"))])


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and text of every docstring: of modules, classes and functions, and under assignments."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for index, statement in enumerate(body):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            documents = index == 0 or isinstance(body[index - 1], (ast.Assign, ast.AnnAssign))
            if documents and isinstance(statement.value.value, str):
                yield statement.lineno, statement.value.value


def lengths(tree: ast.AST, kinds: tuple[type[ast.AST], ...]) -> Iterator[tuple[str, int]]:
    """The name and number of lines of every definition of these kinds."""
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield node.name, node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def faults(path: str, text: str) -> list[str]:
    """What is wrong with a file, one line each."""
    tree = ast.parse(text)
    found = [
        f"{path}:{line}: a docstring that begins with {match[0]!r} does not stand alone"
        for line, docstring in docstrings(tree)
        if (match := LEANS_ON_CONTEXT.match(docstring.strip()))
    ]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found += [f"{path}: {name} has {n} lines" for name, n in lengths(tree, functions) if n > LONGEST_FUNCTION]
    found += [f"{path}: {name} has {n} lines" for name, n in lengths(tree, (ast.ClassDef,)) if n > LONGEST_CLASS]
    lines = text.count("\n")
    if lines > LONGEST_FILE and path not in MAY_BE_LONG:
        found.append(f"{path} has {lines} lines")
    return found


def test_all_files_keep_the_style() -> None:
    found = [fault for path in FILES for fault in faults(path, (ROOT / path).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        '"""Of a run: the seed."""\n',
        'class A:\n    x: int\n    """In which the run lies."""\n',
        "def f():\n" + "    pass\n" * 60,
        "class A:\n" + "    x = 1\n" * 250,
        "x = 1\n" * 501,
    ],
    ids=["module", "attribute", "function", "class", "file"],
)
def test_a_fault_is_found(text: str) -> None:
    assert len(faults("research/x.py", text)) == 1


def test_a_docstring_that_stands_alone_is_none() -> None:
    assert faults("research/x.py", '"""The seed of a run. Of its parts only one is random."""\n\nx = "Of course"\n') == []
