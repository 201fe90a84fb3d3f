import pytest

from agent.compare_programs import (
    changed_blocks,
    changed_constants,
    describe_changes,
    program_of,
    same_code,
    slots_of,
    structure_of,
)
from research.valid_train_py import problem_with
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
def test_code_without_bounds_is_refused_and_has_a_program(line: str) -> None:
    """Each of these is Python that compiles, so a model can propose it."""
    new = TRAIN_PY.replace("    return None", line)
    compile(new, "train.py", "exec")
    assert problem_with(new) is not None
    with pytest.raises(SyntaxError):
        changed_constants(TRAIN_PY, new)
    assert program_of(new) != program_of(TRAIN_PY) and structure_of(new) == "" and slots_of(TRAIN_PY, new) == ()


PROGRAM = '''"""Doc."""

DEPTH = 2  # layers


class Model:
    """Doc."""

    def f(self):
        "Doc."
        return DEPTH
'''


@pytest.mark.parametrize(
    "new",
    [
        PROGRAM.replace("# layers", "# layers, at least 1"),
        PROGRAM.replace('"""Doc."""', '"""Another doc."""').replace('"Doc."\n', '"And another."\n'),
        PROGRAM.replace('    """Doc."""\n\n', ""),
        PROGRAM.replace("\n\n\n", "\n\n# a section\n\n").replace("return DEPTH", "return (DEPTH)"),
        PROGRAM.replace("\n", "\r\n"),
    ],
    ids=["comment", "docstrings", "no docstring", "formatting", "line endings"],
)
def test_what_changes_no_code_is_the_same_program(new):
    assert new != PROGRAM
    assert same_code(PROGRAM, new) and program_of(PROGRAM) == program_of(new)


@pytest.mark.parametrize(
    "new",
    [
        PROGRAM.replace("2", "3"),
        PROGRAM.replace("2", "2.0"),
        PROGRAM.replace("return", "yield"),
        PROGRAM.replace("        return DEPTH", "        return DEPTH\n    return 1"),
        PROGRAM.replace("class Model:", "class Model("),
    ],
)
def test_what_changes_code_is_another_program(new):
    assert new != PROGRAM and not same_code(PROGRAM, new)


def test_texts_that_do_not_parse_are_compared_by_their_lines():
    assert same_code("def f(:\n", "def f(:  \n\n") and not same_code("def f(:\n", "def f(: # no\n")
    assert program_of("\0") != program_of("\ud800")


NAMED = """
RATE = 0.1

def step(x, scale=1.0):
    total = x * scale
    for index in range(3):
        total = total + index
    return total

model = step(RATE)
loss = model + 1
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("total", "accumulated", True),  # a function's variable
        ("index", "i", True),
        ("model", "network", True),  # the module's
        ("RATE", "SPEED", False),  # a constant is known by its name
        ("scale", "factor", False),  # so is a parameter
        ("step", "advance", False),
        ("total + index", "total + total", False),
        ("model + 1", "RATE + 1", False),
    ],
)
def test_the_names_of_variables_make_no_difference(old: str, new: str, same: bool) -> None:
    assert same_code(NAMED, NAMED.replace(old, new)) == same


def test_a_name_that_other_code_may_go_by_stays() -> None:
    text = NAMED + 'print(globals()["loss"])\n'
    assert not same_code(text, text.replace("loss = ", "cost = "))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DEPTH_SEED = 9\n", "DEPTH_SEED = 3\n"),
        ("DEPTH = SEED = 9\n", "DEPTH = SEED = 3\n"),
        ("model.SEED = small()\n", "model.SEED = large()\n"),
        ("DEPTH = layers_by_seed(9)\n", "DEPTH = layers_by_seed(3)\n"),
        (
            "import torch\nDEPTH = torch.manual_seed(9).initial_seed()\n",
            "import torch\nDEPTH = torch.manual_seed(3).initial_seed()\n",
        ),
        ("torch.manual_seed(session.seed + SEED)\nSEED = 1\n", "torch.manual_seed(session.seed + SEED)\nSEED = 2\n"),
    ],
)
def test_nothing_that_is_called_a_seed_is_left_out_of_a_program(old: str, new: str) -> None:
    """Whatever bears the name can be any number of the model, so that a run of it would count as one of another program."""
    assert not same_code(old, new) and program_of(old) != program_of(new)
