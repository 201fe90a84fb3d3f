"""Matrix products that are finished before they are stored, for Hopper GPUs: Gluon's side of research/kernels/fused.py.

A program stays on each multiprocessor and takes tile after tile. One warp fetches what the tiles need, by bulk copies; two
groups of four warps take tiles in turn, so that one finishes and stores its tile while the other has the tensor cores: the
"pingpong" schedule of CUTLASS. Gluon is the language below Triton, in which that can be said. Imported only where Triton is.
"""

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

TILE = 128
"""Rows and columns of the output that four warps hold in registers; a head of queries or keys, where those are finished."""
DEPTH = 64
"""Channels in a step: of bfloat16, what a row of shared memory holds."""
STAGES = 4
"""Steps that are fetched ahead. Five are as fast at a width of 512, and 10 to 12% slower at 640, on an H100."""

# ----------------------------------------------------------------------------------------------------------------------
# The parts of a tile
# ----------------------------------------------------------------------------------------------------------------------


@gluon.constexpr_function
def _layout(COLUMNS):
    """Of a tile's columns in the registers of four warps, as the tensor cores leave them."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 16])


@gluon.jit
def _halves(values):
    """The left and the right half of values (rows, columns); nothing moves."""
    half: gl.constexpr = values.shape[1] // 2
    layout: gl.constexpr = _layout(half)
    left, right = gl.split(gl.permute(gl.reshape(values, (values.shape[0], 2, half)), (0, 2, 1)))
    return gl.convert_layout(left, layout, assert_trivial=True), gl.convert_layout(right, layout, assert_trivial=True)


@gluon.jit
def _finish(values, scale, place, FINISH: gl.constexpr, SCALED: gl.constexpr):
    """Finishes a half of a tile into its `place` in shared memory, where what is known of it lies; with FINISH "sum" returns
    its rows' sums of squares."""
    layout: gl.constexpr = _layout(values.shape[1])
    if SCALED:
        values = values * gl.expand_dims(gl.convert_layout(scale, gl.SliceLayout(1, layout)), 1)
    if FINISH == "activations":
        positive = gl.maximum(values, 0.0)
        values = positive * positive
    else:
        known = place.load(layout).to(gl.float32)
        values = values * 2.0 * gl.sqrt(known) if FINISH == "gradient" else values + known
    rounded = values.to(place.dtype)
    place.store(rounded)
    values = rounded.to(gl.float32)
    return gl.sum(values * values, axis=1)


@gluon.jit
def _rotated(a, b, angles, FIRST: gl.constexpr):
    """Pairs of channels a, b from the FIRST on, rotated by angles: their cosines, then their sines."""
    part: gl.constexpr = a.shape[1]
    layout: gl.constexpr = _layout(part)
    cos = angles.slice(FIRST, part, dim=1).load(layout).to(gl.float32)
    sin = angles.slice(angles.shape[1] // 2 + FIRST, part, dim=1).load(layout).to(gl.float32)
    return a * cos + b * sin, b * cos - a * sin


@gluon.jit
def _rotate_and_norm(first, second, place, EPSILON: gl.constexpr):
    """Finishes heads, by halves, into their `place`, where their angles lie; returns what their rows are multiplied by.

    In quarters: registers do not suffice for more angles at once.
    """
    half: gl.constexpr = first.shape[1]
    part: gl.constexpr = half // 2
    a0, a1 = _halves(first)
    b0, b1 = _halves(second)
    a0, b0 = _rotated(a0, b0, place, 0)
    a1, b1 = _rotated(a1, b1, place, part)
    squares = gl.sum(a0 * a0 + b0 * b0, axis=1) + gl.sum(a1 * a1 + b1 * b1, axis=1)
    scale = gl.rsqrt(squares / (2 * half) + EPSILON)
    factor = gl.expand_dims(scale, 1)
    place.slice(0, part, dim=1).store((a0 * factor).to(place.dtype))
    place.slice(part, part, dim=1).store((a1 * factor).to(place.dtype))
    place.slice(half, part, dim=1).store((b0 * factor).to(place.dtype))
    place.slice(half + part, part, dim=1).store((b1 * factor).to(place.dtype))
    return scale


# ----------------------------------------------------------------------------------------------------------------------
# The kernel: one warp fetches, two groups of four multiply
# ----------------------------------------------------------------------------------------------------------------------


@gluon.jit
def _fetch(
    left, right, known, buffers, barriers, tiles,
    ACROSS: gl.constexpr, STEPS: gl.constexpr, FINISH: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """Fills the stages, tile by tile, as they are emptied, and then the tile's place with what is known of it."""
    lefts, rights, places = buffers
    filled, emptied, arrived, freed, _ = barriers
    rows: gl.constexpr = left.block_type.shape[0]
    depth: gl.constexpr = left.block_type.shape[1]
    stages: gl.constexpr = lefts.shape[0]
    turns = (tiles - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    for turn in range(turns):
        tile = gl.program_id(0) + turn * gl.num_programs(0)
        row = (tile // ACROSS) * rows
        column = (tile % ACROSS) * right.block_type.shape[0]
        for step in range(STEPS):
            count = turn * STEPS + step
            stage = count % stages
            mbarrier.wait(emptied.index(stage), (count // stages & 1) ^ 1)
            mbarrier.expect(filled.index(stage), left.block_type.nbytes + right.block_type.nbytes)
            tma.async_copy_global_to_shared(left, [row, step * depth], filled.index(stage), lefts.index(stage))
            tma.async_copy_global_to_shared(right, [column, step * depth], filled.index(stage), rights.index(stage))
        if FINISH != "activations":
            which = turn % 2
            mbarrier.wait(freed.index(which), (turn // 2 & 1) ^ 1)
            mbarrier.expect(arrived.index(which), known.block_type.nbytes)
            if FINISH == "heads":
                row = row % TOKENS
                column = 0
            tma.async_copy_global_to_shared(known, [row, column], arrived.index(which), places.index(which))


@gluon.jit
def _multiply(
    out, numbers, buffers, barriers, rows, tiles,
    WHICH: gl.constexpr, ACROSS: gl.constexpr, STEPS: gl.constexpr, FINISH: gl.constexpr, SCALED: gl.constexpr,
    EPSILON: gl.constexpr,
):  # fmt: skip
    """Multiplies, finishes and stores every second tile of this program, from the first or the second (WHICH) on.

    It waits for its turn, `order`, because a barrier tells apart only two fillings of a stage that follow each other.
    """
    lefts, rights, places = buffers
    filled, emptied, arrived, freed, order = barriers
    height: gl.constexpr = lefts.shape[1]
    columns: gl.constexpr = rights.shape[1]
    stages: gl.constexpr = lefts.shape[0]
    layout: gl.constexpr = _layout(columns)
    place = places.index(WHICH)
    turns = (tiles - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    for turn in range(WHICH, turns, 2):
        tile = gl.program_id(0) + turn * gl.num_programs(0)
        token = (tile // ACROSS) * height + gl.arange(0, height, layout=gl.SliceLayout(1, layout))
        scale = gl.full((height,), 1.0, gl.float32, gl.SliceLayout(1, layout))
        if SCALED:
            scale = gl.load(numbers + token, mask=token < rows, other=0.0)
        product = gl.zeros((height, columns), gl.float32, layout)
        mbarrier.wait(order.index(WHICH), (turn // 2 & 1) ^ (1 - WHICH))
        for step in range(STEPS):
            count = turn * STEPS + step
            mbarrier.wait(filled.index(count % stages), count // stages & 1)
            right = rights.index(count % stages).permute((1, 0))
            begun = warpgroup_mma(lefts.index(count % stages), right, product, is_async=True)
            product = warpgroup_mma_wait(num_outstanding=1, deps=(begun,))  # the step before is done
            mbarrier.arrive(emptied.index((count + stages - 1) % stages), pred=step > 0)
        mbarrier.arrive(order.index(1 - WHICH))
        first, second = _halves(warpgroup_mma_wait(num_outstanding=0, deps=(product,)))
        mbarrier.arrive(emptied.index((turn * STEPS + STEPS - 1) % stages))
        if FINISH == "activations":
            tma.store_wait(0)
        else:
            mbarrier.wait(arrived.index(WHICH), turn // 2 & 1)
        if FINISH == "heads":
            scale = gl.convert_layout(_rotate_and_norm(first, second, place, EPSILON), gl.SliceLayout(1, layout))
            gl.store(numbers + token * ACROSS + tile % ACROSS, scale, mask=token < rows)
        else:
            squares = _finish(first, scale, place.slice(0, columns // 2, dim=1), FINISH, SCALED)
            squares += _finish(second, scale, place.slice(columns // 2, columns // 2, dim=1), FINISH, SCALED)
            if FINISH == "sum":
                squares = gl.convert_layout(squares, gl.SliceLayout(1, layout))
                gl.store(numbers + (tile % ACROSS) * rows + token, squares, mask=token < rows)
        fence_async_shared()
        tma.async_copy_shared_to_global(out, [(tile // ACROSS) * height, (tile % ACROSS) * columns], place)
        if FINISH != "activations":
            tma.store_wait(0)
            mbarrier.arrive(freed.index(WHICH))
    tma.store_wait(0)


@gluon.jit
def _barriers(COUNT: gl.constexpr):
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for which in gl.static_range(COUNT):
        mbarrier.init(barriers.index(which), count=1)
    return barriers


@gluon.jit
def product_kernel(
    left, right, known, out, numbers, rows,
    WIDTH: gl.constexpr, HIDDEN: gl.constexpr, STAGES: gl.constexpr, FINISH: gl.constexpr, SCALED: gl.constexpr,
    TOKENS: gl.constexpr, EPSILON: gl.constexpr,
):  # fmt: skip
    """out (rows, HIDDEN) = finished left (rows, WIDTH) @ right (HIDDEN, WIDTH).T, all by tensor descriptors but `numbers`.

    FINISH "activations": relu(product)^2, or "gradient": product * 2 relu(h), by `known` = relu(h)^2; with SCALED, of rows
    multiplied by numbers (rows,) before. "sum": known + product; numbers (HIDDEN / columns, rows) get the sums of squares along
    each tile's rows. "heads": rotated by known (TOKENS, columns), cosines and then sines, and normed; numbers (rows, heads)
    get what each was multiplied by. Where a tile hangs over an edge, bulk copies read zeros and write nothing.

    Tiles of the same rows follow each other, so that these rows and all of `right` stay in the second-level cache.
    """
    ROWS: gl.constexpr = left.block_type.shape[0]
    COLUMNS: gl.constexpr = right.block_type.shape[0]
    ACROSS: gl.constexpr = (HIDDEN + COLUMNS - 1) // COLUMNS
    STEPS: gl.constexpr = (WIDTH + left.block_type.shape[1] - 1) // left.block_type.shape[1]
    tiles = (rows + ROWS - 1) // ROWS * ACROSS
    lefts = gl.allocate_shared_memory(left.dtype, [STAGES, ROWS, left.block_type.shape[1]], left.layout)
    rights = gl.allocate_shared_memory(right.dtype, [STAGES, COLUMNS, right.block_type.shape[1]], right.layout)
    places = gl.allocate_shared_memory(out.dtype, [2, ROWS, COLUMNS], out.layout)
    buffers = (lefts, rights, places)
    barriers = (_barriers(STAGES), _barriers(STAGES), _barriers(2), _barriers(2), _barriers(2))
    gl.warp_specialize(
        [
            (_multiply, (out, numbers, buffers, barriers, rows, tiles, 0, ACROSS, STEPS, FINISH, SCALED, EPSILON)),
            (_multiply, (out, numbers, buffers, barriers, rows, tiles, 1, ACROSS, STEPS, FINISH, SCALED, EPSILON)),
            (_fetch, (left, right, known, buffers, barriers, tiles, ACROSS, STEPS, FINISH, TOKENS)),
        ],
        [4, 1],  # warps, beside the four of the first
        [232, 40],  # registers of a thread, of the 504 that three groups of warps share
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# What research/kernels/fused.py calls
# ----------------------------------------------------------------------------------------------------------------------


def hidden_product(
    left: Tensor, right: Tensor, scales: Tensor | None, activations: Tensor | None, *, stages: int = STAGES
) -> Tensor:
    """Of left (M, C) and right (H, C), with products h = left @ right.T, rows scaled by scales (M,): relu(h)^2 (M, H), or with
    activations a (M, H) the gradient 2 h sqrt(a). All contiguous and of one half-precision type but the float32 scales;
    products and what is made of them in float32.
    """
    out = left.new_empty(left.size(0), right.size(0))
    finish = "activations" if activations is None else "gradient"
    _launch(left, right, out if activations is None else activations, out, scales, finish, stages=stages)
    return out


def sum_product(base: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """base (M, N) + left (M, C) @ right (N, C).T, and the sums of squares (M,) of its rows in float32.

    All contiguous and of one half-precision type; N is a multiple of TILE.
    """
    out = torch.empty_like(base)
    squares = torch.empty(right.size(0) // TILE, left.size(0), dtype=torch.float32, device=left.device)
    _launch(left, right, base, out, squares, "sum")
    return out, squares.sum(0)


def rotary_product(
    left: Tensor, right: Tensor, cos: Tensor, sin: Tensor, epsilon: float, tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (B, T, H, D) of left (B * T, C) and right (2 * H * D, C), rotated and normed, with T = `tokens`, and
    float32 scales (2, B * T * H). All of one half-precision type and contiguous; D is TILE, and T a multiple of it."""
    rows, dim = left.size(0), 2 * cos.size(1)
    heads = right.size(0) // (2 * dim)
    queries, keys = (left.new_empty(rows // tokens, tokens, heads, dim) for _ in range(2))
    scales = torch.empty(2, rows * heads, dtype=torch.float32, device=left.device)
    angles = torch.cat([cos, sin], dim=1)
    for out, matrix, numbers in zip((queries, keys), right.chunk(2), scales, strict=True):
        _launch(left, matrix, angles, out.view(rows, -1), numbers, "heads", tokens=tokens, epsilon=epsilon)
    return queries, keys, scales


def _launch(
    left: Tensor, right: Tensor, known: Tensor, out: Tensor, numbers: Tensor | None, finish: str, *,
    tokens: int = 0, epsilon: float = 0.0, stages: int = STAGES,
) -> None:  # fmt: skip
    (rows, width), hidden = left.shape, right.size(0)
    tiles = triton.cdiv(rows, TILE) * triton.cdiv(hidden, TILE)
    programs = torch.cuda.get_device_properties(left.device).multi_processor_count
    product_kernel[(min(tiles, programs),)](
        _descriptor(left, DEPTH), _descriptor(right, DEPTH), _descriptor(known, TILE), _descriptor(out, TILE),
        out if numbers is None else numbers, rows, WIDTH=width, HIDDEN=hidden, STAGES=stages, FINISH=finish,
        SCALED=numbers is not None and finish in ("activations", "gradient"), TOKENS=tokens, EPSILON=epsilon, num_warps=4,
    )  # fmt: skip


def _descriptor(tensor: Tensor, columns: int) -> TensorDescriptor:
    """Of blocks of TILE rows and `columns`."""
    block = [TILE, columns]
    return TensorDescriptor.from_tensor(tensor, block, gl.NVMMASharedLayout.get_default_for(block, gl.bfloat16))
