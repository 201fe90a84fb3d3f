"""Finds the seeds that a train.py sets itself, in its text. Standard library only.

With a literal seed all runs of a file would be alike, so that the noise could be neither seen nor averaged out. This finds the
habit, not an attack: a hidden seed shows in scores that are too equal (results/verdict.py).
"""

import ast
from collections.abc import Iterator

from research.formatting import one_line

SEEDING_CALLS = frozenset(
    {
        *("random.seed", "random.Random"),
        *("numpy.random.seed", "numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.SeedSequence"),
    }
)
SEEDING_METHODS = frozenset({"manual_seed", "manual_seed_all"})
"""Seeding methods of torch, torch.cuda and any generator."""

SEED_KEYWORDS = ("seed", "a")

MAX_DEPTH = 50
"""Depth of an expression above which it is not taken for a literal."""


def seed_set_by(train_py: str) -> str:
    """The first call that sets a literal seed, as a one-line reason; empty if there is none. `train_py` must parse."""
    tree = ast.parse(train_py)
    origins = _origins(tree)
    constants = _constants(tree)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _seeds_something(node.func, origins))
    for call in sorted(calls, key=lambda call: call.lineno):
        if any(_is_literal(argument, constants) for argument in _seed_arguments(call)):
            shown = one_line(ast.get_source_segment(train_py, call) or "", 60)
            return f"train.py line {call.lineno} sets its own seed ({shown}): seeds come from the judge, use session.reseed()"
    return ""


def _origins(tree: ast.Module) -> dict[str, str]:
    """The full names of imported names: `numpy` for `np`, `random.seed` for `seed`."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            origins |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return origins


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Names that are assigned exactly once in the file, with the assigned expressions."""
    found: dict[str, ast.expr] = {}
    twice = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                twice |= {target.id} & found.keys()
                found[target.id] = node.value
        if isinstance(node, ast.arg):  # a parameter of that name can have any value
            twice.add(node.arg)
    return {name: value for name, value in found.items() if name not in twice}


def _seeds_something(function: ast.expr, origins: dict[str, str]) -> bool:
    parts: list[str] = []
    node = function
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(origins.get(node.id, node.id))
    name = ".".join(reversed(parts))
    return name in SEEDING_CALLS or name.rpartition(".")[2] in SEEDING_METHODS


def _seed_arguments(call: ast.Call) -> Iterator[ast.expr]:
    yield from call.args[:1]
    yield from (keyword.value for keyword in call.keywords if keyword.arg in SEED_KEYWORDS)


def _is_literal(node: ast.expr, constants: dict[str, ast.expr], depth: int = 0) -> bool:
    """Whether an expression is constant: numbers and strings, arithmetic on them, and names that hold them."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(node, ast.Constant):
        return node.value is not None
    parts: list[ast.expr] = []
    if isinstance(node, ast.UnaryOp):
        parts = [node.operand]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Tuple | ast.List):
        parts = node.elts
    elif isinstance(node, ast.Name) and node.id in constants:
        parts = [constants[node.id]]
    return bool(parts) and all(_is_literal(part, constants, depth + 1) for part in parts)
