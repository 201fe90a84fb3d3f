"""The lines by which the price of an edit goes are those of its program."""

import ast

import pytest

from agent.code_lines import changed_lines, code_lines, priced_lines
from agent.search.ablations import ABLATIONS, ablated
from research.files import research_folder
from tests.attacks.attack import HONEST
from tests.attacks.honest import CONTROLS
from tests.research.train_edits import EDITS, edited

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
        ("def (\n# a\n\nx\n", (2, 7)),
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


FUNCTION = """
def extra{n}(x):
    y = x + {n}
    z = math.sqrt(y) * {n}
    if z > y:
        z = z - y
    for w in range({n}):
        z = z + w * y
    return z
"""

WALLS = {
    "a lambda": (
        "extra{n} = lambda x: (y := x + {n}, z := math.sqrt(y) * {n}, z := z - y if z > y else z, "
        "[z := z + w * y for w in range({n})], z)[-1]\n"
    ),
    "a condition": "def extra{n}(x): return x + {n} if x > 1 else math.sqrt(x) * {n} if x > 0 else x - {n} if x < -1 else x\n",
    "a table": "TABLE{n} = {{1: lambda x: x + {n}, 2: lambda x: math.sqrt(x) * {n}, 3: lambda x: x - {n}, 4: lambda x: x}}\n",
    "a comprehension": "extra{n} = lambda x: [z for y in [x + {n}] for w in range({n}) for z in [math.sqrt(y) * w] if z > y]\n",
    "a default": "def extra{n}(x, y=math.sqrt({n}) * 2, z=[w * {n} for w in range(9)], f=lambda: 1): return f() + x + z[1]\n",
    "an f-string": "extra{n} = lambda x: f'{{(y := x + {n})}}{{(z := math.sqrt(y) * {n})}}{{[z * w for w in range({n})]}}'\n",
}
"""Programs of several statements, each as one or two."""

STATEMENTS = {"a lambda": 8, "a condition": 8, "a table": 9, "a comprehension": 6, "a default": 8, "an f-string": 5}
"""Lines that each would take as plain statements."""

UNWRITABLE = (
    "f\"{'\f'}\"",
    "f\"{'\t'}\"",
    "f'''{'a\tb'}'''",
    "f\"{x['\t':'\t']}\"",
    'f\'\'\'{"a\'b"}{"""a"b"""}\n{x!r:>{y}}\'\'\'',
)
"""F-strings that one version of Python writes in another way than the next, or not at all."""


@pytest.mark.parametrize("string", UNWRITABLE)
def test_whatever_f_string_a_text_has_its_lines_count_as_those_of_another(string: str) -> None:
    statements = [f"x{number} = {number}" for number in range(40)]
    plain, joined = "\n".join(statements) + "\n", "; ".join(statements) + "\n"
    assert changed_lines(BASE + plain, BASE + joined + f"MARK = {string}\n") == (1, 0)
    assert changed_lines(BASE, BASE + joined + f"MARK = {string}\n") == (41, 0)


@pytest.mark.parametrize("name", WALLS)
def test_a_program_costs_much_of_its_lines_also_as_a_wall(name: str) -> None:
    walls = "".join(WALLS[name].format(n=n) for n in range(2, 32))
    written = 30 * STATEMENTS[name]
    assert priced_lines(TRAIN_PY, TRAIN_PY + walls) >= 0.25 * written
    assert priced_lines(TRAIN_PY, shorter(TRAIN_PY) + walls) >= 0.2 * written


def shorter(train_py: str) -> str:
    """The same program, whose constants are set by as few statements as possible."""
    tree = ast.parse(train_py)
    constants = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    names = ast.Tuple([target for node in constants for target in node.targets], ast.Store())
    values = ast.Tuple([node.value for node in constants], ast.Load())
    tree.body = [node for node in tree.body if node not in constants]
    place = next(index for index, node in enumerate(tree.body) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    tree.body.insert(place, ast.Assign([names], values))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def test_the_same_program_in_fewer_lines_is_no_simpler() -> None:
    added, removed = changed_lines(TRAIN_PY, shorter(TRAIN_PY))
    assert removed - added > 10 and priced_lines(TRAIN_PY, shorter(TRAIN_PY)) >= 0


def test_ordinary_edits_cost_their_lines() -> None:
    texts = [(TRAIN_PY, edited(TRAIN_PY, edit)) for edit in EDITS] + [(HONEST, control.train_py) for control in CONTROLS]
    texts += [(TRAIN_PY, text) for ablation in ABLATIONS if (text := ablated(TRAIN_PY, ablation))]
    texts += [(TRAIN_PY, TRAIN_PY + "".join(FUNCTION.format(n=n) for n in range(30)))]
    for old, new in texts:
        added, removed = changed_lines(old, new)
        assert priced_lines(old, new) == added - removed


def test_a_text_that_cannot_be_read_costs_its_lines() -> None:
    assert priced_lines(BASE, BASE + "def (\n") == 1 and priced_lines("def (\n", BASE) == 6
