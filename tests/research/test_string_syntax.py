"""Strings are accepted alike by every version of Python, and hold nothing that can't be seen."""

import ast

import pytest

from research.executed_text import remove_bare_strings
from research.files import research_folder
from research.plain_text import plain_text
from research.runnable import not_runnable
from research.valid_train_py import parse, problem_with
from tests.attacks.honest import CONTROLS

TRAIN_PY = (research_folder() / "train.py").read_text()

LATER = (
    "f'{x['a']}'",
    'f"{f"{x}"}"',
    "f'{\"\\n\".join(x)}'",
    "f'{x!r:{y:{z:{w}}}}'",
    "f'''{x # a\n}'''",
    "f'{\nx}'",
    "f'{x!r }'",
    "f'''{x \\\n}'''",
    'f"""{f\'{\'a\'}\'}"""',
    "f'a' f'{x['b']}'",
    "rf'{x[\"\\d\"]}'",
    "type X = int",
    "def f[T](x: T): pass",
)
"""What Python 3.11 can't read, and a later version can."""

ALIKE = (
    "f'{x!r:>{w}} {{a}} {y = }'",
    "f'\\n{x[\"a\"]:\\x20>5}'",
    "f'''{x['a']}\n{\n y}'''",
    "f'{x!r:{y:>3}}'",
    "f'{f\"{x}\"}' 'b' f\"#{'#'}\"",
    "rf'\\d{x}\\''",
    "F'{x:}{(lambda: 1)()!s}{ {1: 2}[1] }{x != y}'",
    "f'é{\"é\"}{x:%H\\n}'",
    "x = 'a\\fb'  # an escape",
    "x = 1\n\f\ny = 2",
)


@pytest.mark.parametrize("text", LATER)
def test_what_only_a_later_python_reads_is_refused_by_all(text: str) -> None:
    assert "does not parse" in (problem_with(f"import os\n{text}\n") or "")


@pytest.mark.parametrize("text", [*ALIKE, TRAIN_PY, *(control.train_py for control in CONTROLS)])
def test_what_all_of_them_read_is_accepted(text: str) -> None:
    assert problem_with(text + "\n") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [("x = '\f'", 1), ("x = b'a\f'", 1), ("y\nx = '''a\n\f\n'''", 2), ("x = f\"{'\f'}\"", 1), ("x = f'{y\f}'", 1),
     ("x = f'\f'", 1), ("x = 1\n\f\ny = r'\f'", 3)],
)  # fmt: skip
def test_a_form_feed_in_a_string_is_refused(text: str, line: int) -> None:
    problem = problem_with(text + "\n") or ""
    assert f"line {line} holds U+000C in a string" in problem
    assert not_runnable(text + "\n", 10**6) is not None


def test_every_f_string_can_be_written_and_those_that_differ_differ() -> None:
    texts = [
        "f\"{'\f'}\"",
        "f\"{'\t'}\"",
        "f'{x}'",
        "f'{{x}}'",
        "f'{x!r}'",
        "f'{x:r}'",
        "f'{x}{y}'",
        "f'{x }\\n'",
        "'{x}'",
        "x",
    ]
    written = [plain_text(text + "\n") for text in texts]
    assert len(set(written)) == len(texts) and not any("\n" in text or "\f" in text for text in written)
    assert plain_text("f'a' 'b' f\"{ x }\"  # c\n") == plain_text("'''d'''\nf'ab{x}'\n") == "f'ab{x}'"


def test_a_program_without_f_strings_is_written_as_python_does() -> None:
    tree = parse(TRAIN_PY)
    remove_bare_strings(tree)
    pairs = zip(plain_text(TRAIN_PY).split("\n"), ast.unparse(tree).split("\n"), strict=True)
    assert all(found == expected or "f'" in expected for found, expected in pairs)
