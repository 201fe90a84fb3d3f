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
GRADIENT_TILES = Tiles(rows=128, columns=128, depth=64, warps=4, stages=3, pieces=4, programs=2)
"""The best on an H200 at a width of 512; at 640 they take 8% and 1.5% more than the best there."""

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

COLUMNS_PER_WARP = 1024
"""Logits of a row for each warp of its program: 32 a thread stay in registers."""


@triton.jit
def cross_entropy_kernel(
    logits, targets, losses, softcap, scale, VOCABULARY: tl.constexpr, COLUMNS: tl.constexpr, GRADIENT: tl.constexpr
):  # fmt: skip
    """The loss of one row of logits (n, VOCABULARY) per program; with GRADIENT, `scale` times its gradient replaces the row.

    The whole row is in registers between its one read and its one write, in float32.
    """
    row = tl.program_id(0).to(tl.int64)  # n * VOCABULARY can be more than 2^31
    column = tl.arange(0, COLUMNS)
    inside = column < VOCABULARY
    places = logits + row * VOCABULARY + column
    raw = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    target = tl.load(targets + row)
    tanh = 1.0 - 2.0 / (1.0 + tl.exp(raw * (2.0 / softcap)))  # right at both ends, where exp is 0 or infinite
    capped = tl.where(inside, softcap * tanh, float("-inf"))
    largest = tl.max(capped, axis=0)
    weights = tl.exp(capped - largest)
    total = tl.sum(weights, axis=0)
    hit = column == target
    tl.store(losses + row, largest + tl.log(total) - tl.sum(tl.where(hit, capped, 0.0), axis=0))
    if GRADIENT:
        slope = (weights / total - hit.to(tl.float32)) * (1.0 - tanh * tanh)
        tl.store(places, (slope * scale).to(logits.dtype.element_ty), mask=inside)


def cross_entropy_rows(logits: Tensor, targets: Tensor, *, softcap: float, scale: float | None, warps: int = 0) -> Tensor:
    """Losses (n,) in float32 of logits (n, V) and targets (n,); with a scale, the logits become their gradients times it."""
    rows, vocabulary = logits.shape
    columns = triton.next_power_of_2(vocabulary)
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    cross_entropy_kernel[(rows,)](
        logits, targets, losses, softcap, scale or 0.0, VOCABULARY=vocabulary, COLUMNS=columns, GRADIENT=scale is not None,
        num_warps=warps or min(max(columns // COLUMNS_PER_WARP, 1), 32),
    )  # fmt: skip
    return losses
