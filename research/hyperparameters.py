"""Reading and writing the literal constants of train.py. Standard library only; nothing of train.py is executed."""

import ast
import hashlib
import io
import json
import math
from collections.abc import Mapping

from research.errors import UserError
from research.printable import first_hidden
from research.recipes import Constant
from research.remembered_texts import Remembered
from research.valid_train_py import MAX_BITS, parse, tree_to_read


def read_constants(train_py: str) -> dict[str, Constant]:
    """Module-level `NAME = literal` assignments of `train_py`, in order; arithmetic on numbers (`2**19`) is evaluated.

    Raises SyntaxError if `train_py` does not parse.
    """
    return _constants_of(tree_to_read(train_py).body)


def _constants_of(statements: list[ast.stmt]) -> dict[str, Constant]:
    constants = {}
    for node in statements:
        name = _assigned_name(node)
        if name is not None and isinstance(node, ast.Assign):
            try:
                value = _evaluate(node.value)
            except (ValueError, ArithmeticError):
                continue
            if _can_be_recorded(value):
                constants[name] = value
    return constants


def write_constants(train_py: str, values: Mapping[str, Constant]) -> str:
    """`train_py` with the named module-level constants set to `values`; comments and everything else stay as they are.

    Raises UserError for a constant that isn't there.
    """
    lines = list(io.StringIO(train_py, newline=""))  # lines as Python counts them: a form feed doesn't end one
    places = [(name, node.value) for node in tree_to_read(train_py).body
              if isinstance(node, ast.Assign) and (name := _assigned_name(node)) in values]  # fmt: skip
    missing = [name for name in values if name not in dict(places)]
    if missing:
        raise UserError(f"train.py has no constant {', '.join(missing)} to set: restore it, or choose another profile.")
    replacements = [(value, literal_text(values[name])) for name, value in places if name is not None]
    for value, text in sorted(replacements, key=lambda item: (-item[0].lineno, -item[0].col_offset)):
        _replace_span(lines, value, text)
    return "".join(lines)


@Remembered
def same_but_for_constants(one: str, other: str) -> bool:
    """Whether two texts of train.py are the same program, apart from the values of its literal constants."""
    try:
        statements, others = _with_constants_blank(one), _with_constants_blank(other)
    except SyntaxError:
        return False
    pairs = zip(statements, others, strict=False)
    return len(statements) == len(others) and all(ast.dump(first) == ast.dump(second) for first, second in pairs)


def fingerprint_without_constants(train_py: str) -> str:
    """SHA-256 of the text without the values of its literal constants, and without the comments behind them.

    It doesn't depend on the version of Python. Raises SyntaxError if `train_py` does not parse.
    """
    lines = list(io.StringIO(train_py, newline=""))
    statements = parse(train_py).body
    constants = _constants_of(statements)
    nodes = [node for node in statements if isinstance(node, ast.Assign) and _assigned_name(node) in constants]
    for node in sorted(nodes, key=lambda node: -node.lineno):
        value, last = node.value, lines[(node.value.end_lineno or node.value.lineno) - 1].encode()
        head = lines[value.lineno - 1].encode()[: value.col_offset].decode()
        tail = last[value.end_col_offset :].decode().strip()
        lines[value.lineno - 1 : value.end_lineno] = [f"{head}?{'' if tail.startswith('#') else tail}\n"]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def literal_text(value: Constant) -> str:
    """A constant as source text: powers of two from 2**10 on as powers, everything else as Python prints it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _with_constants_blank(train_py: str) -> list[ast.stmt]:
    statements = parse(train_py).body
    constants = _constants_of(statements)
    for node in statements:
        if isinstance(node, ast.Assign) and _assigned_name(node) in constants:
            node.value = ast.Constant(value=None)
    return statements


def _assigned_name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        return name if name.isupper() else None
    return None


def _evaluate(node: ast.expr) -> Constant:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, bool)):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(float(_number(item)) for item in node.elts)
    return _number(node)


def _can_be_recorded(value: Constant) -> bool:
    """Whether JSON and a database can hold a constant, and a reader see it: a sane integer, finite numbers, visible text."""
    if isinstance(value, str):
        return all(first_hidden(line) is None for line in value.split("\n"))
    if isinstance(value, int):
        return value.bit_length() <= MAX_BITS
    return all(map(math.isfinite, value if isinstance(value, tuple) else (value,)))


def _number(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) <= 64 and 0 <= left <= 2**32:
            power: int | float = left**right
            return power
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div) and right:
            return left / right
        if isinstance(node.op, ast.FloorDiv) and right:
            return left // right
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
    raise ValueError("not a literal")


def _replace_span(lines: list[str], node: ast.expr, text: str) -> None:
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    # AST columns count UTF-8 bytes
    head = lines[first].encode()[: node.col_offset].decode()
    tail = lines[last].encode()[node.end_col_offset :].decode()
    old_width = len(lines[first]) - len(head) - len(tail)
    stripped = tail.lstrip(" ")
    if first == last and stripped.startswith("#"):  # keep the comment's column if there is room
        tail = " " * max(2, len(tail) - len(stripped) + old_width - len(text)) + stripped
    lines[first : last + 1] = [head + text + tail]
