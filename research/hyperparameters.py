"""Reading and writing the literal constants of train.py. Standard library only; nothing of train.py is executed.

A constant is `NAME = literal` at module level, also as the default of an environment variable that nothing sets
(`NAME = int(os.environ.get("NAME", "8"))`), and a dataclass's default that no call overrides, under the name `Class.field`.
"""

import ast
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from research.errors import UserError
from research.printable import first_hidden
from research.recipes import Constant
from research.remembered_texts import Remembered
from research.valid_train_py import MAX_BITS, parse, tree_to_read, walk

READS = ("os.environ.get", "os.getenv", "environ.get", "getenv")
"""What reads an environment variable."""

CONVERSIONS = {"int": int, "float": float}
"""What an environment variable's text is converted by, if it is not text."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a constant's value stands."""

    name: str
    value: Constant
    parent: ast.AST
    """The node that has the value in a field, or as the second item of its arguments."""
    field: str
    is_text: bool = False
    """Whether a number stands there as text."""

    @property
    def node(self) -> ast.expr:
        found = getattr(self.parent, self.field)
        node: ast.expr = found[1] if self.field == "args" else found
        return node

    def blank(self) -> None:
        """Takes the value out."""
        nothing = ast.Constant(value=None)
        if self.field == "args":
            getattr(self.parent, self.field)[1] = nothing
        else:
            setattr(self.parent, self.field, nothing)

    def written(self, value: Constant) -> str:
        """The source text of another value there."""
        return json.dumps(repr(value)) if self.is_text else literal_text(value)


def read_constants(train_py: str) -> dict[str, Constant]:
    """The constants of `train_py`, in order; arithmetic on numbers (`2**19`) is evaluated.

    Raises SyntaxError if `train_py` does not parse.
    """
    return {place.name: place.value for place in _places(tree_to_read(train_py))}


def without_constants(tree: ast.Module) -> None:
    """Takes the constants out of a program: what is left is equal if only they differ."""
    places = _places(tree)
    statements = {id(place.parent) for place in places if isinstance(place.parent, ast.stmt) and "." not in place.name}
    for place in places:
        place.blank()
    tree.body = [node for node in tree.body if id(node) not in statements]


def _places(tree: ast.Module) -> list[_Place]:
    """Where the constants stand. Of a name that is assigned twice both are there, the last one counts."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found += list(_dataclass_places(node, tree))
        elif (name := _assigned_name(node)) is not None:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            found += [place for place in (_literal_place(name, node, "value"), _environment_place(name, node)) if place]
    return found


def _literal_place(name: str, parent: ast.AST, field: str) -> _Place | None:
    """A constant whose value is a literal in this field; None if it isn't one."""
    try:
        value = _evaluate(getattr(parent, field))
    except (ValueError, ArithmeticError):
        return None
    return _Place(name=name, value=value, parent=parent, field=field) if _can_be_recorded(value) else None


def _environment_place(name: str, node: ast.Assign | ast.AnnAssign) -> _Place | None:
    """A constant that is the default of an environment variable; None if it isn't one."""
    call = node.value
    convert: Callable[[Any], Constant] | None = None
    if isinstance(call, ast.Call) and _dotted(call.func) in CONVERSIONS and len(call.args) == 1:
        convert = CONVERSIONS[_dotted(call.func)]
        call = call.args[0]
    if not isinstance(call, ast.Call) or _dotted(call.func) not in READS or len(call.args) != 2 or call.keywords:
        return None
    try:
        given = _evaluate(call.args[1])
        value = given if convert is None or isinstance(given, tuple) else convert(given)
    except (ValueError, ArithmeticError):
        return None
    is_text = convert is not None and isinstance(given, str)
    if (not is_text and value != given) or not _can_be_recorded(value):  # int(8.5) is another value
        return None
    return _Place(name=name, value=value, parent=call, field="args", is_text=is_text)


def _dataclass_places(node: ast.ClassDef, tree: ast.Module) -> Iterator[_Place]:
    """The defaults of a dataclass that no call overrides."""
    decorators = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    if not any(_dotted(one) in ("dataclass", "dataclasses.dataclass") for one in decorators):
        return
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    calls = [call for call in walk(tree) if isinstance(call, ast.Call)]
    for place, one in enumerate(fields):
        assert isinstance(one.target, ast.Name)
        if one.value is None or any(_overrides(call, node.name, one.target.id, place) for call in calls):
            continue
        name, default = f"{node.name}.{one.target.id}", one.value
        keywords = (
            default.keywords
            if isinstance(default, ast.Call) and _dotted(default.func) in ("field", "dataclasses.field")
            else []
        )
        chosen = next((keyword for keyword in keywords if keyword.arg == "default"), None)
        found = _literal_place(name, one, "value") if chosen is None else _literal_place(name, chosen, "value")
        if found is not None:
            yield found


def _overrides(call: ast.Call, kind: str, field: str, place: int) -> bool:
    """Whether a call may give a field of a dataclass another value."""
    name = _dotted(call.func).rpartition(".")[2]
    if name not in (kind, "replace"):
        return False
    given = {keyword.arg for keyword in call.keywords}
    by_place = name == kind and (place < len(call.args) or any(isinstance(one, ast.Starred) for one in call.args))
    return field in given or None in given or by_place


def _dotted(node: ast.expr) -> str:
    """A name with its attributes, such as `os.environ.get`; empty for another expression."""
    attributes = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(attributes)]) if isinstance(node, ast.Name) else ""


def _constants_of(statements: list[ast.stmt]) -> dict[str, Constant]:
    """The constants that are literals at module level."""
    places = (_literal_place(name, node, "value") for node in statements if (name := _assigned_name(node)) is not None)
    return {place.name: place.value for place in places if place is not None}


def write_constants(train_py: str, values: Mapping[str, Constant]) -> str:
    """`train_py` with the named constants set to `values`; comments and everything else stay as they are.

    Raises UserError for a constant that isn't there.
    """
    lines = list(io.StringIO(train_py, newline=""))  # lines as Python counts them: a form feed doesn't end one
    places = [place for place in _places(tree_to_read(train_py)) if place.name in values]
    missing = [name for name in values if name not in {place.name for place in places}]
    if missing:
        raise UserError(f"train.py has no constant {', '.join(missing)} to set: restore it, or choose another profile.")
    replacements = [(place.node, place.written(values[place.name])) for place in places]
    for value, text in sorted(replacements, key=lambda item: (-item[0].lineno, -item[0].col_offset)):
        _replace_span(lines, value, text)
    return "".join(lines)


@Remembered
def same_but_for_constants(one: str, other: str) -> bool:
    """Whether two texts of train.py are the same program, apart from the values of its literal constants."""
    try:
        return _with_constants_blank(one) == _with_constants_blank(other)
    except SyntaxError:
        return False


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


def _with_constants_blank(train_py: str) -> list[str]:
    tree = parse(train_py)
    for place in _places(tree):
        place.blank()
    return [ast.dump(node) for node in tree.body]


def _assigned_name(node: ast.stmt) -> str | None:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    if len(targets) == 1 and isinstance(targets[0], ast.Name) and getattr(node, "value", None) is not None:
        name = targets[0].id
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
