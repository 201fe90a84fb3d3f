"""What can't be tried as train.py is named in one line."""

import ast
import gc
import threading
import time

import pytest

from research.files import research_folder
from research.valid_train_py import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse, problem_with


def nested_finally(depth: int) -> str:
    """A `try` in the `finally` of another, and so on, which the compiler doubles each time."""
    return "".join(f"{' ' * n}try: pass\n{' ' * n}finally:\n" for n in range(depth)) + " " * depth + "x\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("DEPTH = 2  # layers\n", None),
        ("x = '\\d'\n", None),
        ("def (", "line 1"),
        ("x = 1\0", "line 1 holds U+0000"),
        ("x = 1\n# fine\ufe0f\n", "line 2 holds U+FE0F"),
        ("x\u115f = 1\n", "U+115F"),
        ("x = 1\r# a\n", "U+000D"),
        ("x = 1\r\n\x0c\ty = 'häßlich 日本'\r\n", "line 2"),
        ("x = 1\r\n\x0c\r\ny = 'häßlich 日本'\r\n", None),
        ("x = '\ud800'", "UTF-8"),
        ("#" * (MAX_BYTES + 1), "limit"),
        ("(" * 5000, "does not parse"),
        ("x = " + "-" * 90_000 + "1\n", "does not parse"),
        ("return 1\n", "line 1"),
        ("x = 1\ny = " + " + ".join(["x"] * 1500), "line 2: it is nested more than 100 deep"),
        ("x = " + "-" * 300 + "1\n", "100 deep"),
        ("x = " + "[" * 110 + "]" * 110, "100 deep"),
        ("x = " + "f(" * 110 + ")" * 110, "100 deep"),
        ("x = a" + ".b" * 300, "100 deep"),
        ("if a:\n pass\n" + "elif a:\n pass\n" * 300, "100 deep"),
        ("x = " + "a if b else " * 200 + "c", "100 deep"),
        ("x = a" + " < b" * 300, None),
        ("@a\n" * 1000 + "def f(): pass\n", None),
        ("x = [" + "a," * 30_000 + "]", "20,000 nodes"),
        ("x = 0x" + "f" * 300, "1,024 bits"),
        ("x = " + "9" * 5000, "does not parse"),
        ("x = 2**20480\n", None),
        ("x = 1e999\n", "infinite"),
        ("x = 1e999j\n", "infinite"),
        ("x = '\\ud800'\n", "surrogate"),
        ("x = f'{y}\\udfff'\n", "surrogate"),
        ("def f():\n try:\n" + "  if x: return\n" * 1500 + " finally:\n" + "  x\n" * 1500, "`finally`"),
        (nested_finally(17), "`finally`"),
        (nested_finally(2), None),
    ],
)
def test_what_cannot_be_tried_is_named(text: str, problem: str | None) -> None:
    found = problem_with(text)
    assert found is None if problem is None else problem in (found or "")
    assert "\n" not in (found or "")


def test_the_limits_are_far_from_the_shipped_train_py() -> None:
    tree = parse((research_folder() / "train.py").read_text())
    levels, nodes, level = 0, 0, [tree]
    while level:
        levels, nodes = levels + 1, nodes + len(level)
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    assert 4 * levels <= MAX_DEPTH and 4 * nodes <= MAX_NODES


@pytest.mark.parametrize("text", ["def (", "x = 1\0", "(" * 5000])
def test_whatever_cannot_be_parsed_is_a_syntax_error(text: str) -> None:
    with pytest.raises(SyntaxError):
        parse(text)


def test_threads_that_parse_at_once_do_not_disturb_each_other() -> None:
    """A collection of garbage, in which Python may change threads, while a tree is built: each thread has its turn."""
    text, failed = (research_folder() / "train.py").read_text(), []

    def parse_often() -> None:
        for _ in range(10):
            try:
                parse(text)
            except BaseException as error:
                failed.append(error)

    def give_way(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    gc.callbacks.append(give_way)
    try:
        threads = [threading.Thread(target=parse_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(give_way)
    assert failed == []
