"""The costliest parts of a small GPT around attention, with less traffic to memory: the MLP, the loss, and rotary QK norm.

On an NVIDIA GPU since Ampere, in bfloat16, Triton kernels do the parts that a matrix product and a pass over its output share;
the other products stay with cuBLAS. Anywhere else, the same functions are plain torch. Plumbing, not policy: train.py may
replace it by its own.

The activation is squared ReLU (So et al., 2021, arXiv:2109.08668); finishing it inside the product that feeds it is an idea of
the modded-nanogpt speedruns. That a loss can leave its gradient in the place of the logits, and go through the tokens in
chunks, is that of Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989). No code is theirs.
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
MAX_VOCABULARY = 2**14
"""A row of logits is held in registers; from 2^15 on they do not suffice, and plain torch takes over."""
CHUNK_TOKENS = 2**16
"""Tokens whose logits exist at once, in the loss: 1 GiB of them at a vocabulary of 8,192."""


def added_product(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """x + y @ weight.T, for x (..., N), y (..., C) and weight (N, C), and 1 / rms of each of its rows (...) in float32, with
    which `normed_relu_squared_mlp` norms them; None where plain torch computes the sum, and leaves that to rms_norm.

    In x's dtype; the weight is cast to that of the product, and gets its gradient in its own. On a Hopper GPU product, sum and
    squares are computed in float32.
    """
    dtype = _dtype_of(y)
    if not (runs_triton(x.device, dtype) and x.dtype == dtype and _adds_in_product(weight)):
        return (x + F.linear(y, weight.to(y.dtype))).to(x.dtype), None
    flat = x.reshape(-1, x.size(-1))
    total, squares = _added_product(flat, y.to(dtype).reshape(-1, y.size(-1)), weight.to(dtype))
    return total.view(x.shape), torch.rsqrt(squares / x.size(-1) + EPSILON).view(x.shape[:-1])


def normed_relu_squared_mlp(x: Tensor, scale: Tensor | None, up: Tensor, down: Tensor) -> Tensor:
    """relu(norm(x) @ up.T)^2 @ down.T, for x (..., C), up (H, C) and down (C, H); returns (..., C).

    Norm is RMS norm. With a `scale` (...), norm(x) is scale * x, and never stored; to both flow gradients. In x's dtype, or
    that of autocast where it is on; the weights are cast to it, and get gradients in their own.
    """
    dtype = _dtype_of(x)
    triton = runs_triton(x.device, dtype)
    if scale is None:
        x = F.rms_norm(x, (x.size(-1),))
    elif not triton:
        x, scale = (scale.unsqueeze(-1) * x).to(x.dtype), None
    if not triton:
        return F.linear(F.relu(F.linear(x, up.to(x.dtype))).square(), down.to(x.dtype))
    flat = x.to(dtype).reshape(-1, x.size(-1))
    y: Tensor = _mlp(flat, None if scale is None else scale.expand(x.shape[:-1]).reshape(-1), up.to(dtype), down.to(dtype))[0]
    return y.view(x.shape)


def softcapped_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, *, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """Mean cross-entropy in nats of the logits softcap * tanh(hidden @ weight.T / softcap); a float32 scalar.

    hidden (..., C), weight (V, C), targets (...) int64 with values in 0..V-1: none is ignored. Logits are rounded to hidden's
    dtype, or that of autocast where it is on; what follows is float32. `chunk_tokens` limits how many tokens' logits exist
    at once (0: no limit); the plain path has no chunks.

    On the Triton path a forward pass that may be followed by a backward one does the work of both; gradients can be taken
    once, not differentiated again.
    """
    dtype = _dtype_of(hidden)
    if not (runs_triton(hidden.device, dtype) and weight.size(0) <= MAX_VOCABULARY):
        logits = F.linear(hidden, weight.to(hidden.dtype)).float()
        return F.cross_entropy((softcap * torch.tanh(logits / softcap)).flatten(0, -2), targets.flatten())
    flat, targets = hidden.to(dtype).reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _loss_and_gradients(flat, weight, targets, softcap, chunk_tokens)[0]
    else:
        loss = _loss(flat, weight, targets, softcap, chunk_tokens)
    return loss


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864) of x (B, T, H, D) by cos and sin (T, D / 2)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def rotary_norm(both: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of both (B, T, 2, H, D), rotated by cos and sin (T, D / 2) and then RMS-normed over D: two (B, T, H, D).

    In the dtype of `both`; no gradient flows to cos and sin.
    """
    if not runs_triton(both.device, both.dtype):
        q, k = (F.rms_norm(rotate(x, cos, sin), (x.size(-1),)) for x in both.unbind(2))
        return q.to(both.dtype), k.to(both.dtype)
    queries, keys, _ = _rotary_norm(both, cos, sin)
    return queries, keys


def rotary_norm_product(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, two (B, T, H, D): `rotary_norm` of the heads of x (B, T, C) @ weight[i].T, for weight (2, H * D, C).

    In x's dtype, or that of autocast where it is on; cos and sin (T, D / 2).
    """
    dtype, tokens, dim = _dtype_of(x), x.size(1), 2 * cos.size(-1)
    shape = (x.size(0), tokens, weight.size(1) // dim, dim)
    matrix = weight.to(dtype).flatten(0, 1)
    if not (runs_triton(x.device, dtype) and _finishes_heads(x, dim)):
        return rotary_norm(F.linear(x.to(dtype), matrix).view(*shape[:2], 2, *shape[2:]), cos, sin)
    queries, keys, _ = _rotary_norm_product(x.to(dtype).flatten(0, 1), matrix, cos.to(dtype), sin.to(dtype), tokens)
    return queries, keys


def runs_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels serve `device` and `dtype`. Not float16: a squared activation could be beyond its range."""
    return (
        HAS_TRITON
        and device.type == "cuda"
        and torch.version.hip is None
        and dtype == torch.bfloat16
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _is_hopper(device: torch.device) -> bool:
    """Whether research/kernels/hopper_kernels.py is written for this GPU."""
    return torch.cuda.get_device_capability(device)[0] == 9


def _whole_16_bytes(*sizes: int) -> bool:
    """Whether rows of so many half-precision numbers are such, as bulk copies want them."""
    return all(size % 8 == 0 for size in sizes)


def _adds_in_product(weight: Tensor) -> bool:
    """Whether one kernel multiplies by weight (N, C) and adds: for whole tiles."""
    return _is_hopper(weight.device) and weight.size(0) % 128 == 0 and _whole_16_bytes(weight.size(1))


def _finishes_heads(x: Tensor, dim: int) -> bool:
    """Whether one kernel multiplies, rotates and norms: for whole tiles of heads of 128 channels."""
    return _is_hopper(x.device) and dim == 128 and x.size(1) % 128 == 0 and _whole_16_bytes(x.size(2))


def _dtype_of(x: Tensor) -> torch.dtype:
    """In which a matrix product with x is computed here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# ----------------------------------------------------------------------------------------------------------------------
# MLP: h is never stored; a = relu(h)^2 is, and the backward pass knows relu(h) = sqrt(a) from it
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("research::relu_squared_mlp", mutates_args=())
def _mlp(x: Tensor, scale: Tensor | None, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """y (M, C) and the activations a (M, H) of x (M, C), scaled by scale (M,) in float32, up (H, C) and down (C, H)."""
    activations = _hidden_product(x, up, scale, None)
    return torch.mm(activations, down.t()), activations


@torch.library.custom_op("research::relu_squared_gradient", mutates_args=())
def _hidden_gradient(grad: Tensor, scale: Tensor | None, down: Tensor, activations: Tensor) -> Tensor:
    """The gradient (M, H) of h / scale, by that of y (M, C), scale (M,), down (C, H) and a (M, H)."""
    return _hidden_product(grad, down.t(), scale, activations)  # down is small; with it, one kernel serves both directions


def _hidden_product(left: Tensor, right: Tensor, scale: Tensor | None, activations: Tensor | None) -> Tensor:
    left, right = left.contiguous(), right.contiguous()
    scale = None if scale is None else scale.contiguous()
    activations = None if activations is None else activations.contiguous()
    if _is_hopper(left.device) and _whole_16_bytes(left.size(1), right.size(0)):
        from research.kernels import hopper_kernels as hopper_products

        return hopper_products.hidden_product(left, right, scale, activations)
    from research.kernels import triton_kernels

    return triton_kernels.hidden_product(left, right, scale, activations)


@_mlp.register_fake
def _(x: Tensor, scale: Tensor | None, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.size(0), down.size(0)), x.new_empty(x.size(0), up.size(0))


@_hidden_gradient.register_fake
def _(grad: Tensor, scale: Tensor | None, down: Tensor, activations: Tensor) -> Tensor:
    return grad.new_empty(activations.shape)


def _remember_mlp(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    _, activations = output
    ctx.mark_non_differentiable(activations)
    ctx.set_materialize_grads(False)  # zeros for the activations would take as much memory as they do
    ctx.save_for_backward(*inputs, activations)


def _mlp_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    x, scale, up, down, activations = ctx.saved_tensors
    needs_x, needs_scale, needs_up, needs_down = ctx.needs_input_grad
    down_grad = torch.mm(grad.t(), activations) if needs_down else None  # first: the compiler stores grad once, for both
    hidden_grad = _hidden_gradient(grad, scale, down, activations)
    x_grad = torch.mm(hidden_grad, up)
    along = (x_grad.float() * x.float()).sum(1) if needs_scale else None
    scale_grad = None if along is None else torch.where(scale == 0, 0.0, along / scale)
    return x_grad if needs_x else None, scale_grad, torch.mm(hidden_grad.t(), x) if needs_up else None, down_grad


_mlp.register_autograd(_mlp_backward, setup_context=_remember_mlp)


# ----------------------------------------------------------------------------------------------------------------------
# The residual stream and what a layer adds to it
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("research::added_product", mutates_args=())
def _added_product(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, N) + y (M, C) @ weight (N, C).T, and its rows' sums of squares (M,) in float32."""
    from research.kernels.hopper_kernels import sum_product

    return sum_product(x.contiguous(), y.contiguous(), weight.contiguous())


@_added_product.register_fake
def _(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.size(0), dtype=torch.float32)


def _remember_added_product(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, y, weight = inputs
    ctx.save_for_backward(y, weight, output[0])


def _added_product_backward(ctx: Any, grad: Tensor, squares_grad: Tensor) -> tuple[Tensor | None, ...]:
    y, weight, total = ctx.saved_tensors
    needs_x, needs_y, needs_weight = ctx.needs_input_grad
    grad = (grad.float() + 2 * squares_grad.unsqueeze(1) * total.float()).to(grad.dtype)
    return (
        grad if needs_x else None,
        torch.mm(grad, weight) if needs_y else None,
        torch.mm(grad.t(), y) if needs_weight else None,
    )


_added_product.register_autograd(_added_product_backward, setup_context=_remember_added_product)


# ----------------------------------------------------------------------------------------------------------------------
# Loss: half-precision logits are read once, and their gradients written in their place
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("research::softcapped_loss", mutates_args=())
def _loss(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, chunk_tokens: int) -> Tensor:
    """The mean loss, of hidden (n, C), weight (V, C) in any dtype, and targets (n,)."""
    from research.kernels.triton_kernels import cross_entropy_rows

    weight, targets = weight.to(hidden.dtype), targets.contiguous()
    losses = [
        cross_entropy_rows(torch.mm(hidden[chunk], weight.t()), targets[chunk], softcap=softcap, scale=None)
        for chunk in _chunks(hidden.size(0), chunk_tokens)
    ]
    return torch.cat(losses).mean()


@torch.library.custom_op("research::softcapped_loss_and_gradients", mutates_args=())
def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, chunk_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss and its gradients: of hidden in its dtype, of weight in float32.

    The chunks' gradients of the weight are added in float32, because bfloat16 would round the sum once a chunk; at V * C
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
        losses.append(cross_entropy_rows(logits, targets[chunk], softcap=softcap, scale=1 / tokens))
        torch.mm(logits, half, out=hidden_grad[chunk])  # the logits have become their gradients
        part = _mm_float32(logits.t(), hidden[chunk])
        weight_grad = part if weight_grad is None else weight_grad.add_(part)
    assert weight_grad is not None, "a loss needs a token"
    return torch.cat(losses).mean(), hidden_grad, weight_grad


def _chunks(tokens: int, size: int) -> list[slice]:
    """Of `size` tokens each, the last maybe shorter; one of all for a size of 0."""
    size = size or tokens
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _mm_float32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with half-precision factors and a float32 result."""
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


def _remember_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, hidden_grad, weight_grad = output
    ctx.mark_non_differentiable(hidden_grad, weight_grad)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden_grad, weight_grad)
    ctx.weight_dtype = inputs[1].dtype


def _loss_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    """Only a scalar is left to multiply by; torch.compile makes that part of what comes next."""
    if grad is None:
        return (None,) * 5
    hidden_grad, weight_grad = ctx.saved_tensors
    return hidden_grad * grad, (weight_grad * grad).to(ctx.weight_dtype), None, None, None


_loss_and_gradients.register_autograd(_loss_backward, setup_context=_remember_gradients)


# ----------------------------------------------------------------------------------------------------------------------
# Queries and keys: one pass each way; the gradient needs what went into attention and a number per head, nothing else
# ----------------------------------------------------------------------------------------------------------------------

EPSILON = torch.finfo(torch.float32).eps
"""What keeps a head, or a row of the stream, finite where it is all zeros."""


@torch.library.custom_op("research::rotary_norm", mutates_args=())
def _rotary_norm(both: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and float32 scales (2, B * T * H)."""
    from research.kernels import triton_kernels

    return triton_kernels.rotary_norm(both.contiguous(), cos.contiguous(), sin.contiguous(), EPSILON)


@torch.library.custom_op("research::rotary_norm_gradient", mutates_args=())
def _rotary_norm_gradient(
    query_grads: Tensor, key_grads: Tensor, queries: Tensor, keys: Tensor, scales: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    from research.kernels import triton_kernels

    tensors = (query_grads, key_grads, queries, keys, scales, cos, sin)
    return triton_kernels.rotary_norm_gradient(*(tensor.contiguous() for tensor in tensors))


@_rotary_norm.register_fake
def _(both: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, _, heads, dim = both.shape
    queries, keys = (both.new_empty(batch, tokens, heads, dim) for _ in range(2))
    return queries, keys, both.new_empty((2, batch * tokens * heads), dtype=torch.float32)


@_rotary_norm_gradient.register_fake
def _(query_grads: Tensor, key_grads: Tensor, queries: Tensor, keys: Tensor, scales: Tensor, cos: Tensor,
      sin: Tensor) -> Tensor:  # fmt: skip
    batch, tokens, heads, dim = queries.shape
    return queries.new_empty(batch, tokens, 2, heads, dim)


def _remember_rotary_norm(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    queries, keys, scales = output
    ctx.mark_non_differentiable(scales)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(queries, keys, scales, *inputs[1:])


def _rotary_norm_backward(ctx: Any, query_grads: Tensor | None, key_grads: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    return _gradient_before_rotation(query_grads, key_grads, *ctx.saved_tensors), None, None


def _gradient_before_rotation(
    query_grads: Tensor | None, key_grads: Tensor | None, queries: Tensor, keys: Tensor, scales: Tensor, *angles: Tensor
) -> Tensor | None:
    """(B, T, 2, H, D); None without gradients."""
    if query_grads is None and key_grads is None:
        return None
    query_grads = torch.zeros_like(queries) if query_grads is None else query_grads
    key_grads = torch.zeros_like(keys) if key_grads is None else key_grads
    gradient: Tensor = _rotary_norm_gradient(query_grads, key_grads, queries, keys, scales, *angles)
    return gradient


_rotary_norm.register_autograd(_rotary_norm_backward, setup_context=_remember_rotary_norm)


@torch.library.custom_op("research::rotary_norm_product", mutates_args=())
def _rotary_norm_product(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (B, T, H, D) of x (B * T, C) and weight (2 * H * D, C), and float32 scales."""
    from research.kernels.hopper_kernels import rotary_product

    x, weight, cos, sin = (tensor.contiguous() for tensor in (x, weight, cos, sin))
    return rotary_product(x, weight, cos, sin, EPSILON, tokens)


@_rotary_norm_product.register_fake
def _(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    dim = 2 * cos.size(1)
    heads = weight.size(0) // (2 * dim)
    queries, keys = (x.new_empty(x.size(0) // tokens, tokens, heads, dim) for _ in range(2))
    return queries, keys, x.new_empty((2, x.size(0) * heads), dtype=torch.float32)


def _remember_rotary_norm_product(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, *angles, _ = inputs
    _remember_rotary_norm(ctx, (weight, *angles), output)
    ctx.save_for_backward(*output, *angles, x, weight)


def _rotary_norm_product_backward(ctx: Any, query_grads: Tensor | None, key_grads: Tensor | None, _: None) -> tuple[Any, ...]:
    *saved, x, weight = ctx.saved_tensors
    grads = _gradient_before_rotation(query_grads, key_grads, *saved)
    if grads is None:
        return (None,) * 5
    flat = grads.view(x.size(0), -1)
    needs_x, needs_weight, *_ = ctx.needs_input_grad
    return torch.mm(flat, weight) if needs_x else None, torch.mm(flat.t(), x) if needs_weight else None, None, None, None


_rotary_norm_product.register_autograd(_rotary_norm_product_backward, setup_context=_remember_rotary_norm_product)
