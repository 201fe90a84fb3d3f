import pytest

from agent.patch import (
    MAX_BYTES,
    changed_blocks,
    changed_constants,
    describe_changes,
    problem_with,
    same_code,
)
from tests.agent.samples import TRAIN_PY


def test_changes_are_described_in_one_line() -> None:
    new = TRAIN_PY.replace("EMBEDDING_LR = 0.6", "EMBEDDING_LR = 0.8")
    assert describe_changes(TRAIN_PY, new) == "EMBEDDING_LR 0.6 -> 0.8"
    assert changed_constants(TRAIN_PY, new) == {"EMBEDDING_LR": (0.6, 0.8)}
    new = TRAIN_PY.replace("DEPTH = 2          # layers\n", "WIDTH = 1024\n").replace("return None", "return 1")
    assert describe_changes(TRAIN_PY, new) == "WIDTH = 2**10 added, DEPTH removed; edit build_model (+2 -2 lines)"
    assert changed_blocks(TRAIN_PY, new) == ["build_model"]
    assert describe_changes(TRAIN_PY, TRAIN_PY + "print(1)\n") == "edit train.py (+1 -0 lines)"


def test_many_constants_are_cut_short() -> None:
    old = "".join(f"{name} = 1\n" for name in "ABCDE")
    assert describe_changes(old, old.replace("1", "2")) == "A 1 -> 2, B 1 -> 2, C 1 -> 2 and 2 more"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TRAIN_PY, None),
        ("x = '\\d'\n", None),
        ("def (", "line 1"),
        ("x = 1\0", "does not parse"),
        ("x = '\ud800'", "UTF-8"),
        ("#" * (MAX_BYTES + 1), "limit"),
        ("(" * 5000, "does not parse"),
    ],
)
def test_what_cannot_be_tried_is_named(text: str, problem: str | None) -> None:
    found = problem_with(text)
    assert found is None if problem is None else problem in (found or "")
    assert "\n" not in (found or "")


def test_blank_space_at_line_ends_is_no_change() -> None:
    assert same_code("a\nb\n", "a  \r\nb\n\n")
    assert not same_code("a\nb\n", "a\n b\n")
