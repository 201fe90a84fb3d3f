import json

import pytest

from agent.patch import changed_blocks, changed_constants, describe_changes, same_code
from research.text import one_line
from research.train_py import problem_with
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


def test_blank_space_at_line_ends_is_no_change() -> None:
    assert same_code("a\nb\n", "a  \r\nb\n\n")
    assert not same_code("a\nb\n", "a\n b\n")


@pytest.mark.parametrize(
    "line",
    [
        "    return " + "+".join(["1"] * 2000),
        "    return None\nDEEP = " + "-" * 2000 + "1",
        "    return 2\nBIG = 0x" + "f" * 9000,
        "    return 2\nHALF = '\\ud800'",
    ],
)
def test_code_without_bounds_is_described(line: str) -> None:
    """Each of these is Python that compiles, so a model can propose it."""
    new = TRAIN_PY.replace("    return None", line)
    assert problem_with(new) is None
    assert one_line(describe_changes(TRAIN_PY, new), 200) and json.dumps(changed_constants(TRAIN_PY, new)) == "{}"
