"""GEMMs with fused epilogues for Hopper GPUs (persistent, warp-specialised, ping-pong), in Gluon.

One program per SM takes tile after tile of the output. A producer warp loads operands through TMA into a ring of shared memory;
two consumer warpgroups take tiles in turn, so that one runs its epilogue while the other has the tensor cores: the ping-pong
schedule of CUTLASS. Gluon is the language below Triton that can express this.

Import this module only where Triton is installed.
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
"""Rows and columns of an output tile, which a warpgroup holds in registers; for "rope_norm", the width of a head."""
BLOCK_K = 64
"""Channels per step of the main loop: 128 bytes of bfloat16, a row of swizzled shared memory."""
STAGES = 4
"""Steps in flight. Five are as fast at a width of 512, and 10 to 12% slower at 640, on an H100."""

# ----------------------------------------------------------------------------------------------------------------------
# Epilogues
# ----------------------------------------------------------------------------------------------------------------------


@gluon.constexpr_function
def _acc_layout(COLUMNS):
    """The register layout of an accumulator tile with COLUMNS columns, as the tensor cores leave it in four warps."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 16])


@gluon.jit
def _split_columns(acc):
    """The left and the right half of acc (rows, columns); no register moves."""
    half: gl.constexpr = acc.shape[1] // 2
    layout: gl.constexpr = _acc_layout(half)
    left, right = gl.split(gl.permute(gl.reshape(acc, (acc.shape[0], 2, half)), (0, 2, 1)))
    return gl.convert_layout(left, layout, assert_trivial=True), gl.convert_layout(right, layout, assert_trivial=True)


@gluon.jit
def _relu2_epilogue(acc, smem_tile, BACKWARD: gl.constexpr):
    """Writes relu(acc)^2 into smem_tile; with BACKWARD acc * 2 sqrt(a), where smem_tile holds the activations a."""
    if BACKWARD:
        activations = smem_tile.load(_acc_layout(acc.shape[1])).to(gl.float32)
        acc = acc * 2.0 * gl.sqrt(activations)
    else:
        positive = gl.maximum(acc, 0.0)
        acc = positive * positive
    smem_tile.store(acc.to(smem_tile.dtype))


@gluon.jit
def _rotated(x1, x2, angles, FIRST: gl.constexpr):
    """The pairs (x1, x2) of channels FIRST and after, rotated by `angles`, which holds cosines and then sines."""
    part: gl.constexpr = x1.shape[1]
    layout: gl.constexpr = _acc_layout(part)
    cos = angles.slice(FIRST, part, dim=1).load(layout).to(gl.float32)
    sin = angles.slice(angles.shape[1] // 2 + FIRST, part, dim=1).load(layout).to(gl.float32)
    return x1 * cos + x2 * sin, x2 * cos - x1 * sin


@gluon.jit
def _rope_norm_epilogue(x1, x2, smem_tile, EPSILON: gl.constexpr):
    """Writes one head, given by its halves x1 and x2, rotated and RMS-normed into smem_tile, which holds the angles; returns
    1 / rms of its rows.

    It works on quarters of a head, since there are too few registers for the angles of a half.
    """
    half: gl.constexpr = x1.shape[1]
    part: gl.constexpr = half // 2
    a0, a1 = _split_columns(x1)
    b0, b1 = _split_columns(x2)
    a0, b0 = _rotated(a0, b0, smem_tile, 0)
    a1, b1 = _rotated(a1, b1, smem_tile, part)
    sum_squares = gl.sum(a0 * a0 + b0 * b0, axis=1) + gl.sum(a1 * a1 + b1 * b1, axis=1)
    rstd = gl.rsqrt(sum_squares / (2 * half) + EPSILON)
    factor = gl.expand_dims(rstd, 1)
    smem_tile.slice(0, part, dim=1).store((a0 * factor).to(smem_tile.dtype))
    smem_tile.slice(part, part, dim=1).store((a1 * factor).to(smem_tile.dtype))
    smem_tile.slice(half, part, dim=1).store((b0 * factor).to(smem_tile.dtype))
    smem_tile.slice(half + part, part, dim=1).store((b1 * factor).to(smem_tile.dtype))
    return rstd


# ----------------------------------------------------------------------------------------------------------------------
# The kernel: one producer warp, two consumer warpgroups
# ----------------------------------------------------------------------------------------------------------------------


@gluon.jit
def _produce(
    x, weight, aux, buffers, barriers, tiles,
    TILES_N: gl.constexpr, STEPS: gl.constexpr, EPILOGUE: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """Loads the operands of each tile, step by step, as stages become empty, and then the `aux` tile of its epilogue."""
    x_smem, weight_smem, tile_smem = buffers
    full, empty, aux_full, tile_empty, _ = barriers
    rows: gl.constexpr = x.block_type.shape[0]
    block_k: gl.constexpr = x.block_type.shape[1]
    stages: gl.constexpr = x_smem.shape[0]
    iterations = (tiles - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    for iteration in range(iterations):
        tile = gl.program_id(0) + iteration * gl.num_programs(0)
        row = (tile // TILES_N) * rows
        column = (tile % TILES_N) * weight.block_type.shape[0]
        for step in range(STEPS):
            count = iteration * STEPS + step
            stage = count % stages
            mbarrier.wait(empty.index(stage), (count // stages & 1) ^ 1)
            mbarrier.expect(full.index(stage), x.block_type.nbytes + weight.block_type.nbytes)
            tma.async_copy_global_to_shared(x, [row, step * block_k], full.index(stage), x_smem.index(stage))
            tma.async_copy_global_to_shared(weight, [column, step * block_k], full.index(stage), weight_smem.index(stage))
        if EPILOGUE != "relu2":
            group = iteration % 2
            mbarrier.wait(tile_empty.index(group), (iteration // 2 & 1) ^ 1)
            mbarrier.expect(aux_full.index(group), aux.block_type.nbytes)
            if EPILOGUE == "rope_norm":
                row = row % TOKENS
                column = 0
            tma.async_copy_global_to_shared(aux, [row, column], aux_full.index(group), tile_smem.index(group))


@gluon.jit
def _consume(
    out, rstd_out, buffers, barriers, rows, tiles,
    GROUP: gl.constexpr, TILES_N: gl.constexpr, STEPS: gl.constexpr, EPILOGUE: gl.constexpr, EPSILON: gl.constexpr,
):  # fmt: skip
    """Computes every second tile of this program, from tile GROUP (0 or 1) on: main loop, epilogue, store.

    The barrier `order` hands the tensor cores from one warpgroup to the other. It is needed because a full or empty barrier
    distinguishes only two consecutive phases of a stage.
    """
    x_smem, weight_smem, tile_smem = buffers
    full, empty, aux_full, tile_empty, order = barriers
    height: gl.constexpr = x_smem.shape[1]
    columns: gl.constexpr = weight_smem.shape[1]
    stages: gl.constexpr = x_smem.shape[0]
    layout: gl.constexpr = _acc_layout(columns)
    smem_tile = tile_smem.index(GROUP)
    iterations = (tiles - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    for iteration in range(GROUP, iterations, 2):
        tile = gl.program_id(0) + iteration * gl.num_programs(0)
        acc = gl.zeros((height, columns), gl.float32, layout)
        mbarrier.wait(order.index(GROUP), (iteration // 2 & 1) ^ (1 - GROUP))
        for step in range(STEPS):
            count = iteration * STEPS + step
            mbarrier.wait(full.index(count % stages), count // stages & 1)
            weight_t = weight_smem.index(count % stages).permute((1, 0))
            in_flight = warpgroup_mma(x_smem.index(count % stages), weight_t, acc, is_async=True)
            acc = warpgroup_mma_wait(num_outstanding=1, deps=(in_flight,))  # the previous step has finished
            mbarrier.arrive(empty.index((count + stages - 1) % stages), pred=step > 0)
        mbarrier.arrive(order.index(1 - GROUP))
        left, right = _split_columns(warpgroup_mma_wait(num_outstanding=0, deps=(acc,)))
        mbarrier.arrive(empty.index((iteration * STEPS + STEPS - 1) % stages))
        if EPILOGUE == "relu2":
            tma.store_wait(0)
        else:
            mbarrier.wait(aux_full.index(GROUP), iteration // 2 & 1)
        if EPILOGUE == "rope_norm":
            rstd = gl.convert_layout(_rope_norm_epilogue(left, right, smem_tile, EPSILON), gl.SliceLayout(1, layout))
            row = (tile // TILES_N) * height + gl.arange(0, height, layout=gl.SliceLayout(1, layout))
            gl.store(rstd_out + row * TILES_N + tile % TILES_N, rstd, mask=row < rows)
        else:
            _relu2_epilogue(left, smem_tile.slice(0, columns // 2, dim=1), EPILOGUE == "relu2_backward")
            _relu2_epilogue(right, smem_tile.slice(columns // 2, columns // 2, dim=1), EPILOGUE == "relu2_backward")
        fence_async_shared()
        tma.async_copy_shared_to_global(out, [(tile // TILES_N) * height, (tile % TILES_N) * columns], smem_tile)
        if EPILOGUE != "relu2":
            tma.store_wait(0)
            mbarrier.arrive(tile_empty.index(GROUP))
    tma.store_wait(0)


@gluon.jit
def _barriers(COUNT: gl.constexpr):
    """COUNT initialised barriers in shared memory."""
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(COUNT):
        mbarrier.init(barriers.index(index), count=1)
    return barriers


@gluon.jit
def linear_kernel(
    x, weight, aux, out, rstd, rows,
    K: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, EPILOGUE: gl.constexpr, TOKENS: gl.constexpr,
    EPSILON: gl.constexpr,
):  # fmt: skip
    """out (rows, N) = epilogue(acc), acc = x (rows, K) @ weight (N, K).T; all except rstd are tensor descriptors.

    EPILOGUE "relu2": relu(acc)^2. "relu2_backward": acc * 2 sqrt(a), with the activations a (rows, N) in `aux`. "rope_norm":
    each head of TILE columns rotated by the angles `aux` (TOKENS, TILE), cosines and then sines, and RMS-normed; rstd (rows,
    heads) float32 gets 1 / rms. TMA reads zeros and writes nothing beyond the edges.

    Tiles of the same rows follow each other, so that these rows and all of `weight` stay in L2.
    """
    TILE_M: gl.constexpr = x.block_type.shape[0]
    TILE_N: gl.constexpr = weight.block_type.shape[0]
    BLOCK_K: gl.constexpr = x.block_type.shape[1]
    TILES_N: gl.constexpr = (N + TILE_N - 1) // TILE_N
    STEPS: gl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    tiles = (rows + TILE_M - 1) // TILE_M * TILES_N
    x_smem = gl.allocate_shared_memory(x.dtype, [STAGES, TILE_M, BLOCK_K], x.layout)
    weight_smem = gl.allocate_shared_memory(weight.dtype, [STAGES, TILE_N, BLOCK_K], weight.layout)
    tile_smem = gl.allocate_shared_memory(out.dtype, [2, TILE_M, TILE_N], out.layout)
    buffers = (x_smem, weight_smem, tile_smem)
    barriers = (_barriers(STAGES), _barriers(STAGES), _barriers(2), _barriers(2), _barriers(2))
    gl.warp_specialize(
        [
            (_consume, (out, rstd, buffers, barriers, rows, tiles, 0, TILES_N, STEPS, EPILOGUE, EPSILON)),
            (_consume, (out, rstd, buffers, barriers, rows, tiles, 1, TILES_N, STEPS, EPILOGUE, EPSILON)),
            (_produce, (x, weight, aux, buffers, barriers, tiles, TILES_N, STEPS, EPILOGUE, TOKENS)),
        ],
        [4, 1],  # warps of the second consumer and of the producer; the first consumer has the default four
        [232, 40],  # registers per thread of these, out of the 504 that three partitions share
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Launchers, called by research/kernels/fused.py
# ----------------------------------------------------------------------------------------------------------------------


def linear_relu2(x: Tensor, weight: Tensor, activations: Tensor | None, *, stages: int = STAGES) -> Tensor:
    """relu(h)^2 (M, N) of h = x (M, K) @ weight (N, K).T; with activations a (M, N), the gradient 2 h sqrt(a).

    All tensors are contiguous and bfloat16; h and the epilogue are float32.
    """
    out = x.new_empty(x.size(0), weight.size(0))
    if activations is None:
        _launch(x, weight, out, out, None, "relu2", stages=stages)
    else:
        _launch(x, weight, activations, out, None, "relu2_backward", stages=stages)
    return out


def qk_proj_rope_norm(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, epsilon: float, tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q and k (B, T, H, D) of x (B * T, C) and weight (2 * H * D, C), rotated and normed; 1 / rms (2, B * T * H) in float32.

    T is `tokens`, a multiple of TILE; D is TILE. All inputs are contiguous and bfloat16.
    """
    rows, dim = x.size(0), 2 * cos.size(1)
    heads = weight.size(0) // (2 * dim)
    q, k = (x.new_empty(rows // tokens, tokens, heads, dim) for _ in range(2))
    rstd = torch.empty(2, rows * heads, dtype=torch.float32, device=x.device)
    angles = torch.cat([cos, sin], dim=1)
    for out, part, part_rstd in zip((q, k), weight.chunk(2), rstd, strict=True):
        _launch(x, part, angles, out.view(rows, -1), part_rstd, "rope_norm", tokens=tokens, epsilon=epsilon)
    return q, k, rstd


def _launch(
    x: Tensor, weight: Tensor, aux: Tensor, out: Tensor, rstd: Tensor | None, epilogue: str, *,
    tokens: int = 0, epsilon: float = 0.0, stages: int = STAGES,
) -> None:  # fmt: skip
    """Starts linear_kernel with one program per SM."""
    (rows, k), n = x.shape, weight.size(0)
    tiles = triton.cdiv(rows, TILE) * triton.cdiv(n, TILE)
    sms = torch.cuda.get_device_properties(x.device).multi_processor_count
    linear_kernel[(min(tiles, sms),)](
        _descriptor(x, BLOCK_K), _descriptor(weight, BLOCK_K), _descriptor(aux, TILE), _descriptor(out, TILE),
        out if rstd is None else rstd, rows, K=k, N=n, STAGES=stages, EPILOGUE=epilogue, TOKENS=tokens, EPSILON=epsilon,
        num_warps=4,
    )  # fmt: skip


def _descriptor(tensor: Tensor, columns: int) -> TensorDescriptor:
    """A TMA descriptor of blocks of TILE rows and `columns` columns."""
    block = [TILE, columns]
    return TensorDescriptor.from_tensor(tensor, block, gl.NVMMASharedLayout.get_default_for(block, gl.bfloat16))
