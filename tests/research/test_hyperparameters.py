"""Constants of train.py are read and written without touching anything else."""

import ast
from pathlib import Path

import pytest

import research
from agent.compare_programs import changed_constants, code_of
from research.errors import UserError
from research.hyperparameters import literal_text, read_constants, same_but_for_constants, write_constants
from research.recipes import ORIGINAL, Constant, Recipe
from research.starting_hyperparameters import fit_to_profile, starting_hyperparameters

SHIPPED = Path(research.__file__).with_name("train.py").read_text()

TEXT = '''"""A train.py. DEPTH = 3 is not here."""

import math

DEPTH = 8                 # layers
LR = 0.04  # é: bytes and characters differ
BETAS = (0.8, 0.95)
BATCH = 2**19             # tokens
NAME = "SSSL"
FLAG = True
LONG = (
    1.0,  # one
    2.0,
)
COMPUTED = math.pi
lower = 5
NEGATIVE = -3
A = 1; B = 2


def f():
    DEPTH = 4
    return DEPTH
'''


def test_literal_constants_are_read() -> None:
    assert read_constants(TEXT) == {
        "DEPTH": 8, "LR": 0.04, "BETAS": (0.8, 0.95), "BATCH": 2**19, "NAME": "SSSL", "FLAG": True, "LONG": (1.0, 2.0),
        "NEGATIVE": -3, "A": 1, "B": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "value", ["1 / 0", "2.0**9999", "4294967296.0**64", "0**-1", "(-8) ** 0.5", "f(3)", "[1]", "None", "'a' * 9"]
)
def test_what_is_no_plain_literal_is_left_out(value: str) -> None:
    assert read_constants(f"X = {value}\nY = 3 * 2**4 // 5 - 1\n") == {"Y": 8}


ELSEWHERE = """import os
from dataclasses import dataclass, field

DEPTH = int(os.environ.get("DEPTH", "8"))  # layers
BATCH: int = int(os.getenv("BATCH", 2**19))
LR = float(os.environ.get("LR", "4e-2"))
NAME = os.environ.get("NAME", "SSSL")
HOME = os.environ.get("HOME")
FORK = int(os.environ.get("FORK", "8") + "0")
HALF = int(os.environ.get("HALF", 8.5))
WORD = int(os.environ.get("WORD", "many"))
WIDTH: int = 64


@dataclass(frozen=True)
class Config:
    layers: int = 12
    heads: int = 6
    rate: float = field(default=0.1)
    name: str = "GPT"
    none: object = None


class Plain:
    layers: int = 3


config = Config(heads=4)
"""


def test_defaults_of_environment_variables_and_dataclasses_are_constants_too() -> None:
    found = read_constants(ELSEWHERE)
    assert found == {"DEPTH": 8, "BATCH": 2**19, "LR": 0.04, "NAME": "SSSL", "WIDTH": 64, "Config.layers": 12,
                     "Config.rate": 0.1, "Config.name": "GPT"}  # fmt: skip
    values: dict[str, Constant] = {"DEPTH": 10, "BATCH": 2**18, "LR": 0.05, "NAME": "L", "WIDTH": 96, "Config.layers": 14,
                                   "Config.rate": 0.2}  # fmt: skip
    written = write_constants(ELSEWHERE, values)
    assert read_constants(written) == {**values, "Config.name": "GPT"}
    lines = dict(zip(ELSEWHERE.splitlines(), written.splitlines(), strict=True))
    changed = {old: new for old, new in lines.items() if old != new}
    assert changed == {
        'DEPTH = int(os.environ.get("DEPTH", "8"))  # layers': 'DEPTH = int(os.environ.get("DEPTH", "10"))  # layers',
        'BATCH: int = int(os.getenv("BATCH", 2**19))': 'BATCH: int = int(os.getenv("BATCH", 2**18))',
        'LR = float(os.environ.get("LR", "4e-2"))': 'LR = float(os.environ.get("LR", "0.05"))',
        'NAME = os.environ.get("NAME", "SSSL")': 'NAME = os.environ.get("NAME", "L")',
        "WIDTH: int = 64": "WIDTH: int = 96",
        "    layers: int = 12": "    layers: int = 14",
        "    rate: float = field(default=0.1)": "    rate: float = field(default=0.2)",
    }
    assert same_but_for_constants(ELSEWHERE, written) and code_of(ELSEWHERE) == code_of(written)
    other = written.replace("heads: int = 6", "heads: int = 7")
    assert not same_but_for_constants(written, other) and code_of(written) != code_of(other)
    assert changed_constants(ELSEWHERE, written)["Config.layers"] == (12, 14)


@pytest.mark.parametrize("text", ["def (", "x = 1\0", "x = " + "-" * 100_000 + "1"], ids=["syntax", "null", "depth"])
def test_what_is_no_python_is_a_syntax_error(text: str) -> None:
    with pytest.raises(SyntaxError):
        read_constants(text)


def test_writing_keeps_everything_else_byte_for_byte() -> None:
    written = write_constants(TEXT, {"DEPTH": 12, "LR": 0.1, "BATCH": 2**15, "NAME": "L", "NEGATIVE": 7})
    expected = TEXT
    for old, new in (
        ("DEPTH = 8                 # layers", "DEPTH = 12                # layers"),
        ("LR = 0.04  # é", "LR = 0.1   # é"),
        ("BATCH = 2**19             # tokens", "BATCH = 2**15             # tokens"),
        ('NAME = "SSSL"', 'NAME = "L"'),
        ("NEGATIVE = -3", "NEGATIVE = 7"),
    ):
        assert old in expected
        expected = expected.replace(old, new)
    assert written == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LONG", (3.0, 4.0)),
        ("BETAS", (0.9, 0.99)),
        ("FLAG", False),
        ("A", 100),
        ("NAME", 'a "quoted" \\ name é\n'),
        ("LR", 1e-9),
    ],
)
def test_what_is_written_is_read_again(name: str, value: Constant) -> None:
    written = write_constants(TEXT, {name: value})
    assert read_constants(written) == {**read_constants(TEXT), name: value}


def test_two_on_a_line_and_one_given_twice() -> None:
    assert write_constants(TEXT, {"A": 1024, "B": 4}).count("A = 2**10; B = 4\n") == 1
    assert write_constants("X = 1\nX = 2\n", {"X": 3}) == "X = 3\nX = 3\n"


@pytest.mark.parametrize("before", ["# a form feed:\x0c\n", 'S = "\u2028"\n', "# \x85\n", "\r\n"])
def test_lines_are_counted_as_python_counts_them(before: str) -> None:
    assert write_constants(before + "X = 1\nY = 2\n", {"X": 5}) == before + "X = 5\nY = 2\n"


def test_a_constant_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match="no constant MISSING, lower to set"):
        write_constants(TEXT, {"MISSING": 1, "DEPTH": 2, "lower": 3})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**19, "2**19"),
        (1024, "2**10"),
        (512, "512"),
        (1025, "1025"),
        (True, "True"),
        (0.5, "0.5"),
        ("SL", '"SL"'),
        ((0.8, 0.95), "(0.8, 0.95)"),
    ],
)
def test_how_constants_are_written(value: Constant, text: str) -> None:
    assert literal_text(value) == text and ast.literal_eval(text.replace("2**19", "524288").replace("2**10", "1024")) == value


@pytest.mark.parametrize("profile", ["small", "cpu"])
def test_the_shipped_file_is_fitted_to_a_profile(profile: str) -> None:
    text, changes = fit_to_profile(SHIPPED, profile, None)
    wanted = starting_hyperparameters(profile)
    assert {**read_constants(SHIPPED), **wanted} == read_constants(text)
    assert changes == {name: value for name, value in wanted.items() if read_constants(SHIPPED)[name] != value}
    assert changes["PROFILE"] == profile
    assert len(text.splitlines()) == len(SHIPPED.splitlines())
    assert fit_to_profile(text, profile, None) == (text, {}), "once is enough"


def test_a_file_made_for_the_profile_keeps_its_own() -> None:
    assert fit_to_profile(SHIPPED, "standard", None) == (SHIPPED, {})
    edited = write_constants(SHIPPED, {"DEPTH": 5})
    assert fit_to_profile(edited, "standard", None) == (edited, {})


def test_the_originals_recipe_replaces_what_is_there() -> None:
    text, _ = fit_to_profile(SHIPPED, "standard", None, recipe="original")
    assert {**read_constants(SHIPPED), **ORIGINAL} == read_constants(text)
    assert fit_to_profile(text, "standard", None, recipe="original") == (text, {})


def test_there_is_a_way_back_from_the_originals_recipe() -> None:
    text, _ = fit_to_profile(SHIPPED, "standard", None, recipe="original")
    assert fit_to_profile(text, "standard", None) == (text, {}), "nobody asked"
    assert read_constants(fit_to_profile(text, "standard", None, recipe="best")[0]) == read_constants(SHIPPED)


@pytest.mark.parametrize("recipe", [None, "best", "original"])
@pytest.mark.parametrize("profile", ["cpu", "standard"])
def test_edited_constants_stay(profile: str, recipe: Recipe | None) -> None:
    edited = {"MATRIX_LR": 0.06, "WARMDOWN_RATIO": 0.3}
    text, _ = fit_to_profile(write_constants(SHIPPED, edited), profile, None, recipe=recipe)
    assert text == write_constants(fit_to_profile(SHIPPED, profile, None, recipe=recipe)[0], edited)


def test_the_device_batch_is_fitted_to_free_memory() -> None:
    text, changes = fit_to_profile(SHIPPED, "standard", 24 * 10**9)
    assert changes == {"DEVICE_BATCH_SIZE": 32} and "DEVICE_BATCH_SIZE = 32         # " in text
    assert fit_to_profile(SHIPPED, "standard", 80 * 10**9)[1] == {}


@pytest.mark.parametrize("text", ["DEPTH = 3\n", "def (\n"])
def test_what_has_no_profile_stays_as_it_is(text: str) -> None:
    assert fit_to_profile(text, "cpu", None) == (text, {})
