"""Finds the seeds that a train.py sets itself, in its text. Standard library only.

With a seed of its own all runs of a file would be alike, so that the noise could be neither seen nor averaged out. So whatever
seeds a random generator must be called by its name, with an expression that can be followed to `session.seed`. What no text
shows (numbers that a file makes without a generator) shows in scores that are too equal (results/verdict.py).
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from research.formatting import one_line
from research.valid_train_py import parse, walk

SEEDERS = frozenset(
    {
        *("manual_seed", "manual_seed_all", "seed_all", "_manual_seed", "default_rng", "RandomState", "SeedSequence"),
        *("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64", "Random"),
    }
)
"""Names of what seeds a generator, in torch, NumPy and the standard library; `seed` does as well."""

STATE_SETTERS = frozenset(
    {"set_rng_state", "set_rng_state_all", "setstate", "set_state", "graphsafe_set_state", "bit_generator", "set_offset"}
)
STATE_GETTERS = frozenset({"get_rng_state", "get_rng_state_all", "getstate", "get_state", "graphsafe_get_state"})

AS_TEXT = frozenset({"seed", *SEEDERS, *STATE_SETTERS}) - {"Random"}
"""Names that are refused as strings, by which `getattr` and the like reach them."""

SEED_KEYWORDS = frozenset({"seed", "random_state"})
"""Keywords by which functions of other modules take a seed."""

RANDOM_MODULES = frozenset({"random", "numpy", "torch"})

NAMESPACES = frozenset({"getattr", "setattr", "delattr", "vars"})
"""Functions that reach an attribute by a name that may be computed."""

Kind = Literal["seed", "session"]

MAX_STEPS = 30
"""Names from one to another that a seed is followed through."""

SMALLEST_MODULUS = 2**16
"""A seed modulo less than this would leave few seeds."""


def seed_set_by(train_py: str) -> str:
    """The first place that sets a seed of the file's own, as a one-line reason; empty if there is none. Raises SyntaxError."""
    tree = parse(train_py)
    file = _File(tree)
    found = sorted(_own_seeds(file), key=lambda node: (node.lineno, node.col_offset))
    for node in found[:1]:
        shown = one_line(ast.get_source_segment(train_py, node) or "", 60)
        return (
            f"train.py line {node.lineno} sets its own seed ({shown}): seeds come from the judge, "
            "use session.reseed() or a sum with session.seed"
        )
    return ""


@dataclass(frozen=True)
class _File:
    """What the names of a file are bound to."""

    tree: ast.Module
    parents: dict[int, ast.AST] = field(default_factory=dict)
    """By the id of a node, the node that holds it."""
    origins: dict[str, str] = field(default_factory=dict)
    """The full names of imported names: `numpy` for `np`, `random.seed` for `seed`."""
    values: dict[str, list[ast.AST]] = field(default_factory=lambda: defaultdict(list))
    """What a name, or an attribute as `.name`, is bound to: expressions, loops, parameters, definitions."""
    followed: dict[tuple[str, str], bool] = field(default_factory=dict)
    """What is known of names: whether each is the judge's `seed` or the `session`; True while it is being followed."""
    open: list[str] = field(default_factory=list)
    """The names that are being followed, one from another."""
    passed: dict[int, list[ast.expr] | None] = field(default_factory=dict)
    """What `_passed` has found, by the id of the parameter."""

    def __post_init__(self) -> None:
        for node in walk(self.tree):
            self.parents.update((id(child), node) for child in ast.iter_child_nodes(node))
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.origins[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else (
                        alias.name.partition(".")[0])  # fmt: skip
            elif isinstance(node, ast.ImportFrom):
                self.origins.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
            else:
                for name, value in _bindings(node):
                    self.values[name].append(value)

    def full_name(self, node: ast.expr) -> str:
        """`numpy.random.seed` for `np.random.seed`; empty if the expression doesn't begin with a name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.origins.get(node.id, node.id), *reversed(parts)])

    def is_of_random_module(self, node: ast.expr) -> bool:
        """Whether an expression is an imported module that has random generators, or something in it."""
        first = node
        while isinstance(first, ast.Attribute):
            first = first.value
        is_imported = isinstance(first, ast.Name) and first.id in self.origins and first.id not in self.values
        return is_imported and self.full_name(node).partition(".")[0] in RANDOM_MODULES


DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
"""Nodes that bind the name that they hold as text."""


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The names that a node binds, each with what it is bound to."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _targets(target, node.value)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        if node.value is not None:
            yield from _targets(node.target, node.value)
    elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor | ast.comprehension):
        yield from _targets(node.target, node)
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield from _targets(node.optional_vars, node)
    elif isinstance(node, ast.arg):
        yield node.arg, node
    elif isinstance(node, DEFINING) and node.name:
        yield node.name, node


def _targets(target: ast.expr, value: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Attribute):
        yield f".{target.attr}", value
    else:  # a part of the value
        parts = [node for node in walk(target) if isinstance(node, ast.Name | ast.Attribute)]
        for part in parts:
            if isinstance(part.ctx, ast.Store):
                yield (part.id if isinstance(part, ast.Name) else f".{part.attr}"), target


# --- what is refused -------------------------------------------------------------------------------------------------------


def _own_seeds(file: _File) -> Iterator[ast.expr | ast.ImportFrom]:
    """The places that seed a generator, or get at what does, otherwise than by the judge's seed."""
    annotations = {id(part) for node in walk(file.tree) for note in _annotations(node) for part in walk(note)}
    for node in walk(file.tree):
        if id(node) in annotations:
            continue
        is_fine = True
        if isinstance(node, ast.Call):
            is_fine = _call_is_fine(file, node)
        elif isinstance(node, ast.Name | ast.Attribute):
            is_fine = _reference_is_fine(file, node)
        elif isinstance(node, ast.Constant):
            is_fine = node.value not in AS_TEXT or _is_only_shown(file, node)
        elif isinstance(node, ast.ImportFrom):
            is_fine = not _imports_all(node)
        if not is_fine and isinstance(node, ast.expr | ast.ImportFrom):
            yield node


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    for name in ("annotation", "returns"):
        note = getattr(node, name, None)
        if isinstance(note, ast.expr):
            yield note


def _call_is_fine(file: _File, call: ast.Call) -> bool:
    """Whether a call seeds nothing, or seeds with what comes from the judge."""
    name = _last_name(file, call.func)
    if name in SEEDERS or _is_seed_function(file, call.func):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg != "device")]
        return bool(arguments) and all(_comes_from_judge(file, argument) for argument in arguments)
    if name in STATE_SETTERS:
        return bool(call.args) and _is_saved_state(file, call.args[0])
    if name == "Generator" and file.is_of_random_module(call.func):
        return "numpy" in file.full_name(call.func) or _is_seeded(file, call)
    if name in NAMESPACES and call.args and (file.is_of_random_module(call.args[0]) or _is_session(file, call.args[0])):
        return name == "getattr" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
    if isinstance(call.func, ast.Name | ast.Attribute) and file.is_of_random_module(call.func):
        seeds = [keyword.value for keyword in call.keywords if keyword.arg in SEED_KEYWORDS]
        return all(_comes_from_judge(file, seed) for seed in seeds)
    return True


def _reference_is_fine(file: _File, node: ast.Name | ast.Attribute) -> bool:
    """Whether a name or an attribute is no seeding function that is passed on instead of called, and binds no seed."""
    parent = file.parents.get(id(node))
    is_called = isinstance(parent, ast.Call) and parent.func is node
    if isinstance(node, ast.Attribute) and node.attr == "seed":
        if isinstance(node.ctx, ast.Load):
            return is_called or _is_session(file, node.value) or _is_self(node.value)
        return _is_self(node.value) and isinstance(parent, ast.Assign) and _comes_from_judge(file, parent.value)
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return not file.is_of_random_module(node.value) and not _is_session(file, node.value)
    if isinstance(node.ctx, ast.Load):
        name = _last_name(file, node)
        return is_called or not (name in SEEDERS | STATE_SETTERS or _is_seed_function(file, node))
    return not (isinstance(node, ast.Attribute) and node.attr in SEEDERS | STATE_SETTERS)


def _last_name(file: _File, node: ast.expr) -> str:
    """The name of what is called: of an attribute its own, of an imported name the original; of the file's own names none."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name) and (node.id not in file.values or node.id in file.origins):
        return file.origins.get(node.id, node.id).rpartition(".")[2]
    return ""


def _is_seed_function(file: _File, node: ast.expr) -> bool:
    """Whether this is a function `seed` of a generator or a module, whatever it is called here."""
    if isinstance(node, ast.Attribute):
        return node.attr == "seed"
    return isinstance(node, ast.Name) and file.origins.get(node.id, "").endswith(".seed")


def _is_only_shown(file: _File, node: ast.Constant) -> bool:
    """Whether a string is printed, a part of a longer text, or the key of what comes from the judge."""
    parent = file.parents.get(id(node))
    if isinstance(parent, ast.Dict) and node in parent.keys:
        return _comes_from_judge(file, parent.values[parent.keys.index(node)])
    is_printed = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "print"
    return is_printed or isinstance(parent, ast.JoinedStr) or node.value not in AS_TEXT


def _is_saved_state(file: _File, node: ast.expr) -> bool:
    """Whether a name or an attribute holds nothing but states that a generator had before."""
    name = node.id if isinstance(node, ast.Name) else f".{node.attr}" if isinstance(node, ast.Attribute) else ""
    bound = file.values.get(name, [])
    return bool(bound) and all(isinstance(v, ast.Call) and _last_name(file, v.func) in STATE_GETTERS for v in bound)


def _is_seeded(file: _File, call: ast.Call) -> bool:
    """Whether a new generator of torch, which has a seed of its own at first, is seeded: at once, or by its name."""
    parent = file.parents.get(id(call))
    if isinstance(parent, ast.Attribute):
        return parent.attr == "manual_seed"
    targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target] if isinstance(parent, ast.AnnAssign) else []
    names = {ast.unparse(target) for target in targets}
    calls = (node.func for node in walk(file.tree) if isinstance(node, ast.Call))
    return any(
        isinstance(function, ast.Attribute) and function.attr == "manual_seed" and ast.unparse(function.value) in names
        for function in calls
    )


def _imports_all(node: ast.ImportFrom) -> bool:
    return any(alias.name == "*" for alias in node.names) and (node.module or "").partition(".")[0] in RANDOM_MODULES


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


# --- what comes from the judge ---------------------------------------------------------------------------------------------


def _comes_from_judge(file: _File, node: ast.AST) -> bool:
    """Whether an expression is the judge's seed, or has one value for each: a sum, a multiple, a list that starts with it."""
    if isinstance(node, ast.Attribute) and node.attr == "seed":
        is_own = _is_self(node.value) and "seed" not in file.values  # `seed = 3` in a class would be one as well
        return _is_session(file, node.value) or (is_own and _follows(file, "seed", ".seed"))
    if isinstance(node, ast.Name):
        return _follows(file, "seed", node.id)
    if isinstance(node, ast.Tuple | ast.List):
        rest = node.elts[1:]
        return bool(node.elts) and _comes_from_judge(file, node.elts[0]) and all(_is_count(file, item) for item in rest)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "int" and "int" not in file.values:
            return len(node.args) == 1 and _comes_from_judge(file, node.args[0])
        name = _last_name(file, node.func)
        return (name == "initial_seed" and not node.args) or (name in SEEDERS and _call_is_fine(file, node))
    return isinstance(node, ast.BinOp) and _keeps_seeds_apart(file, node)


def _keeps_seeds_apart(file: _File, node: ast.BinOp) -> bool:
    """Whether arithmetic on the judge's seed gives each seed a number of its own."""
    ways = ((node.left, node.right), (node.right, node.left))
    if isinstance(node.op, ast.Add | ast.BitXor):
        return any(_is_count(file, other) and _comes_from_judge(file, one) for one, other in ways)
    if isinstance(node.op, ast.Mult):
        return any(_whole(other) >= 1 and _comes_from_judge(file, one) for one, other in ways)
    if isinstance(node.op, ast.Sub):
        return _is_count(file, node.right) and _comes_from_judge(file, node.left)
    if isinstance(node.op, ast.Mod):
        return _whole(node.right) >= SMALLEST_MODULUS and _comes_from_judge(file, node.left)
    return False


def _whole(node: ast.expr) -> int:
    """The value of an integer literal or of a power of two of them; 0 for anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _whole(node.left) == 2 and _whole(node.right) <= 64:
        return int(2 ** _whole(node.right))
    return 0


def _is_count(file: _File, node: ast.expr) -> bool:
    """Whether an expression is an integer literal, or a name that only such literals and loops over a range bind."""
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    bound = file.values.get(node.id, []) if isinstance(node, ast.Name) else []
    return bool(bound) and all(_is_counted(value) for value in bound)


def _is_counted(value: ast.AST) -> bool:
    if isinstance(value, ast.Constant):
        return type(value.value) is int
    loop = value.iter if isinstance(value, ast.For | ast.comprehension) and isinstance(value.target, ast.Name) else None
    return isinstance(loop, ast.Call) and isinstance(loop.func, ast.Name) and loop.func.id == "range"


def _is_session(file: _File, node: ast.AST) -> bool:
    """Whether an expression is the session that the judge passes to `train`, under any name that only it has."""
    name = node.id if isinstance(node, ast.Name) else f".{node.attr}" if isinstance(node, ast.Attribute) else ""
    return _follows(file, "session", name)


def _follows(file: _File, kind: Kind, name: str) -> bool:
    """Whether whatever a name is bound to in the file is the judge's seed, or its session."""
    if (kind, name) in file.followed:
        return file.followed[kind, name]
    if len(file.open) >= MAX_STEPS:
        return False
    file.followed[kind, name] = True  # names that are bound to each other alone hold nothing
    file.open.append(name)
    bound = file.values.get(name, [])
    is_judges = bool(bound) and all(_is_of_judge(file, kind, value) for value in bound)
    file.open.pop()
    if not is_judges:  # what was found by taking it for granted is found again
        for known in [known for known, found in file.followed.items() if found and known[1] not in file.open]:
            del file.followed[known]
        file.followed[kind, name] = False
    return is_judges


def _is_of_judge(file: _File, kind: Kind, value: ast.AST) -> bool:
    check = _comes_from_judge if kind == "seed" else _is_session
    if not isinstance(value, ast.arg):
        return check(file, value)
    given = _passed(file, value)
    if given is None or not all(check(file, one) for one in given):
        return False
    return bool(given) or (kind == "session" and _is_judges(file, value))


def _is_judges(file: _File, parameter: ast.arg) -> bool:
    """Whether this is the parameter of the function `train`, which the judge calls."""
    function = file.parents.get(id(file.parents.get(id(parameter))))
    return isinstance(function, ast.FunctionDef) and function.name == "train" and function in file.tree.body


def _passed(file: _File, parameter: ast.arg) -> list[ast.expr] | None:
    """What all calls in the file pass for a parameter; None if that can't be told, as of a function that is passed on."""
    if id(parameter) not in file.passed:
        file.passed[id(parameter)] = _found_passed(file, parameter)
    return file.passed[id(parameter)]


def _found_passed(file: _File, parameter: ast.arg) -> list[ast.expr] | None:
    arguments = file.parents.get(id(parameter))
    function = file.parents.get(id(arguments))
    if not isinstance(function, ast.FunctionDef) or not isinstance(arguments, ast.arguments) or function.decorator_list:
        return None
    names = [*arguments.posonlyargs, *arguments.args]
    owner = file.parents.get(id(function))
    name = function.name
    if isinstance(owner, ast.ClassDef):  # `self` comes first, and __init__ is called by the name of its class
        names = names[1:]
        name = owner.name if name == "__init__" else name
    if parameter not in names or arguments.defaults or len(file.values[name]) > 1:
        return None
    place, given = names.index(parameter), []
    for node in walk(file.tree):
        found = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if found != name:
            continue
        call = file.parents.get(id(node))
        if not isinstance(call, ast.Call) or call.func is not node or any(isinstance(a, ast.Starred) for a in call.args):
            return None
        by_name = [keyword.value for keyword in call.keywords if keyword.arg == parameter.arg]
        if not (values := call.args[place : place + 1] or by_name):
            return None
        given += values
    return given
