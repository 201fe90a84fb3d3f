"""Triton's side of research/kernels/fused.py: the kernels for any NVIDIA GPU since Ampere, and how they are launched.

Imported only where Triton is there to run them. Nothing is tuned at run time: that would cost start-up, and two processes could
choose differently.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# ----------------------------------------------------------------------------------------------------------------------
# The hidden layer: one matrix product, finished in either of two ways
# ----------------------------------------------------------------------------------------------------------------------

TILE = 128
"""Rows and columns of the output that a program holds in registers: tokens, and hidden units."""
DEPTH = 32
"""Input channels in a step of the inner loop, of which STAGES are under way at once: every such GPU has the memory for them."""
STAGES = 3


@triton.jit
def hidden_kernel(
    left, right, scales, activations, out, rows,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GRADIENT: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """out (rows, HIDDEN) = finished left (rows, WIDTH) @ right (HIDDEN, WIDTH).T, a tile per program; all are contiguous.

    Finished is relu(product)^2, or for the gradient product * 2 relu(h), by `activations` = relu(h)^2; with SCALED, of rows
    multiplied by `scales` (rows,) before.
    """
    across: tl.constexpr = (HIDDEN + COLUMNS - 1) // COLUMNS
    tile = tl.program_id(0)
    row = ((tile // across) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = ((tile % across) * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    depth = tl.arange(0, DEPTH)[None, :]
    lefts = left + row * WIDTH + depth
    rights = right + column * WIDTH + depth
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        inside = depth < WIDTH - start
        a = tl.load(lefts + start, mask=(row < rows) & inside, other=0.0)
        b = tl.load(rights + start, mask=(column < HIDDEN) & inside, other=0.0)
        product = tl.dot(a, b.T, product)
    across_row = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    places = row * HIDDEN + across_row
    inside = (row < rows) & (across_row < HIDDEN)
    if SCALED:
        product *= tl.load(scales + row, mask=row < rows, other=0.0)
    if GRADIENT:
        known = tl.load(activations + places, mask=inside, other=0.0).to(tl.float32)
        product = product * 2.0 * tl.sqrt(known)
    else:
        positive = tl.maximum(product, 0.0)
        product = positive * positive
    tl.store(out + places, product.to(out.dtype.element_ty), mask=inside)


def hidden_product(left: Tensor, right: Tensor, scales: Tensor | None, activations: Tensor | None) -> Tensor:
    """As that of research/kernels/hopper_kernels.py."""
    (rows, width), hidden = left.shape, right.size(0)
    out = left.new_empty(rows, hidden)
    hidden_kernel[(triton.cdiv(rows, TILE) * triton.cdiv(hidden, TILE),)](
        left, right, out if scales is None else scales, out if activations is None else activations, out, rows,
        WIDTH=width, HIDDEN=hidden, ROWS=TILE, COLUMNS=TILE, DEPTH=DEPTH, GRADIENT=activations is not None,
        SCALED=scales is not None, num_warps=4, num_stages=STAGES,
    )  # fmt: skip
    return out


# ----------------------------------------------------------------------------------------------------------------------
# Cross-entropy of logits under a soft cap
# ----------------------------------------------------------------------------------------------------------------------

COLUMNS_PER_WARP = 2048
"""Logits of a row for each warp of its program: 64 a thread stay in registers."""
SAFE_SOFTCAP = 40.0
"""Up to here no logit is so far below the softcap that its exponential, relative to it, is lost in float32."""


@triton.jit
def cross_entropy_kernel(
    logits, targets, losses, softcap, scale,
    VOCABULARY: tl.constexpr, COLUMNS: tl.constexpr, BOUNDED: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """The loss of one row of logits (n, VOCABULARY) per program; with GRADIENT, `scale` times its gradient replaces the row.

    The whole row is in registers between its one read and its one write, in float32. It takes three exponentials and
    reciprocals for each logit: tanh is 1 - below, and with BOUNDED the exponentials are taken relative to the softcap, so
    that no maximum has to be found first.
    """
    row = tl.program_id(0).to(tl.int64)  # n * VOCABULARY can be more than 2^31
    column = tl.arange(0, COLUMNS)
    inside = column < VOCABULARY
    first = logits + row * VOCABULARY
    raw = tl.load(first + column, mask=inside, other=0.0).to(tl.float32)
    target = tl.load(targets + row)
    raw_target = tl.load(first + target).to(tl.float32)
    log2e: tl.constexpr = 1.4426950408889634
    slope_in = 2.0 * log2e / softcap
    below = 2.0 / (1.0 + tl.exp2(raw * slope_in))  # right at both ends, where exp2 is 0 or infinite
    least = 0.0 if BOUNDED else tl.min(tl.where(inside, below, 2.0), axis=0)
    weights = tl.where(inside, tl.exp2((least - below) * (softcap * log2e)), 0.0)
    total = tl.sum(weights, axis=0)
    below_target = 2.0 / (1.0 + tl.exp2(raw_target * slope_in))
    tl.store(losses + row, tl.log(total) + softcap * (below_target - least))
    if GRADIENT:
        hit = (column == target).to(tl.float32)
        slope = (weights * (scale / total) - hit * scale) * (below * (2.0 - below))
        tl.store(first + column, slope.to(logits.dtype.element_ty), mask=inside)


def cross_entropy_rows(logits: Tensor, targets: Tensor, *, softcap: float, scale: float | None, warps: int = 0) -> Tensor:
    """Losses (n,) in float32 of logits (n, V) and targets (n,); with a scale, the logits become their gradients times it."""
    rows, vocabulary = logits.shape
    columns = triton.next_power_of_2(vocabulary)
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    cross_entropy_kernel[(rows,)](
        logits, targets, losses, softcap, scale or 0.0, VOCABULARY=vocabulary, COLUMNS=columns,
        BOUNDED=softcap <= SAFE_SOFTCAP, GRADIENT=scale is not None,
        num_warps=warps or min(max(columns // COLUMNS_PER_WARP, 1), 32),
    )  # fmt: skip
    return losses


# ----------------------------------------------------------------------------------------------------------------------
# Queries and keys: rotated by their positions and normed
# ----------------------------------------------------------------------------------------------------------------------

HEADS_PER_PROGRAM = 32
"""Heads, of one token or of several, that a program takes at once."""


@triton.jit
def _places(first_row, rows, heads, tokens, DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr):
    """Of HEADS heads from `first_row` on, among all heads of all tokens: which exist, where their first halves begin in a
    tensor of queries or keys alone, and in one of both; where their angles are in the tables; all (HEADS, HALF).
    """
    row = (first_row + tl.arange(0, HEADS))[:, None]
    channel = tl.arange(0, HALF)[None, :]
    inside = (row < rows) & (channel < DIM // 2)
    token = row // heads
    alone = row.to(tl.int64) * DIM + channel
    both = (token * heads + row).to(tl.int64) * DIM + channel  # a token's queries, then its keys
    return inside, alone, both, (token % tokens) * (DIM // 2) + channel


@triton.jit
def rotary_norm_kernel(
    both, cos, sin, queries, keys, scales, rows, heads, tokens, epsilon,
    DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Rotates and norms heads of `both` (n, 2, heads, DIM) into `queries` and `keys` (n, heads, DIM), in float32 between.

    A program has HEADS heads, of the queries or (second axis of the grid) the keys; `scales` (2, n * heads) float32 gets what
    each was multiplied by. cos and sin: (tokens, DIM / 2), where n is a multiple of tokens.
    """
    half: tl.constexpr = DIM // 2
    first_row, which = tl.program_id(0) * HEADS, tl.program_id(1)
    inside, alone, place, angle = _places(first_row, rows, heads, tokens, DIM, HALF, HEADS)
    source = both + which * heads * DIM + place
    a = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    rotated_a, rotated_b = a * c + b * s, b * c - a * s
    scale = tl.rsqrt(tl.sum(rotated_a * rotated_a + rotated_b * rotated_b, axis=1) / DIM + epsilon)
    row = first_row + tl.arange(0, HEADS)
    tl.store(scales + which * rows + row, scale, mask=row < rows)
    out = queries if which == 0 else keys
    tl.store(out + alone, (rotated_a * scale[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(out + alone + half, (rotated_b * scale[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotary_norm_gradient_kernel(
    query_grads, key_grads, queries, keys, scales, cos, sin, grads, rows, heads, tokens,
    DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """The gradient `grads` of `both` above, by those of its outputs and these outputs themselves."""
    half: tl.constexpr = DIM // 2
    first_row, which = tl.program_id(0) * HEADS, tl.program_id(1)
    inside, alone, place, angle = _places(first_row, rows, heads, tokens, DIM, HALF, HEADS)
    normed = queries if which == 0 else keys
    given = query_grads if which == 0 else key_grads
    a = tl.load(normed + alone, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(normed + alone + half, mask=inside, other=0.0).to(tl.float32)
    grad_a = tl.load(given + alone, mask=inside, other=0.0).to(tl.float32)
    grad_b = tl.load(given + alone + half, mask=inside, other=0.0).to(tl.float32)
    row = first_row + tl.arange(0, HEADS)
    scale = tl.load(scales + which * rows + row, mask=row < rows, other=0.0)[:, None]
    along = (tl.sum(grad_a * a + grad_b * b, axis=1) / DIM)[:, None]
    turned_a, turned_b = scale * (grad_a - a * along), scale * (grad_b - b * along)
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    target = grads + which * heads * DIM + place
    tl.store(target, (turned_a * c - turned_b * s).to(grads.dtype.element_ty), mask=inside)
    tl.store(target + half, (turned_b * c + turned_a * s).to(grads.dtype.element_ty), mask=inside)


def rotary_norm(both: Tensor, cos: Tensor, sin: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (B, T, H, D) of both (B, T, 2, H, D), rotated and normed, and float32 scales (2, B * T * H)."""
    batch, tokens, _, heads, dim = both.shape
    rows = batch * tokens * heads
    queries, keys = (both.new_empty(batch, tokens, heads, dim) for _ in range(2))
    scales = torch.empty(2, rows, dtype=torch.float32, device=both.device)
    rotary_norm_kernel[(triton.cdiv(rows, HEADS_PER_PROGRAM), 2)](
        both, cos, sin, queries, keys, scales, rows, heads, tokens, epsilon,
        DIM=dim, HALF=triton.next_power_of_2(dim // 2), HEADS=HEADS_PER_PROGRAM, num_warps=4,
    )  # fmt: skip
    return queries, keys, scales


def rotary_norm_gradient(
    query_grads: Tensor, key_grads: Tensor, queries: Tensor, keys: Tensor, scales: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """The gradient (B, T, 2, H, D) of what `rotary_norm` had."""
    batch, tokens, heads, dim = queries.shape
    rows = batch * tokens * heads
    grads = queries.new_empty(batch, tokens, 2, heads, dim)
    rotary_norm_gradient_kernel[(triton.cdiv(rows, HEADS_PER_PROGRAM), 2)](
        query_grads, key_grads, queries, keys, scales, cos, sin, grads, rows, heads, tokens,
        DIM=dim, HALF=triton.next_power_of_2(dim // 2), HEADS=HEADS_PER_PROGRAM, num_warps=4,
    )  # fmt: skip
    return grads
