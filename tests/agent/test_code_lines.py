"""The lines by which the price of an edit goes are those of its program."""

import ast

import pytest

from agent.code_lines import changed_lines, code_lines
from research.files import research_folder

TRAIN_PY = (research_folder() / "train.py").read_text()

BASE = '''"""A file."""

import math

DEPTH = 2  # layers


def f(x):
    """Doubles."""
    y = x + 1  # why
    return math.sqrt(y) * DEPTH
'''


@pytest.mark.parametrize(
    "new",
    [
        BASE.replace("  # why", ""),
        BASE.replace('    """Doubles."""\n', ""),
        BASE.replace("    y = x + 1  # why\n    return", "    y = x + 1; return"),
        BASE.replace("x + 1", "(\n        x\n        + 1\n    )"),
        BASE.replace("import math\n", "import math\n\n\n\n# a long note\n'a string that stands alone'\n"),
    ],
)
def test_the_layout_of_the_text_is_free(new: str) -> None:
    assert changed_lines(BASE, new) == (0, 0)


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (BASE.replace("x + 1", "x + 2"), (1, 1)),
        (BASE + "x = [\n    1]\n", (1, 0)),
        (BASE + "a = 1; b = 2; c = 3\n", (3, 0)),
        (BASE + f"TEXT = {'x' * 950!r}\n", (10, 0)),
        (BASE + f"TEXT = b{'x' * 950!r}\n", (10, 0)),
        (BASE + "x = [" + ", ".join(["DEPTH"] * 100) + "]\n", (8, 0)),
        (BASE.replace("    y = x + 1  # why\n", ""), (0, 1)),
        ("def (\n# a\n\nx\n", (2, 5)),
        ("f'{x!r}\\n{y}'\n", (1, 5)),
    ],
)
def test_what_the_program_has_counts(new: str, lines: tuple[int, int]) -> None:
    assert changed_lines(BASE, new) == lines
    assert changed_lines(new, BASE) == lines[::-1]


def test_code_in_a_comment_or_a_string_that_stands_alone_is_no_code_and_in_another_string_it_is() -> None:
    code = "\n".join(f"x{number} = DEPTH + {number}" for number in range(100))
    assert changed_lines(BASE, BASE + "".join(f"# {line}\n" for line in code.split("\n"))) == (0, 0)
    assert changed_lines(BASE, BASE + f'"""{code}"""\n') == (0, 0)
    assert changed_lines(BASE, BASE + f"TEXT = {code!r}\n")[0] >= len(code) // 100


def test_the_shipped_train_py_has_about_as_many_lines_as_code() -> None:
    written = [line for line in TRAIN_PY.split("\n") if line.strip() and not line.strip().startswith("#")]
    added, removed = changed_lines("", TRAIN_PY)
    assert removed == 0 and 0.7 * len(written) < added < len(written)
    assert ast.dump(ast.parse("\n".join(code_lines("x = 1 # a\n")))) == ast.dump(ast.parse("x = 1"))
