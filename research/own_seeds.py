"""Finds the seeds that a train.py sets itself, in its text. Standard library only.

With a seed of its own all runs of a file would be alike, so that the noise could be neither seen nor averaged out. So whatever
seeds a random generator must be called by its name, with an expression that can be followed to `session.seed`. What no text
shows (numbers that a file makes without a generator) shows in scores that are too equal (results/verdict.py).
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from research.formatting import one_line
from research.valid_train_py import nodes_to_read, tree_to_read, walk

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

SEED_KEYWORDS = frozenset({"seed", "random_state", "random_seed", "rng"})
"""Keywords by which functions of other modules take a seed."""

AS_TEXT = frozenset({"seed", "random_state", "random_seed", *SEEDERS, *STATE_SETTERS}) - {"Random"}
"""Names that are refused as strings, by which `getattr` and the like reach them."""

SEED_READERS = frozenset(
    {"torch.initial_seed", "torch.random.initial_seed", "torch.cuda.initial_seed", "torch.default_generator.initial_seed"}
)
"""Functions that return the seed that the judge has set."""

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
    file = _File(tree_to_read(train_py), nodes_to_read(train_py))
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
    nodes: Sequence[ast.AST]
    """All nodes of the tree."""
    parents: dict[int, ast.AST] = field(default_factory=dict)
    """By the id of a node, the node that holds it."""
    origins: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The full names of imported names: `numpy` for `np`, `random.seed` for `seed`; several if several imports share a name."""
    values: dict[str, list[ast.AST]] = field(default_factory=lambda: defaultdict(list))
    """What a name, or an attribute as `.name`, is bound to: expressions, loops, parameters, definitions."""
    followed: dict[tuple[str, str], bool] = field(default_factory=dict)
    """What is known of names: whether each is the judge's `seed` or the `session`; True while it is being followed."""
    open: list[str] = field(default_factory=list)
    """The names that are being followed, one from another."""
    passed: dict[int, list[ast.expr] | None] = field(default_factory=dict)
    """What `_passed` has found, by the id of the parameter."""

    def __post_init__(self) -> None:
        for node in self.nodes:
            self.parents.update((id(child), node) for child in ast.iter_child_nodes(node))
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self.origins[alias.asname or first].add(alias.name if alias.asname else first)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.origins[alias.asname or alias.name].add(f"{node.module}.{alias.name}")
            else:
                for name, value in _bindings(node):
                    self.values[name].append(value)

    def full_names(self, node: ast.expr) -> set[str]:
        """`numpy.random.seed` for `np.random.seed`: what it is by any import; empty if it isn't imported."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        origins = self.origins.get(node.id, ()) if isinstance(node, ast.Name) else ()
        return {".".join([origin, *reversed(parts)]) for origin in origins}

    def may_be_random(self, node: ast.expr) -> bool:
        """Whether an expression may be an imported module that has random generators, or something in it."""
        return any(name.partition(".")[0] in RANDOM_MODULES for name in self.full_names(node))

    def is_surely(self, node: ast.expr, names: frozenset[str]) -> bool:
        """Whether an expression is imported, by one of these full names, and nothing in the file can be bound to its name."""
        first, parts = node, []
        while isinstance(first, ast.Attribute):
            parts.append(f".{first.attr}")
            first = first.value
        is_bound = any(name in self.values for name in (first.id if isinstance(first, ast.Name) else "", *parts))
        found = self.full_names(node)
        return bool(found) and found <= names and not is_bound

    def is_built_in(self, node: ast.expr, name: str) -> bool:
        """Whether an expression is this name, and the file binds nothing to it."""
        return isinstance(node, ast.Name) and node.id == name and name not in self.values and name not in self.origins


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
    annotations = {id(part) for node in file.nodes for note in _annotations(node) for part in walk(note)}
    for node in file.nodes:
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
    names = _last_names(file, call.func)
    if names & SEEDERS or _is_seed_function(file, call.func):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg != "device")]
        return bool(arguments) and all(_comes_from_judge(file, argument) for argument in arguments)
    if names & STATE_SETTERS:
        return bool(call.args) and _is_saved_state(file, call.args[0])
    if "Generator" in names and file.may_be_random(call.func):
        return _is_of_numpy(file, call.func) or _is_seeded(file, call)
    if names & NAMESPACES and call.args and (file.may_be_random(call.args[0]) or _is_session(file, call.args[0])):
        return names == {"getattr"} and len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
    seeds = [keyword for keyword in call.keywords if keyword.arg in SEED_KEYWORDS]
    return all(_takes_itself(file, call, seed) or _comes_from_judge(file, seed.value) for seed in seeds)


def _takes_itself(file: _File, call: ast.Call, keyword: ast.keyword) -> bool:
    """Whether a function of the file, called by its name or as a method of `self`, has the parameter of a keyword.

    Then what it passes on is followed.
    """
    name = keyword.arg or ""
    if isinstance(call.func, ast.Name) and call.func.id not in file.origins:
        bound = file.values.get(call.func.id, [])
        return bool(bound) and all(_has_parameter(value, name) for value in bound)
    if isinstance(call.func, ast.Attribute) and _is_self(call.func.value):
        owner = file.parents.get(id(call))
        while owner is not None and not isinstance(owner, ast.ClassDef):
            owner = file.parents.get(id(owner))
        methods = [node for node in (owner.body if owner else ()) if isinstance(node, ast.FunctionDef)]
        return any(method.name == call.func.attr and _has_parameter(method, name) for method in methods)
    return keyword.arg == "rng" and not file.full_names(call.func)


def _has_parameter(value: ast.AST, name: str) -> bool:
    """Whether a function, or a class by its __init__ or its fields, has a parameter of this name."""
    if isinstance(value, ast.ClassDef):
        fields = [node.target for node in value.body if isinstance(node, ast.AnnAssign)]
        starts = [node for node in value.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        is_field = any(isinstance(target, ast.Name) and target.id == name for target in fields)
        return any(_has_parameter(start, name) for start in starts) if starts else is_field and not value.bases
    if not isinstance(value, ast.FunctionDef | ast.Lambda):
        return False
    return any(parameter.arg == name for parameter in (*value.args.args, *value.args.kwonlyargs))


def _reference_is_fine(file: _File, node: ast.Name | ast.Attribute) -> bool:
    """Whether a name or an attribute is no seeding function that is passed on instead of called, and binds no seed."""
    parent = file.parents.get(id(node))
    is_called = isinstance(parent, ast.Call) and parent.func is node
    if isinstance(node, ast.Attribute) and node.attr in ("seed", "_seed"):  # the second is the session's own order of rows
        if isinstance(node.ctx, ast.Load):
            return node.attr == "_seed" or is_called or _is_session(file, node.value) or _is_self(node.value)
        return _is_self(node.value) and isinstance(parent, ast.Assign) and _comes_from_judge(file, parent.value)
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return not file.may_be_random(node.value) and not _is_session(file, node.value)
    if isinstance(node.ctx, ast.Load):
        if is_called or not (
            _last_names(file, node) & {*SEEDERS, *STATE_SETTERS, "Generator"} or _is_seed_function(file, node)
        ):
            return True
        return _last_names(file, node) == {"Generator"} and _is_unmade(file, node)
    return not (isinstance(node, ast.Attribute) and node.attr in SEEDERS | STATE_SETTERS | SEED_KEYWORDS - {"rng"})


def _is_unmade(file: _File, node: ast.expr) -> bool:
    """Whether a class of generators is only compared with, or can't be made without a seed, or isn't imported."""
    parent = file.parents.get(id(node))
    is_compared = isinstance(parent, ast.Call) and file.is_built_in(parent.func, "isinstance")
    return is_compared or not file.may_be_random(node) or _is_of_numpy(file, node)


def _is_of_numpy(file: _File, node: ast.expr) -> bool:
    return all(name.startswith("numpy.") for name in file.full_names(node))


def _last_names(file: _File, node: ast.expr) -> set[str]:
    """What is called: of an attribute its name, of an imported name the original; of the file's own names none."""
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.Name) and node.id in file.origins:
        return {name.rpartition(".")[2] for name in file.origins[node.id]}
    return {node.id} if isinstance(node, ast.Name) and node.id not in file.values else set()


def _is_seed_function(file: _File, node: ast.expr) -> bool:
    """Whether this is a function `seed` of a generator or a module, whatever it is called here."""
    if isinstance(node, ast.Attribute):
        return node.attr == "seed"
    return isinstance(node, ast.Name) and any(name.endswith(".seed") for name in file.origins.get(node.id, ()))


def _is_only_shown(file: _File, node: ast.Constant) -> bool:
    """Whether a string is printed, a part of a longer text, or the key of what comes from the judge."""
    parent = file.parents.get(id(node))
    if isinstance(parent, ast.Dict) and node in parent.keys:
        return _comes_from_judge(file, parent.values[parent.keys.index(node)])
    is_printed = isinstance(parent, ast.Call) and file.is_built_in(parent.func, "print")
    return is_printed or isinstance(parent, ast.JoinedStr) or node.value not in AS_TEXT


def _is_saved_state(file: _File, node: ast.expr) -> bool:
    """Whether a name or an attribute holds nothing but states that a generator had before."""
    name = node.id if isinstance(node, ast.Name) else f".{node.attr}" if isinstance(node, ast.Attribute) else ""
    bound = file.values.get(name, [])
    return name not in file.origins and bool(bound) and all(_is_state(file, value) for value in bound)


def _is_state(file: _File, value: ast.AST) -> bool:
    """Whether this asks a generator for its state, and the file defines nothing that is asked in that way."""
    names = _last_names(file, value.func) if isinstance(value, ast.Call) else set()
    return bool(names) and names <= STATE_GETTERS and not any(n in file.values or f".{n}" in file.values for n in names)


def _is_seeded(file: _File, call: ast.Call) -> bool:
    """Whether a new generator of torch, which has a seed of its own at first, is seeded at once, or by the next statement."""
    parent = file.parents.get(id(call))
    if isinstance(parent, ast.Attribute):
        return parent.attr == "manual_seed"
    targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target] if isinstance(parent, ast.AnnAssign) else []
    following = _next_statement(file, parent) if isinstance(parent, ast.stmt) else None
    seeding = following.value if isinstance(following, ast.Expr | ast.Assign | ast.Return) else None
    function = seeding.func if isinstance(seeding, ast.Call) else None
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "manual_seed"
        and ast.unparse(function.value) in {ast.unparse(target) for target in targets}
    )


def _next_statement(file: _File, statement: ast.stmt) -> ast.stmt | None:
    """The statement after one in its block."""
    owner = file.parents.get(id(statement))
    blocks = [getattr(owner, name, None) for name in ("body", "orelse", "finalbody")]
    block = next((block for block in blocks if isinstance(block, list) and statement in block), [])
    after = block[block.index(statement) + 1 :] if block else []
    return after[0] if after else None


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
        if file.is_built_in(node.func, "int"):
            return len(node.args) == 1 and _comes_from_judge(file, node.args[0])
        if file.is_surely(node.func, SEED_READERS):
            return not node.args
        is_made = file.may_be_random(node.func) and file.is_surely(node.func, frozenset(file.full_names(node.func)))
        return is_made and _last_names(file, node.func) <= SEEDERS and _call_is_fine(file, node)
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
    bound = file.values.get(node.id, []) if isinstance(node, ast.Name) and node.id not in file.origins else []
    return bool(bound) and all(_is_counted(file, value) for value in bound)


def _is_counted(file: _File, value: ast.AST) -> bool:
    if isinstance(value, ast.Constant):
        return type(value.value) is int
    loop = value.iter if isinstance(value, ast.For | ast.comprehension) and isinstance(value.target, ast.Name) else None
    return isinstance(loop, ast.Call) and file.is_built_in(loop.func, "range")


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
    is_judges = bool(bound) and name not in file.origins and all(_is_of_judge(file, kind, value) for value in bound)
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
    for node in file.nodes:
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
