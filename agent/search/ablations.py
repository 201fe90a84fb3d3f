"""Ablations: edits that take something structural out of train.py, where its pattern is recognised.

Each is found in the syntax tree and made in the text, so that formatting and comments stay. An ablation that doesn't find
all that it has to change gives None rather than a train.py that may not run.
"""

import ast
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from research.hyperparameters import read_constants


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Something that train.py may be better, or simpler, without."""

    title: str
    hypothesis: str
    edit: Callable[[str], str | None]
    """The new text; None where the pattern isn't there."""


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A piece of the text, and what takes its place."""

    start: int
    end: int
    text: str = ""


class _Source:
    """A text with its syntax tree, and where nodes lie in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)

    def at(self, line: int, column: int) -> int:
        """The offset of a place in the tree, whose columns count bytes."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt | ast.alias | ast.arg, text: str) -> _Span:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return _Span(start=self.at(node.lineno, node.col_offset), end=self.at(end_line, end_column), text=text)

    def span_with_comment(self, node: ast.expr, text: str) -> _Span:
        """A node that ends a statement, and what its line says of it."""
        return _Span(start=self.span(node, "").start, end=self.starts[node.end_lineno or node.lineno] - 1, text=text)

    def code(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.text, node) or ""

    def without(self, statement: ast.stmt) -> _Span:
        """Cuts the whole lines of a statement."""
        return _Span(start=self.starts[statement.lineno - 1], end=self.starts[statement.end_lineno or statement.lineno])

    def without_element(self, container: ast.List | ast.Tuple, element: ast.expr) -> _Span:
        """Cuts one of several elements, with the comma and the space beside it."""
        index = container.elts.index(element)
        span = self.span(element, "")
        if index + 1 < len(container.elts):
            return _Span(start=span.start, end=self.span(container.elts[index + 1], "").start)
        return _Span(start=self.span(container.elts[index - 1], "").end, end=span.end)

    def between(self, first: ast.expr | ast.arg, last: ast.expr | ast.arg) -> _Span:
        """Cuts what follows one node up to the end of another."""
        return _Span(start=self.span(first, "").end, end=self.span(last, "").end)

    def comments_on(self, name: str, spans: list[_Span]) -> list[_Span]:
        """Cuts the comments that mention `name` from the lines that spans end in."""
        ends = {bisect(self.starts, span.end) - 1 for span in spans}
        found = ((line, re.search(rf"  # .*\b{name}\b.*", self.lines[line])) for line in ends)
        return [_Span(start=self.starts[line] + m.start(), end=self.starts[line] + m.end()) for line, m in found if m]

    def replaced(self, spans: list[_Span]) -> str:
        text = self.text
        for span in sorted(spans, key=lambda span: -span.start):
            text = text[: span.start] + span.text + text[span.end :]
        return text


def ablated(train_py: str, ablation: Ablation) -> str | None:
    """`train_py` after an ablation, without the constants that it leaves unused; None where it doesn't fit."""
    edited = ablation.edit(train_py)
    if edited is None:
        return None
    try:
        source = _Source(edited)
    except SyntaxError:
        return None
    unused = set(read_constants(edited)) & (_names_read(ast.parse(train_py)) - _names_read(source.tree))
    spans = [source.without(node) for node in source.tree.body if isinstance(node, ast.Assign) and _sets(node, unused)]
    return source.replaced(spans)


def drop_softcap(train_py: str) -> str | None:
    """Cuts `logits = CAP * torch.tanh(logits / CAP)`, and puts plain cross-entropy in the place of the capped one."""
    source = _Source(train_py)
    found = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.BinOp)
        and isinstance(node.value.op, ast.Mult)
        and isinstance(node.value.left, ast.Name)
        and _called(node.value.right) == "tanh"
        and node.value.left.id.isupper()
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in _names_read(node.value.right)
    ]
    if len(found) != 1:
        return None
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    losses = [call for call in calls if _called(call) == "softcapped_cross_entropy"]
    plain = []
    for call in losses:
        if len(call.args) != 4 or call.keywords:
            return None
        hidden, weight, targets, _ = (source.code(argument) for argument in call.args)
        text = f"F.cross_entropy(F.linear({hidden}, {weight}).float().flatten(0, -2), {targets}.flatten())"
        plain.append(source.span(call, text))
    return source.replaced([source.without(found[0]), *plain])


def drop_qk_norm(train_py: str) -> str | None:
    """Turns `q, k = norm(a), norm(b)` into `q, k = a, b`, and rotary_norm_product(x, matrices, cos, sin) into its parts
    without the norm."""
    source = _Source(train_py)
    name = "rotary_norm_product"
    fused = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call) and _called(node) == name]
    imports = [node for node in ast.walk(source.tree) if isinstance(node, ast.alias) and node.name == name]
    if len(fused) == len(imports) == 1 and len(fused[0].args) == 4 and not fused[0].keywords:
        x, matrices, cos, sin = (source.code(argument) for argument in fused[0].args)
        heads = f"F.linear({x}, matrix).unflatten(-1, (-1, HEAD_DIM))"
        plain = f"(rotate({heads}, {cos}, {sin}) for matrix in {matrices})"
        return source.replaced([source.span(imports[0], "rotate"), source.span_with_comment(fused[0], plain)])
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("()") == "q, k":
            calls = node.value.elts if isinstance(node.value, ast.Tuple) else []
            if len(calls) == 2 and all(_called(call) == "norm" for call in calls):
                inner = [call.args[0] for call in calls if isinstance(call, ast.Call) and len(call.args) == 1]
                if len(inner) == 2:
                    return source.replaced([source.span(c, source.code(i)) for c, i in zip(calls, inner, strict=True)])
    return None


def drop_cautious_mask(train_py: str) -> str | None:
    """Turns `decay * weights * (update * weights >= 0)` into `decay * weights`."""
    source = _Source(train_py)
    spans = [
        source.span(node, source.code(node.left))
        for node in ast.walk(source.tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and isinstance(node.right, ast.Compare)
        and isinstance(node.right.ops[0], (ast.GtE, ast.Gt))
        and {"update", "weights"} <= _names_read(node.right)
    ]
    return source.replaced(spans) if len(spans) == 1 else None


def drop_square(train_py: str) -> str | None:
    """Turns `F.relu(x).square()` into `F.relu(x)`, and `normed_relu_squared_mlp` into its parts without the square."""
    source = _Source(train_py)
    spans = [
        source.span(node, source.code(node.func.value))
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "square"
        and _called(node.func.value) == "relu"
    ]
    for call in ast.walk(source.tree):
        if isinstance(call, ast.Call) and _called(call) == "normed_relu_squared_mlp" and len(call.args) == 4:
            x, _, up, down = (source.code(argument) for argument in call.args)
            spans.append(source.span(call, f"F.linear(F.relu(F.linear(norm({x}), {up})), {down})"))
    return source.replaced(spans) if len(spans) == 1 else None


def drop_x0(train_py: str) -> str | None:
    """Takes the parameters `x0_lambdas` and their terms of sums out."""
    return _without_attribute(train_py, "x0_lambdas")


def drop_residual_lambdas(train_py: str) -> str | None:
    """Takes the parameters `residual_lambdas` and their factors out, and the argument `keep` that hands them on."""
    edited = _without_attribute(train_py, "residual_lambdas")
    return None if edited is None else _without_argument(edited, "keep")


def drop_value_gate(train_py: str) -> str | None:
    """Adds value embeddings with weight 1 instead of through `self.gate`."""
    source = _Source(train_py)
    guarded = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "self.gate is not None" and not node.orelse
    ]
    if len(guarded) != 1 or len(guarded[0].body) != 2:
        return None
    gate, mix = guarded[0].body
    if not isinstance(gate, ast.Assign) or ast.unparse(gate.targets[0]) != "gate" or not isinstance(mix, ast.Assign):
        return None
    factors = [
        node
        for node in ast.walk(mix.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and "gate" in _names_read(node.left)
    ]
    if len(factors) != 1 or "value_embedding" not in _names_read(factors[0].right):
        return None
    spans = [
        source.span(guarded[0].test, "value_embedding is not None"),
        source.without(gate),
        source.span(factors[0], source.code(factors[0].right)),
    ]
    return _without_attribute(source.replaced(spans), "gate")


def _without_attribute(train_py: str, name: str) -> str | None:
    """Takes a parameter's definition, initialisation, optimizer group and factor out; None if anything of it is left."""
    source = _Source(train_py)
    spans: list[_Span] = []
    for parent, child in _edges(source.tree):
        if isinstance(child, ast.stmt) and _only_about(child, name):
            if _is_alone(parent, child):
                return None
            spans.append(source.without(child))
        elif isinstance(parent, (ast.List, ast.Tuple)) and isinstance(child, ast.expr) and _mentions(child, name):
            if len(parent.elts) > 2 and not any(isinstance(n, ast.BinOp) and _mentions(n, name) for n in ast.walk(child)):
                spans.append(source.without_element(parent, child))
        elif isinstance(parent, ast.Call) and child in parent.args[1:] and _is_item(child, name):
            spans.append(source.between(parent.args[parent.args.index(child) - 1], child))
        elif isinstance(child, ast.BinOp) and isinstance(child.op, ast.Add) and _is_term(child.right, name, x0=True):
            spans.append(source.span(child, source.code(child.left)))
        elif isinstance(child, ast.BinOp) and _is_term(child, name, x0=False):
            spans.append(source.span(child, source.code(child.right)))
    edited = source.replaced(spans)
    return None if not spans or f".{name}" in edited else edited


def _without_argument(train_py: str, name: str) -> str:
    """Takes a function's last parameter out, wherever it is one: from its products and calls, and what is said there."""
    source = _Source(train_py)
    spans: list[_Span] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef) and len(node.args.args) > 1 and node.args.args[-1].arg == name:
            last = node.args.defaults[-1] if node.args.defaults else node.args.args[-1]
            spans.append(source.between(node.args.args[-2], last))
        elif isinstance(node, ast.Call) and len(node.args) > 1 and _is_name(node.args[-1], name):
            spans.append(source.between(node.args[-2], node.args[-1]))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is_name(node.left, name):
            spans.append(source.span(node, source.code(node.right)))
    return source.replaced([*spans, *source.comments_on(name, spans)])


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_term(node: ast.expr, name: str, *, x0: bool) -> bool:
    """Whether a node is `self.name[i] * x`; a term whose factor is x0 goes as a whole, else only the factor does."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    return _is_item(node.left, name) and _is_name(node.right, "x0") == x0


def _is_item(node: ast.AST, name: str) -> bool:
    """Whether a node is `self.name[i]`."""
    return isinstance(node, ast.Subscript) and _is_attribute(node.value, name)


def _is_attribute(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == name


def _only_about(statement: ast.stmt, name: str) -> bool:
    """Whether a statement defines an attribute `name`, calls one of its methods, or goes through what it holds."""
    if isinstance(statement, ast.Assign):
        return _is_attribute(statement.targets[0], name)
    if isinstance(statement, ast.For):
        return _is_attribute(statement.iter, name)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        return isinstance(function, ast.Attribute) and _is_attribute(function.value, name)
    return False


def _is_alone(parent: ast.AST, child: ast.stmt) -> bool:
    bodies = [value for _, value in ast.iter_fields(parent) if isinstance(value, list) and child in value]
    return any(len(body) == 1 for body in bodies)


def _edges(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            yield parent, child


def _mentions(node: ast.AST, attribute: str) -> bool:
    return any(isinstance(inner, ast.Attribute) and inner.attr == attribute for inner in ast.walk(node))


def _names_read(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _called(node: ast.expr) -> str | None:
    """The last name of what a call calls: `tanh` of `torch.tanh(x)`."""
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


def _sets(node: ast.Assign, names: set[str]) -> bool:
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id in names


ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        title="drop the logit softcap",
        hypothesis="The softcap costs time in every pass and squashes confident logits; short runs may not need it.",
        edit=drop_softcap,
    ),
    Ablation(
        title="drop the value-embedding gate",
        hypothesis="Value embeddings mixed in with a constant weight may learn as well, with fewer lines.",
        edit=drop_value_gate,
    ),
    Ablation(
        title="drop the residual lambdas",
        hypothesis="Scaling the residual stream per layer may not matter at this depth: less code and less work.",
        edit=drop_residual_lambdas,
    ),
    Ablation(
        title="drop the x0 lambdas",
        hypothesis="With few layers the embeddings reach every layer anyway: the extra path may be superfluous.",
        edit=drop_x0,
    ),
    Ablation(
        title="drop QK norm",
        hypothesis="Without the norms attention chooses its own sharpness and saves two passes over memory.",
        edit=drop_qk_norm,
    ),
    Ablation(
        title="drop the cautious weight-decay mask",
        hypothesis="Plain weight decay is simpler; in a short budget the mask may make no difference.",
        edit=drop_cautious_mask,
    ),
    Ablation(
        title="drop the square of the ReLU",
        hypothesis="A plain ReLU has larger gradients at the start, which may count in a short run.",
        edit=drop_square,
    ),
)
