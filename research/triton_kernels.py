"""Triton's side of research/kernels.py: the kernels, how they are launched, and which tiles they use.

Imported only where Triton is there to run them. Nothing is tuned at run time: that would cost start-up, and two processes could
choose differently. benchmarks/kernels.py tries the candidates below; what it finds best becomes the constants below them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

# ----------------------------------------------------------------------------------------------------------------------
# Tiles
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How the hidden layer's matrix product is cut up."""

    rows: int
    """Of the output tile that one program holds in registers: tokens."""
    columns: int
    """Of that tile: hidden units."""
    depth: int
    """Input channels per step of the inner loop."""
    warps: int
    stages: int
    """Steps of the inner loop that are under way at once."""
    bulk_copies: bool = True
    """Hopper's tensor memory accelerator moves whole tiles, by programs that stay and take tile after tile; otherwise
    one program for each tile, with a pointer for each element: for any GPU, and for rows that are not of 16 bytes."""
    pieces: int = 1
    """Parts, by columns, in which a tile is finished and stored, so that one is written while the next is computed."""
    programs: int = 1
    """Programs that stay on each multiprocessor: with two, one multiplies while the other finishes a tile."""
    flatten: bool = True
    """One loop over all steps of all tiles: the next tile's operands are fetched while this one is finished."""


UP_CANDIDATES = (
    Tiles(rows=128, columns=256, depth=64, warps=8, stages=3, pieces=2),
    Tiles(rows=128, columns=256, depth=64, warps=8, stages=4, pieces=4),
    Tiles(rows=128, columns=256, depth=64, warps=8, stages=3, pieces=2, flatten=False),
    Tiles(rows=256, columns=128, depth=64, warps=8, stages=3, pieces=2),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=4, programs=2),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=2, programs=2),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=2, programs=2, flatten=False),
    Tiles(rows=128, columns=256, depth=64, warps=8, stages=3, bulk_copies=False),
)
"""What the benchmark tries for the activations. Two programs on a multiprocessor have 113 KB of shared memory each."""

GRADIENT_CANDIDATES = (
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=2, programs=2, flatten=False),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=4, programs=2, flatten=False),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=4, programs=2),
    Tiles(rows=128, columns=128, depth=64, warps=8, stages=2, pieces=2, programs=2, flatten=False),
    Tiles(rows=128, columns=256, depth=64, warps=8, stages=3, pieces=2),
    Tiles(rows=128, columns=256, depth=64, warps=8, stages=3, pieces=2, flatten=False),
    Tiles(rows=256, columns=128, depth=64, warps=8, stages=3, pieces=2),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, bulk_copies=False),
)
"""What it tries for the gradient, which also waits for a tile of activations: two programs hide that from each other."""

UP_TILES = Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=2, programs=2)
WIDE_UP_TILES = Tiles(rows=128, columns=256, depth=64, warps=8, stages=3, pieces=2)
GRADIENT_TILES = Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=4, programs=2)
"""The best at a width of 512."""

WIDE = 640
"""From this width on, up is multiplied by the wide tiles: the others take 8% (H200) to 14% (H100) more there."""

POINTER_TILES = Tiles(rows=128, columns=128, depth=32, warps=4, stages=3, bulk_copies=False)
"""For a GPU without tensor memory accelerator, in the shared memory of any since Ampere."""


# ----------------------------------------------------------------------------------------------------------------------
# The hidden layer: one matrix product, finished in either of two ways
# ----------------------------------------------------------------------------------------------------------------------


@triton.jit
def _finish(product, activations, GRADIENT: tl.constexpr):
    """What is stored of a product: relu(product)^2, or for the gradient product * 2 relu(h), by activations = relu(h)^2."""
    if GRADIENT:
        return product * 2.0 * tl.sqrt(activations.to(tl.float32))
    positive = tl.maximum(product, 0.0)
    return positive * positive


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The left and the right half of a tile (ROWS, COLUMNS)."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def _finish_and_store(product, row, column, activations, out, GRADIENT: tl.constexpr):
    """Finishes a piece of the output at (row, column) and writes it; both tensors are descriptors of blocks of its shape."""
    known = activations.load([row, column]) if GRADIENT else product
    out.store([row, column], _finish(product, known, GRADIENT).to(out.dtype))


@triton.jit
def bulk_kernel(
    left, right, activations, out, rows,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PIECES: tl.constexpr, FLATTEN: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """out (rows, HIDDEN) = finished left (rows, WIDTH) @ right (HIDDEN, WIDTH).T, all by tensor descriptors.

    `activations` and `out` have blocks of (ROWS, COLUMNS / PIECES); where a tile hangs over an edge, the hardware reads zeros
    and writes nothing. Programs take every n-th tile; a row of tiles comes after another, so that the rows of `left` that
    are being worked on, and all of `right`, stay in the second-level cache.
    """
    across: tl.constexpr = (HIDDEN + COLUMNS - 1) // COLUMNS
    steps: tl.constexpr = (WIDTH + DEPTH - 1) // DEPTH
    PIECE: tl.constexpr = COLUMNS // PIECES
    tiles = tl.cdiv(rows, ROWS) * across
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
        row = (tile // across) * ROWS
        column = (tile % across) * COLUMNS
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for step in range(steps):
            a = left.load([row, step * DEPTH])
            b = right.load([column, step * DEPTH])
            product = tl.dot(a, b.T, product)
        if PIECES == 1:
            _finish_and_store(product, row, column, activations, out, GRADIENT)
        else:
            first, second = _halves(product, ROWS, COLUMNS)
            if PIECES == 2:
                _finish_and_store(first, row, column, activations, out, GRADIENT)
                _finish_and_store(second, row, column + PIECE, activations, out, GRADIENT)
            else:
                tl.static_assert(PIECES == 4)
                a0, a1 = _halves(first, ROWS, COLUMNS // 2)
                a2, a3 = _halves(second, ROWS, COLUMNS // 2)
                _finish_and_store(a0, row, column, activations, out, GRADIENT)
                _finish_and_store(a1, row, column + PIECE, activations, out, GRADIENT)
                _finish_and_store(a2, row, column + 2 * PIECE, activations, out, GRADIENT)
                _finish_and_store(a3, row, column + 3 * PIECE, activations, out, GRADIENT)


@triton.jit
def pointer_kernel(
    left, right, activations, out, rows,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GRADIENT: tl.constexpr,
):  # fmt: skip
    """The same by pointers, one program for each tile; all matrices are contiguous."""
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
    known = tl.load(activations + places, mask=inside, other=0.0) if GRADIENT else product
    tl.store(out + places, _finish(product, known, GRADIENT).to(out.dtype.element_ty), mask=inside)


def hidden_product(left: Tensor, right: Tensor, activations: Tensor | None, tiles: Tiles) -> Tensor:
    """Of left (M, C) and right (H, C), with products h = left @ right.T: relu(h)^2 (M, H), or with activations a (M, H) the
    gradient 2 h sqrt(a). All of one half-precision type and contiguous; products and what is made of them in float32.
    """
    rows, width = left.shape
    hidden = right.size(0)
    out = torch.empty(rows, hidden, dtype=left.dtype, device=left.device)
    gradient = activations is not None
    other = out if activations is None else activations  # a descriptor is due in any case
    count = triton.cdiv(rows, tiles.rows) * triton.cdiv(hidden, tiles.columns)
    if not tiles.bulk_copies:
        pointer_kernel[(count,)](
            left, right, other, out, rows, WIDTH=width, HIDDEN=hidden, ROWS=tiles.rows, COLUMNS=tiles.columns,
            DEPTH=tiles.depth, GRADIENT=gradient, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
        return out
    piece = [tiles.rows, tiles.columns // tiles.pieces]
    bulk_kernel[(min(count, tiles.programs * multiprocessors(left.device)),)](
        TensorDescriptor.from_tensor(left, [tiles.rows, tiles.depth]),
        TensorDescriptor.from_tensor(right, [tiles.columns, tiles.depth]),
        TensorDescriptor.from_tensor(other, piece), TensorDescriptor.from_tensor(out, piece), rows,
        WIDTH=width, HIDDEN=hidden, ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, PIECES=tiles.pieces,
        FLATTEN=tiles.flatten, GRADIENT=gradient, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def usable_tiles(best: Tiles, left: Tensor, right: Tensor) -> Tiles:
    """`best`, where the GPU and the shape allow it: bulk copies are Hopper's, of rows of whole 16 bytes."""
    whole = all(size * left.element_size() % 16 == 0 for size in (left.size(1), right.size(0)))
    hopper = left.is_cuda and torch.cuda.get_device_capability(left.device)[0] == 9
    return best if whole and hopper else POINTER_TILES


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


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


HEAD_CANDIDATES = (
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, programs=2),
    Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, programs=2, flatten=False),
    Tiles(rows=128, columns=128, depth=64, warps=8, stages=3, programs=2),
    Tiles(rows=256, columns=128, depth=64, warps=8, stages=3),
)
"""What the benchmark tries for queries and keys: a tile is a head, of 128 channels, and always finished in quarters."""

HEAD_TILES = HEAD_CANDIDATES[0]
"""The best on an H100 at widths of 512 and 640."""


@triton.jit
def rotary_product_kernel(
    left, right, cos, sin, out, scales, rows, tokens, epsilon,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
    FLATTEN: tl.constexpr,
):  # fmt: skip
    """`rotary_norm_kernel` on the product left (rows, WIDTH) @ right (HEADS * DIM, WIDTH).T, which is not stored.

    All but `scales` are tensor descriptors. A tile is one head of ROWS tokens. It is finished in quarters, for which `out`
    (rows, HEADS * DIM), cos and sin (tokens, DIM / 2) have blocks of (ROWS, DIM / 4); `tokens` is a multiple of ROWS.
    """
    QUARTER: tl.constexpr = DIM // 4
    steps: tl.constexpr = (WIDTH + DEPTH - 1) // DEPTH
    tiles = tl.cdiv(rows, ROWS) * HEADS
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
        row = (tile // HEADS) * ROWS
        head = tile % HEADS
        product = tl.zeros((ROWS, DIM), tl.float32)
        for step in range(steps):
            a = left.load([row, step * DEPTH])
            b = right.load([head * DIM, step * DEPTH])
            product = tl.dot(a, b.T, product)
        left_half, right_half = _halves(product, ROWS, DIM)
        a0, a1 = _halves(left_half, ROWS, DIM // 2)
        b0, b1 = _halves(right_half, ROWS, DIM // 2)
        a0, b0 = _rotated(a0, b0, cos, sin, row % tokens, 0)
        a1, b1 = _rotated(a1, b1, cos, sin, row % tokens, QUARTER)
        squares = tl.sum(a0 * a0 + b0 * b0, axis=1) + tl.sum(a1 * a1 + b1 * b1, axis=1)
        scale = tl.rsqrt(squares / DIM + epsilon)
        out.store([row, head * DIM], (a0 * scale[:, None]).to(out.dtype))
        out.store([row, head * DIM + QUARTER], (a1 * scale[:, None]).to(out.dtype))
        out.store([row, head * DIM + 2 * QUARTER], (b0 * scale[:, None]).to(out.dtype))
        out.store([row, head * DIM + 3 * QUARTER], (b1 * scale[:, None]).to(out.dtype))
        place = row + tl.arange(0, ROWS)
        tl.store(scales + place * HEADS + head, scale, mask=place < rows)


@triton.jit
def _rotated(a, b, cos, sin, token, channel):
    c = cos.load([token, channel]).to(tl.float32)
    s = sin.load([token, channel]).to(tl.float32)
    return a * c + b * s, b * c - a * s


def rotary_product(
    left: Tensor, right: Tensor, cos: Tensor, sin: Tensor, epsilon: float, tokens: int, tiles: Tiles
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (B, T, H, D) of left (B * T, C) and right (2 * H * D, C), rotated and normed, with T = `tokens`, and
    float32 scales (2, B * T * H). All of one half-precision type and contiguous."""
    rows, width = left.shape
    dim = 2 * cos.size(1)
    heads = right.size(0) // (2 * dim)
    queries, keys = (left.new_empty(rows // tokens, tokens, heads, dim) for _ in range(2))
    scales = torch.empty(2, rows * heads, dtype=torch.float32, device=left.device)
    programs = min(triton.cdiv(rows, tiles.rows) * heads, tiles.programs * multiprocessors(left.device))
    quarter = [tiles.rows, dim // 4]
    for out, matrix, numbers in zip((queries, keys), right.chunk(2), scales, strict=True):
        rotary_product_kernel[(programs,)](
            TensorDescriptor.from_tensor(left, [tiles.rows, tiles.depth]),
            TensorDescriptor.from_tensor(matrix, [dim, tiles.depth]),
            TensorDescriptor.from_tensor(cos, quarter), TensorDescriptor.from_tensor(sin, quarter),
            TensorDescriptor.from_tensor(out.view(rows, heads * dim), quarter), numbers, rows, tokens, epsilon,
            WIDTH=width, HEADS=heads, DIM=dim, ROWS=tiles.rows, DEPTH=tiles.depth, FLATTEN=tiles.flatten,
            num_warps=tiles.warps, num_stages=tiles.stages,
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
