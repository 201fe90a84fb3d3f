"""Triton kernels of research/kernels/fused.py for any NVIDIA GPU since Ampere, and their launchers.

Import this module only where Triton is installed. Nothing is autotuned: that would cost start-up time, and two processes could
choose differently.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# ----------------------------------------------------------------------------------------------------------------------
# The MLP's hidden layer: one GEMM with either of two epilogues
# ----------------------------------------------------------------------------------------------------------------------

TILE = 128
"""Rows and columns of an output tile, which a program holds in registers."""
BLOCK_K = 32
"""Channels per step of the main loop, of which STAGES are in flight: every supported GPU has the shared memory for them."""
STAGES = 3


@triton.jit
def linear_relu2_kernel(
    x, weight, activations, out, rows,
    K: tl.constexpr, N: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BACKWARD: tl.constexpr,
):  # fmt: skip
    """out (rows, N) = relu(h)^2 of h = x (rows, K) @ weight (N, K).T, one tile per program; all tensors are contiguous.

    With BACKWARD, out = 2 h sqrt(a) with the activations a (rows, N).
    """
    tiles_n: tl.constexpr = (N + TILE_N - 1) // TILE_N
    tile = tl.program_id(0)
    row = ((tile // tiles_n) * TILE_M + tl.arange(0, TILE_M)).to(tl.int64)[:, None]
    weight_row = ((tile % tiles_n) * TILE_N + tl.arange(0, TILE_N))[:, None]
    channel = tl.arange(0, BLOCK_K)[None, :]
    x_block = x + row * K + channel
    weight_block = weight + weight_row * K + channel
    acc = tl.zeros((TILE_M, TILE_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        in_k = channel < K - start
        a = tl.load(x_block + start, mask=(row < rows) & in_k, other=0.0)
        b = tl.load(weight_block + start, mask=(weight_row < N) & in_k, other=0.0)
        acc = tl.dot(a, b.T, acc)
    column = (tile % tiles_n) * TILE_N + tl.arange(0, TILE_N)[None, :]
    offsets = row * N + column
    in_tile = (row < rows) & (column < N)
    if BACKWARD:
        acc = acc * 2.0 * tl.sqrt(tl.load(activations + offsets, mask=in_tile, other=0.0).to(tl.float32))
    else:
        positive = tl.maximum(acc, 0.0)
        acc = positive * positive
    tl.store(out + offsets, acc.to(out.dtype.element_ty), mask=in_tile)


def linear_relu2(x: Tensor, weight: Tensor, activations: Tensor | None) -> Tensor:
    """relu(h)^2 (M, N) of h = x (M, K) @ weight (N, K).T; with activations a (M, N), the gradient 2 h sqrt(a)."""
    (rows, k), n = x.shape, weight.size(0)
    out = x.new_empty(rows, n)
    linear_relu2_kernel[(triton.cdiv(rows, TILE) * triton.cdiv(n, TILE),)](
        x, weight, out if activations is None else activations, out, rows,
        K=k, N=n, TILE_M=TILE, TILE_N=TILE, BLOCK_K=BLOCK_K, BACKWARD=activations is not None, num_warps=4, num_stages=STAGES,
    )  # fmt: skip
    return out


# ----------------------------------------------------------------------------------------------------------------------
# Cross-entropy of logits under a soft cap
# ----------------------------------------------------------------------------------------------------------------------

COLUMNS_PER_WARP = 2048
"""Logits of a row per warp of its program: 64 per thread stay in registers."""
SAFE_SOFTCAP = 40.0
"""Largest softcap with which no exponential underflows in float32 when it is taken relative to the softcap."""


@triton.jit
def cross_entropy_kernel(
    logits, targets, losses, softcap, grad_scale,
    V: tl.constexpr, COLUMNS: tl.constexpr, BOUNDED: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """The loss of one row of logits (n, V) per program; with BACKWARD, its gradient times `grad_scale` overwrites the row.

    The whole row stays in registers, in float32, between its one read and its one write. tanh(x) is written as 1 - below, so
    that each logit takes three exponentials and reciprocals; with BOUNDED the exponentials are taken relative to the softcap,
    which saves finding the maximum first.
    """
    row = tl.program_id(0).to(tl.int64)  # n * V can exceed 2^31
    column = tl.arange(0, COLUMNS)
    in_row = column < V
    first = logits + row * V
    raw = tl.load(first + column, mask=in_row, other=0.0).to(tl.float32)
    target = tl.load(targets + row)
    raw_target = tl.load(first + target).to(tl.float32)
    log2e: tl.constexpr = 1.4426950408889634
    exponent_scale = 2.0 * log2e / softcap
    below = 2.0 / (1.0 + tl.exp2(raw * exponent_scale))  # correct at both ends, where exp2 is 0 or infinite
    least = 0.0 if BOUNDED else tl.min(tl.where(in_row, below, 2.0), axis=0)
    weights = tl.where(in_row, tl.exp2((least - below) * (softcap * log2e)), 0.0)
    total = tl.sum(weights, axis=0)
    below_target = 2.0 / (1.0 + tl.exp2(raw_target * exponent_scale))
    tl.store(losses + row, tl.log(total) + softcap * (below_target - least))
    if BACKWARD:
        is_target = (column == target).to(tl.float32)
        grad = (weights * (grad_scale / total) - is_target * grad_scale) * (below * (2.0 - below))
        tl.store(first + column, grad.to(logits.dtype.element_ty), mask=in_row)


def cross_entropy_rows(logits: Tensor, targets: Tensor, *, softcap: float, grad_scale: float | None, warps: int = 0) -> Tensor:
    """Losses (n,) in float32, in nats, of logits (n, V) and targets (n,).

    With a grad_scale, the gradients times it overwrite the logits. `warps` per program: 0 chooses by the vocabulary.
    """
    rows, vocabulary = logits.shape
    columns = triton.next_power_of_2(vocabulary)
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    cross_entropy_kernel[(rows,)](
        logits, targets, losses, softcap, grad_scale or 0.0, V=vocabulary, COLUMNS=columns,
        BOUNDED=softcap <= SAFE_SOFTCAP, BACKWARD=grad_scale is not None,
        num_warps=warps or min(max(columns // COLUMNS_PER_WARP, 1), 32),
    )  # fmt: skip
    return losses


# ----------------------------------------------------------------------------------------------------------------------
# Queries and keys: rotary embedding and RMS norm
# ----------------------------------------------------------------------------------------------------------------------

HEADS_PER_PROGRAM = 32
"""Heads, of one token or of several, per program."""


@triton.jit
def _offsets(first_row, rows, heads, tokens, DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr):
    """Mask and offsets, each (HEADS, HALF), for HEADS rows from `first_row` on, where a row is one head of one token: in q or k
    (n, heads, DIM), in qk (n, 2, heads, DIM), and in the tables of angles (tokens, DIM / 2).
    """
    row = (first_row + tl.arange(0, HEADS))[:, None]
    channel = tl.arange(0, HALF)[None, :]
    mask = (row < rows) & (channel < DIM // 2)
    token = row // heads
    in_q = row.to(tl.int64) * DIM + channel
    in_qk = (token * heads + row).to(tl.int64) * DIM + channel  # each token has its queries, then its keys
    return mask, in_q, in_qk, (token % tokens) * (DIM // 2) + channel


@triton.jit
def rope_norm_kernel(
    qk, cos, sin, q, k, rstd_out, rows, heads, tokens, epsilon,
    DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Rotates and norms the heads of qk (n, 2, heads, DIM) into q and k (n, heads, DIM), computing in float32.

    A program handles HEADS heads of the queries or (second axis of the grid) of the keys; rstd_out (2, n * heads) float32 gets
    their 1 / rms. cos and sin are (tokens, DIM / 2), and n is a multiple of tokens.
    """
    half: tl.constexpr = DIM // 2
    first_row, is_key = tl.program_id(0) * HEADS, tl.program_id(1)
    mask, in_q, in_qk, angle = _offsets(first_row, rows, heads, tokens, DIM, HALF, HEADS)
    source = qk + is_key * heads * DIM + in_qk
    x1 = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    y1, y2 = x1 * c + x2 * s, x2 * c - x1 * s
    rstd = tl.rsqrt(tl.sum(y1 * y1 + y2 * y2, axis=1) / DIM + epsilon)
    row = first_row + tl.arange(0, HEADS)
    tl.store(rstd_out + is_key * rows + row, rstd, mask=row < rows)
    out = q if is_key == 0 else k
    tl.store(out + in_q, (y1 * rstd[:, None]).to(out.dtype.element_ty), mask=mask)
    tl.store(out + in_q + half, (y2 * rstd[:, None]).to(out.dtype.element_ty), mask=mask)


@triton.jit
def rope_norm_backward_kernel(
    q_grad, k_grad, q, k, rstd_in, cos, sin, qk_grad, rows, heads, tokens,
    DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """The gradient qk_grad (n, 2, heads, DIM) of rope_norm_kernel, from the gradients of its outputs and these outputs."""
    half: tl.constexpr = DIM // 2
    first_row, is_key = tl.program_id(0) * HEADS, tl.program_id(1)
    mask, in_q, in_qk, angle = _offsets(first_row, rows, heads, tokens, DIM, HALF, HEADS)
    normed = q if is_key == 0 else k
    grad = q_grad if is_key == 0 else k_grad
    y1 = tl.load(normed + in_q, mask=mask, other=0.0).to(tl.float32)
    y2 = tl.load(normed + in_q + half, mask=mask, other=0.0).to(tl.float32)
    g1 = tl.load(grad + in_q, mask=mask, other=0.0).to(tl.float32)
    g2 = tl.load(grad + in_q + half, mask=mask, other=0.0).to(tl.float32)
    row = first_row + tl.arange(0, HEADS)
    rstd = tl.load(rstd_in + is_key * rows + row, mask=row < rows, other=0.0)[:, None]
    mean = (tl.sum(g1 * y1 + g2 * y2, axis=1) / DIM)[:, None]
    g1, g2 = rstd * (g1 - y1 * mean), rstd * (g2 - y2 * mean)  # before the norm
    c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    target = qk_grad + is_key * heads * DIM + in_qk
    tl.store(target, (g1 * c - g2 * s).to(qk_grad.dtype.element_ty), mask=mask)
    tl.store(target + half, (g2 * c + g1 * s).to(qk_grad.dtype.element_ty), mask=mask)


def rope_norm(qk: Tensor, cos: Tensor, sin: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """q and k (B, T, H, D) of qk (B, T, 2, H, D), rotated and normed, and 1 / rms (2, B * T * H) in float32."""
    batch, tokens, _, heads, dim = qk.shape
    rows = batch * tokens * heads
    q, k = (qk.new_empty(batch, tokens, heads, dim) for _ in range(2))
    rstd = torch.empty(2, rows, dtype=torch.float32, device=qk.device)
    rope_norm_kernel[(triton.cdiv(rows, HEADS_PER_PROGRAM), 2)](
        qk, cos, sin, q, k, rstd, rows, heads, tokens, epsilon,
        DIM=dim, HALF=triton.next_power_of_2(dim // 2), HEADS=HEADS_PER_PROGRAM, num_warps=4,
    )  # fmt: skip
    return q, k, rstd


def rope_norm_backward(q_grad: Tensor, k_grad: Tensor, q: Tensor, k: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient (B, T, 2, H, D) with respect to the qk that `rope_norm` was given."""
    batch, tokens, heads, dim = q.shape
    rows = batch * tokens * heads
    qk_grad = q.new_empty(batch, tokens, 2, heads, dim)
    rope_norm_backward_kernel[(triton.cdiv(rows, HEADS_PER_PROGRAM), 2)](
        q_grad, k_grad, q, k, rstd, cos, sin, qk_grad, rows, heads, tokens,
        DIM=dim, HALF=triton.next_power_of_2(dim // 2), HEADS=HEADS_PER_PROGRAM, num_warps=4,
    )  # fmt: skip
    return qk_grad
