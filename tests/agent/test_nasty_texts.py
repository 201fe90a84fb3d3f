"""Whatever reads a train.py takes any text: it returns what can be recorded, or raises the error that it documents."""

import json
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.code_lines import changed_lines
from agent.compare_programs import (
    changed_blocks,
    changed_constants,
    code_of,
    describe_changes,
    program_of,
    slots_of,
    structure_of,
)
from agent.duplicate_edits import reason_not_to_run
from agent.follow_ups import nearest_knobs
from agent.researchers.claude_editor import Editor
from agent.search.ablations import ABLATIONS, ablated
from research.carried_data import carried_data_problem
from research.errors import UserError
from research.executed_text import own_text_problem, without_comments
from research.formatting import one_line
from research.hyperparameters import read_constants, same_but_for_constants, write_constants
from research.judge.failures import cure_for_memory
from research.own_seeds import seed_set_by
from research.runnable import not_runnable
from research.starting_hyperparameters import fit_to_profile
from research.valid_train_py import MAX_DEPTH, parse, problem_with
from tests.agent.samples import TRAIN_PY, make_context

READERS: tuple[Callable[[str], object], ...] = (
    read_constants,
    lambda text: write_constants(text, {}),
    lambda text: same_but_for_constants(text, TRAIN_PY),
    lambda text: fit_to_profile(text, "cpu", None)[1],
    lambda text: cure_for_memory(text, trains=True),
    problem_with,
    lambda text: str(not_runnable(text, 10**6)),
    without_comments,
    own_text_problem,
    seed_set_by,
    lambda text: carried_data_problem(text, 10**6),
    program_of,
    code_of,
    structure_of,
    lambda text: slots_of(TRAIN_PY, text),
    lambda text: changed_constants(TRAIN_PY, text),
    lambda text: changed_blocks(text, TRAIN_PY),
    lambda text: one_line(describe_changes(TRAIN_PY, text), 200),
    lambda text: changed_lines(TRAIN_PY, text),
    lambda text: reason_not_to_run(text, make_context()),
    lambda text: [knob.name for knob in nearest_knobs(TRAIN_PY, text)],
    lambda text: ablated(text, ABLATIONS[0]),
    lambda text: Editor(TRAIN_PY).apply({"command": "create", "path": "train.py", "file_text": text[:100_000]}),
)

PIECES = (
    lambda n: f"x = {' + '.join(['y'] * (n + 1))}",
    lambda n: "x = " + "-" * n + "1",
    lambda n: "x = " + "(" * n + "1" + ")" * n,
    lambda n: "x = " + "[" * n + "]" * n,
    lambda n: "x = " + "lambda: " * n + "0",
    lambda n: "x = " + "not " * n + "y",
    lambda n: "x = a" + ".b" * n,
    lambda n: "x = a" + "[0]" * n,
    lambda n: "x = a" + "()" * n,
    lambda n: "x = a" + " < b" * n,
    lambda n: "x = a" + " ** b" * n,
    lambda n: "x = a" + " if b else c" * n,
    lambda n: "if a:\n pass\n" + "elif b:\n pass\n" * n,
    lambda n: "@a\n" * n + "def f(): pass",
    lambda n: "".join(" " * k + "if a:\n" for k in range(min(n, 99))) + " " * min(n, 99) + "pass",
    lambda n: "".join(" " * k + "def f():\n" for k in range(min(n, 99))) + " " * min(n, 99) + "return",
    lambda n: "x = " + "f'{" * min(n, 3) + "1" + "}'" * min(n, 3),
    lambda n: "x = f'" + "{y:{" * min(n, 5) + "}}" * min(n, 5) + "'",
    lambda n: "x = '" + "a" * n + "' 'b'  # c",
    lambda n: f"BIG = 2**{n}",
    lambda n: f"BIG = 0x{'f' * (n + 1)}",
    lambda n: f"BIG = {'9' * (n + 1)}",
    lambda n: f"BIG = {' * '.join(['2**64'] * (n % 90 + 1))}",
    lambda n: f"BIG = 1e{n}",
    lambda n: f"BIG = 1e308 * {n + 1}",
    lambda n: f"BIG = (1e308 * {n}, 1)",
    lambda n: f"DEVICE_BATCH_SIZE = {n} ** 64",
    lambda n: f"PROFILE = {n}",
    lambda n: "HALF = '\\ud800' * 1",
    lambda n: "HALF = '\\udfff'",
    lambda n: "HALF = 'a\ud800b'",
    lambda n: "NUL = '\\0\\x1b[31m\\u202e\\ufe0f'",
    lambda n: "x = 1\0",
    lambda n: "x = b'\\xff' # é\u115f",
    lambda n: f"try: pass\nfinally:\n try: pass\n finally:\n  {'x;' * (n % 50)}y",
    lambda n: "match x:\n case " + "[" * (n % 120) + "]" * (n % 120) + ": pass",
    lambda n: "for x in y:\n" + " continue\n" * (n % 90),
    lambda n: f"type(x)\nglobal x{n}",
    lambda n: "def f(a, a): pass",
    lambda n: "return",
    lambda n: "'a'\r# b\r\n",
    lambda n: "\x0cx = 1\x0c",
    lambda n: "x = 1 \\\n + 2",
    lambda n: "# -*- coding: utf-16 -*-",
    lambda n: "\ufeffx = 1",
)  # fmt: skip


def deeper(frames: int, work: Callable[[], object]) -> object:
    """Does the work under so many more frames, as in a loop that is called from afar."""
    return work() if frames == 0 else deeper(frames - 1, work)


def check(text: str) -> None:
    for reader in READERS:
        try:
            found = deeper(100, lambda reader=reader: reader(text))  # type: ignore[misc]
        except (SyntaxError, UserError):
            continue
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from([0, 1, 3, 40, 88, 99, 101, 400, 1500, 20_480])), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_mixture_is_read_or_refused(parts: list[tuple[Callable[[int], str], int]]) -> None:
    check("\n".join(piece(size) for piece, size in parts) + "\n")


@pytest.mark.parametrize("number", range(len(PIECES)))
def test_each_piece_is_read_or_refused_at_the_limit(number: int) -> None:
    for size in (MAX_DEPTH - 8, 2_000):
        check(PIECES[number](size) + "\n")


def test_the_deepest_text_that_is_accepted_can_be_walked() -> None:
    deepest = 0
    for size in range(MAX_DEPTH - 12, MAX_DEPTH):
        for piece in (PIECES[0], PIECES[1], PIECES[5], PIECES[11], PIECES[12]):
            text = piece(size) + "\n"
            try:
                parse(text)
            except SyntaxError:
                continue
            deepest = max(deepest, size)
            changed_lines("", text), program_of(text), without_comments(text)
    assert deepest > MAX_DEPTH - 8 and sys.getrecursionlimit() <= 1000
