"""What can't be tried as train.py is named in one line."""

import pytest

from research.valid_train_py import MAX_BYTES, parse, problem_with


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("DEPTH = 2  # layers\n", None),
        ("x = '\\d'\n", None),
        ("def (", "line 1"),
        ("x = 1\0", "does not parse"),
        ("x = '\ud800'", "UTF-8"),
        ("#" * (MAX_BYTES + 1), "limit"),
        ("(" * 5000, "does not parse"),
        ("x = " + "-" * 90_000 + "1\n", "does not parse"),
        ("return 1\n", "line 1"),
    ],
)
def test_what_cannot_be_tried_is_named(text: str, problem: str | None) -> None:
    found = problem_with(text)
    assert found is None if problem is None else problem in (found or "")
    assert "\n" not in (found or "")


@pytest.mark.parametrize("text", ["def (", "x = 1\0", "(" * 5000])
def test_whatever_cannot_be_parsed_is_a_syntax_error(text: str) -> None:
    with pytest.raises(SyntaxError):
        parse(text)
