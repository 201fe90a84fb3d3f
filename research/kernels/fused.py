"""Fused operators for a small GPT: RMS norm, the MLP, queries and keys, and the loss, with less traffic to memory.

Each function has the contract of the few lines of plain PyTorch that its docstring begins with, and may be replaced by them in
train.py at any time. On an NVIDIA GPU since Ampere, in bfloat16, the matrix products have fused epilogues (Triton; on Hopper
Gluon); everywhere else these functions run the plain lines.

The activation is squared ReLU (So et al., 2021, arXiv:2109.08668); computing it in the epilogue of the product that feeds it is
an idea of the modded-nanogpt speedruns. A loss that overwrites the logits with their gradient, chunk by chunk, is that of Liger
Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989). No code is taken from either.
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
EPSILON = torch.finfo(torch.float32).eps
"""Added to a mean square before its root is taken, as F.rms_norm does by default."""
MAX_VOCABULARY = 2**14
"""Largest vocabulary of the loss kernel, which holds a row of logits in registers; plain PyTorch takes over beyond it."""
CHUNK_TOKENS = 2**16
"""Tokens whose logits exist at once in the loss: 1 GiB of them at a vocabulary of 8,192."""


def rms_norm(x: Tensor) -> Tensor:
    """`F.rms_norm(x, (x.size(-1),))`, in x's dtype.

    On a GPU the backward pass uses the output instead of the input, so that autograd keeps one tensor fewer per norm.
    """
    if not uses_triton(x.device, x.dtype):
        return F.rms_norm(x, (x.size(-1),))
    normed: Tensor = _rms_norm(x)[0]
    return normed


def relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """`F.linear(F.relu(F.linear(x, up)).square(), down)`.

    Args:
        x: (..., C)
        up: (H, C), cast to the dtype of the product; its gradient has its own dtype
        down: (C, H), likewise

    Returns (..., C) in x's dtype, or in autocast's.
    """
    dtype = _matmul_dtype(x)
    if not uses_triton(x.device, dtype):
        return F.linear(F.relu(F.linear(x, up.to(x.dtype))).square(), down.to(x.dtype))
    y: Tensor = _relu2_mlp(x.to(dtype).reshape(-1, x.size(-1)), up.to(dtype), down.to(dtype))[0]
    return y.view(x.shape)


def qk_proj_rope_norm(x: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`rms_norm(apply_rotary_emb(heads(F.linear(x, weight)), cos, sin))` for queries and for keys.

    Args:
        x: (B, T, C)
        q_weight: (H * D, C), cast to the dtype of the product; its gradient has its own dtype
        k_weight: (H_kv * D, C), likewise
        cos, sin: (T, D / 2); they get no gradient

    Returns q (B, T, H, D) and k (B, T, H_kv, D) in x's dtype, or in autocast's.
    """
    dtype, tokens, dim = _matmul_dtype(x), x.size(1), 2 * cos.size(-1)
    x, cos, sin = x.to(dtype), cos.to(dtype), sin.to(dtype)
    q_weight, k_weight = q_weight.to(dtype), k_weight.to(dtype)
    if not uses_triton(x.device, dtype) or q_weight.shape != k_weight.shape:
        q, k = (apply_rotary_emb(F.linear(x, w).view(*x.shape[:2], -1, dim), cos, sin) for w in (q_weight, k_weight))
        return F.rms_norm(q, (dim,)).to(dtype), F.rms_norm(k, (dim,)).to(dtype)
    weight = torch.cat([q_weight, k_weight])
    if _fits_head_tiles(x, dim):
        q, k, _ = _qk_proj_rope_norm(x.flatten(0, 1), weight, cos, sin, tokens)
    else:
        q, k, _ = _rope_norm(F.linear(x, weight).view(*x.shape[:2], 2, -1, dim), cos, sin)
    return q, k


def softcapped_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, *, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """`F.cross_entropy(softcap * torch.tanh(F.linear(hidden, weight).float() / softcap), targets)`: mean nats per token.

    Args:
        hidden: (..., C)
        weight: (V, C), cast to the dtype of the product; its gradient has its own dtype
        targets: (...) int64 in 0..V-1; there is no ignore_index
        softcap: largest absolute value of a logit
        chunk_tokens: tokens whose logits exist at once (0: all); the plain path has no chunks

    Returns a float32 scalar. Logits are rounded to hidden's dtype, or autocast's; what follows is float32. On a GPU the forward
    pass also computes the gradients if one is needed; they can't be differentiated again.
    """
    dtype = _matmul_dtype(hidden)
    if not (uses_triton(hidden.device, dtype) and weight.size(0) <= MAX_VOCABULARY):
        logits = F.linear(hidden, weight.to(hidden.dtype)).float()
        return F.cross_entropy((softcap * torch.tanh(logits / softcap)).flatten(0, -2), targets.flatten())
    flat, targets = hidden.to(dtype).reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _loss_and_gradients(flat, weight, targets, softcap, chunk_tokens)[0]
    else:
        loss = _loss(flat, weight, targets, softcap, chunk_tokens)
    return loss


def apply_rotary_emb(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864) of x (B, T, H, D) by cos and sin (T, D / 2)."""
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


def uses_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels support a device and dtype. Not float16, whose range a squared activation can exceed."""
    return (
        HAS_TRITON
        and device.type == "cuda"
        and torch.version.hip is None
        and dtype == torch.bfloat16
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _is_hopper(device: torch.device) -> bool:
    """Whether research/kernels/hopper_kernels.py supports this GPU."""
    return torch.cuda.get_device_capability(device)[0] == 9


def _fits_tma(*sizes: int) -> bool:
    """Whether rows of these many bfloat16 numbers are a multiple of 16 bytes, which TMA requires."""
    return all(size % 8 == 0 for size in sizes)


def _fits_head_tiles(x: Tensor, dim: int) -> bool:
    """Whether the Hopper kernel can rotate and norm heads of `dim` channels of x (B, T, C): it computes whole tiles only."""
    return _is_hopper(x.device) and dim == 128 and x.size(1) % 128 == 0 and _fits_tma(x.size(2))


def _matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matmul with x runs in: autocast's, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# ----------------------------------------------------------------------------------------------------------------------
# RMS norm: a triton_op, which torch.compile traces through, so that it fuses the norm with the operations around it
# ----------------------------------------------------------------------------------------------------------------------


def _rms_norm_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """The normed x (..., C), and 1 / rms (..., 1) in float32."""
    rstd = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPSILON)
    return (x.float() * rstd).to(x.dtype), rstd


def _rms_norm_setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    normed, rstd = output
    ctx.mark_non_differentiable(rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(normed, rstd)


def _rms_norm_backward(ctx: Any, grad: Tensor | None, _: None) -> Tensor | None:
    if grad is None:
        return None
    normed, rstd = ctx.saved_tensors
    g, y = grad.float(), normed.float()
    x_grad: Tensor = rstd * (g - y * (g * y).mean(-1, keepdim=True))
    return x_grad.to(normed.dtype)


if HAS_TRITON:
    _rms_norm: Any = torch.library.triton_op("research::rms_norm", _rms_norm_forward, mutates_args=())
    _rms_norm.register_autograd(_rms_norm_backward, setup_context=_rms_norm_setup_context)


# ----------------------------------------------------------------------------------------------------------------------
# MLP: a = relu(h)^2 is stored, h is not; the backward pass gets relu(h) as sqrt(a)
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("research::relu2_mlp", mutates_args=())
def _relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """y (M, C) and the activations a (M, H), from x (M, C), up (H, C) and down (C, H)."""
    activations = _linear_relu2(x, up, None)
    return torch.mm(activations, down.t()), activations


@torch.library.custom_op("research::relu2_backward", mutates_args=())
def _relu2_backward(grad: Tensor, down: Tensor, activations: Tensor) -> Tensor:
    """The gradient (M, H) with respect to h, from that of y (M, C), down (C, H) and the activations (M, H)."""
    return _linear_relu2(grad, down.t(), activations)  # down is small: transposed, one kernel serves both directions


def _linear_relu2(x: Tensor, weight: Tensor, activations: Tensor | None) -> Tensor:
    """The product h = x @ weight.T with its epilogue: relu(h)^2, or with activations a its gradient, 2 h sqrt(a)."""
    x, weight = x.contiguous(), weight.contiguous()
    activations = None if activations is None else activations.contiguous()
    if _is_hopper(x.device) and _fits_tma(x.size(1), weight.size(0)):
        from research.kernels import hopper_kernels

        return hopper_kernels.linear_relu2(x, weight, activations)
    from research.kernels import triton_kernels

    return triton_kernels.linear_relu2(x, weight, activations)


@_relu2_mlp.register_fake
def _(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.size(0), down.size(0)), x.new_empty(x.size(0), up.size(0))


@_relu2_backward.register_fake
def _(grad: Tensor, down: Tensor, activations: Tensor) -> Tensor:
    return grad.new_empty(activations.shape)


def _relu2_mlp_setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, activations = output
    ctx.mark_non_differentiable(activations)
    ctx.set_materialize_grads(False)  # zeros for the activations would take as much memory as they do
    ctx.save_for_backward(*inputs, activations)


def _relu2_mlp_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    x, up, down, activations = ctx.saved_tensors
    needs_x, needs_up, needs_down = ctx.needs_input_grad
    down_grad = torch.mm(grad.t(), activations) if needs_down else None  # first: the compiler then stores grad once, for both
    hidden_grad = _relu2_backward(grad, down, activations)
    x_grad = torch.mm(hidden_grad, up) if needs_x else None
    return x_grad, torch.mm(hidden_grad.t(), x) if needs_up else None, down_grad


_relu2_mlp.register_autograd(_relu2_mlp_backward, setup_context=_relu2_mlp_setup_context)


# ----------------------------------------------------------------------------------------------------------------------
# Loss: bfloat16 logits are read once, and overwritten with their gradients
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("research::softcapped_loss", mutates_args=())
def _loss(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, chunk_tokens: int) -> Tensor:
    """The mean loss, from hidden (n, C), weight (V, C) in any dtype, and targets (n,)."""
    from research.kernels.triton_kernels import cross_entropy_rows

    weight, targets = weight.to(hidden.dtype), targets.contiguous()
    losses = [
        cross_entropy_rows(torch.mm(hidden[chunk], weight.t()), targets[chunk], softcap=softcap, grad_scale=None)
        for chunk in _chunks(hidden.size(0), chunk_tokens)
    ]
    return torch.cat(losses).mean()


@torch.library.custom_op("research::softcapped_loss_and_gradients", mutates_args=())
def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, chunk_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss and its gradients: that of hidden in hidden's dtype, that of weight in float32.

    The chunks' gradients of the weight are summed in float32, since bfloat16 would round the sum once per chunk; at V * C
    numbers that costs next to nothing.
    """
    from research.kernels.triton_kernels import cross_entropy_rows

    half, targets = weight.to(hidden.dtype), targets.contiguous()
    tokens = hidden.size(0)
    hidden_grad = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    weight_grad: Tensor | None = None
    losses = []
    for chunk in _chunks(tokens, chunk_tokens):
        logits = torch.mm(hidden[chunk], half.t())
        losses.append(cross_entropy_rows(logits, targets[chunk], softcap=softcap, grad_scale=1 / tokens))
        logits_grad = logits  # overwritten in place
        torch.mm(logits_grad, half, out=hidden_grad[chunk])
        part = _mm_float32(logits_grad.t(), hidden[chunk])
        weight_grad = part if weight_grad is None else weight_grad.add_(part)
    assert weight_grad is not None, "a loss needs at least one token"
    return torch.cat(losses).mean(), hidden_grad, weight_grad


def _chunks(tokens: int, size: int) -> list[slice]:
    """Slices of `size` tokens each, the last one possibly shorter; a single slice for a size of 0."""
    size = size or tokens
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _mm_float32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with bfloat16 factors and a float32 result."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.mm(a.float(), b.float())


@_loss.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, chunk_tokens: int) -> Tensor:
    return hidden.new_empty((), dtype=torch.float32)


@_loss_and_gradients.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, chunk_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden.new_empty((), dtype=torch.float32),
        hidden.new_empty(hidden.shape),
        weight.new_empty(weight.shape, dtype=torch.float32),
    )


def _loss_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, hidden_grad, weight_grad = output
    ctx.mark_non_differentiable(hidden_grad, weight_grad)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden_grad, weight_grad)
    ctx.weight_dtype = inputs[1].dtype


def _loss_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    """The stored gradients times a scalar, which torch.compile fuses with what follows."""
    if grad is None:
        return (None,) * 5
    hidden_grad, weight_grad = ctx.saved_tensors
    return hidden_grad * grad, (weight_grad * grad).to(ctx.weight_dtype), None, None, None


_loss_and_gradients.register_autograd(_loss_backward, setup_context=_loss_setup_context)


# ----------------------------------------------------------------------------------------------------------------------
# Queries and keys: one pass each way; the backward pass needs the outputs and one float32 number per head
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("research::rope_norm", mutates_args=())
def _rope_norm(qk: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q and k (B, T, H, D) of qk (B, T, 2, H, D), rotated and normed, and 1 / rms (2, B * T * H) in float32."""
    from research.kernels import triton_kernels

    return triton_kernels.rope_norm(qk.contiguous(), cos.contiguous(), sin.contiguous(), EPSILON)


@torch.library.custom_op("research::rope_norm_backward", mutates_args=())
def _rope_norm_backward(q_grad: Tensor, k_grad: Tensor, q: Tensor, k: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient (B, T, 2, H, D) with respect to qk, from those of q and k, and from q, k and 1 / rms."""
    from research.kernels import triton_kernels

    tensors = (q_grad, k_grad, q, k, rstd, cos, sin)
    return triton_kernels.rope_norm_backward(*(tensor.contiguous() for tensor in tensors))


@_rope_norm.register_fake
def _(qk: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, _, heads, dim = qk.shape
    q, k = (qk.new_empty(batch, tokens, heads, dim) for _ in range(2))
    return q, k, qk.new_empty((2, batch * tokens * heads), dtype=torch.float32)


@_rope_norm_backward.register_fake
def _(q_grad: Tensor, k_grad: Tensor, q: Tensor, k: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, tokens, heads, dim = q.shape
    return q.new_empty(batch, tokens, 2, heads, dim)


def _rope_norm_setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _keep_qk(ctx, output, inputs[1:])


def _keep_qk(ctx: Any, output: tuple[Tensor, Tensor, Tensor], others: tuple[Tensor, ...]) -> None:
    """Saves q, k, 1 / rms and `others` for the backward pass; only q and k have gradients."""
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output, *others)


def _qk_grad(q_grad: Tensor | None, k_grad: Tensor | None, q: Tensor, k: Tensor, *others: Tensor) -> Tensor | None:
    """The gradient (B, T, 2, H, D) with respect to qk; None if neither q nor k has one."""
    if q_grad is None and k_grad is None:
        return None
    q_grad = torch.zeros_like(q) if q_grad is None else q_grad
    k_grad = torch.zeros_like(k) if k_grad is None else k_grad
    gradient: Tensor = _rope_norm_backward(q_grad, k_grad, q, k, *others)
    return gradient


def _rope_norm_autograd(ctx: Any, q_grad: Tensor | None, k_grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    return _qk_grad(q_grad, k_grad, *ctx.saved_tensors), None, None


_rope_norm.register_autograd(_rope_norm_autograd, setup_context=_rope_norm_setup_context)


@torch.library.custom_op("research::qk_proj_rope_norm", mutates_args=())
def _qk_proj_rope_norm(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """q and k (B, T, H, D) of x (B * T, C) and weight (2 * H * D, C), with T = `tokens`, and 1 / rms in float32."""
    from research.kernels.hopper_kernels import qk_proj_rope_norm

    x, weight, cos, sin = (tensor.contiguous() for tensor in (x, weight, cos, sin))
    return qk_proj_rope_norm(x, weight, cos, sin, EPSILON, tokens)


@_qk_proj_rope_norm.register_fake
def _(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    dim = 2 * cos.size(1)
    heads = weight.size(0) // (2 * dim)
    q, k = (x.new_empty(x.size(0) // tokens, tokens, heads, dim) for _ in range(2))
    return q, k, x.new_empty((2, x.size(0) * heads), dtype=torch.float32)


def _qk_proj_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, cos, sin, _ = inputs
    _keep_qk(ctx, output, (cos, sin, x, weight))


def _qk_proj_backward(ctx: Any, q_grad: Tensor | None, k_grad: Tensor | None, _: None) -> tuple[Any, ...]:
    *saved, x, weight = ctx.saved_tensors
    grads = _qk_grad(q_grad, k_grad, *saved)
    if grads is None:
        return (None,) * 5
    flat = grads.view(x.size(0), -1)
    needs_x, needs_weight, *_ = ctx.needs_input_grad
    return torch.mm(flat, weight) if needs_x else None, torch.mm(flat.t(), x) if needs_weight else None, None, None, None


_qk_proj_rope_norm.register_autograd(_qk_proj_backward, setup_context=_qk_proj_setup_context)
