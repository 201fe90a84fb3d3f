"""Causal attention with an optional sliding window, computed by the fastest kernel available on this machine.

train.py may replace it with an implementation of its own. The fastest kernel is measured once per machine
(research/kernels/attention_choice.py) and passed to every process of a run, so that trainer and scorers use the same one.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CHOICE_VARIABLE = "AUTORESEARCH_ATTENTION"
"""Environment variable that names the kernel to use; without it, the first of KERNELS that supports the inputs is used."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int) -> Tensor:
    """Softmax attention of each position to itself and the `window - 1` positions before it.

    Args:
        q: (B, T, H, D)
        k, v: (B, T, H_kv, D), where H is a multiple of H_kv
        window: number of positions a query attends to; T or more is full causal attention

    Returns (B, T, H, D) in q's dtype.
    """
    return KERNELS[kernel_name(q.device, q.dtype, q.size(-1))].attend(q, k, v, min(window, q.size(1)))


def kernel_name(device: torch.device, dtype: torch.dtype, head_dim: int = 128) -> str:
    """The name in KERNELS of the kernel to use: the chosen one if it supports these inputs, else the first that does."""
    chosen = os.environ.get(CHOICE_VARIABLE, "")
    names = [chosen, *KERNELS] if chosen in KERNELS else list(KERNELS)
    return next(name for name in names if KERNELS[name].supports(device, dtype, head_dim))


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """An implementation of attention."""

    supports: Callable[[torch.device, torch.dtype, int], bool]
    """Whether the kernel supports a device, a dtype and a head dimension."""
    attend: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    """(q, k, v, window) -> output, as in `causal_attention`, with a window of at most T."""


def _on_gpu(*, capability: tuple[int, int], multiple: int, largest: int, packages: tuple[str, ...] = (),
            newest: int = 99) -> Callable[[torch.device, torch.dtype, int], bool]:  # fmt: skip
    """The support check of a half-precision kernel for NVIDIA GPUs.

    Args:
        capability: minimum compute capability
        multiple: the head dimension must be a multiple of it
        largest: maximum head dimension
        packages: packages that must be installed
        newest: maximum major version of the compute capability
    """

    def supports(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        if device.type != "cuda" or torch.version.cuda is None or dtype not in (torch.bfloat16, torch.float16):
            return False
        found = torch.cuda.get_device_capability(device)
        fits = head_dim % multiple == 0 and head_dim <= largest
        return fits and capability <= found and found[0] <= newest and INSTALLED.issuperset(packages)

    return supports


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


FLASH_4 = ("flash_attn.cute", "cutlass")
"""Packages of FlashAttention 4. flash-attn (2) can include an older flash_attn.cute, but not the CUTLASS that it requires."""
FLASH_3 = ("flash_attn_interface",)
FLASH_2 = ("flash_attn.flash_attn_interface",)

INSTALLED = frozenset(filter(_is_installed, (*FLASH_4, *FLASH_3, *FLASH_2)))
"""The attention packages that are installed. Determined at import because torch.compile can't trace the search."""


# ----------------------------------------------------------------------------------------------------------------------
# FlashAttention 4 (flash-attn-4): written in the CuTe DSL, for Hopper and newer; not registered as operators of torch
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("autoresearch::flash_attention_4", mutates_args=())
def _flash_4(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Returns the output (B, T, H, D) and the log-sum-exp of the scores, (B, H, T) float32."""
    from flash_attn.cute.interface import _flash_attn_fwd  # type: ignore[import-not-found]

    out, lse, *_ = _flash_attn_fwd(q, k, v, causal=True, window_size_left=_window_left(window, q.size(1)), return_lse=True)
    return out, lse


@_flash_4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=torch.float32)


@torch.library.custom_op("autoresearch::flash_attention_4_backward", mutates_args=())
def _flash_4_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
                      window: int) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the gradients of q, k and v. They are contiguous whatever the inputs' strides, as the fake kernel says."""
    from flash_attn.cute.interface import _flash_attn_bwd

    dq, dk, dv = (tensor.new_empty(tensor.shape) for tensor in (q, k, v))
    left = _window_left(window, q.size(1))
    _flash_attn_bwd(q, k, v, out, grad, lse, causal=True, window_size_left=left, dq=dq, dk=dk, dv=dv)
    return dq, dk, dv


@_flash_4_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _flash_4_setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, int],
                      output: tuple[Tensor, Tensor]) -> None:  # fmt: skip
    q, k, v, ctx.window = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(q, k, v, *output)


def _flash_4_autograd(ctx: torch.autograd.function.FunctionCtx, grad: Tensor,
                           _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
    window: int = ctx.window  # type: ignore[attr-defined]
    dq, dk, dv = _flash_4_backward(grad.contiguous(), *ctx.saved_tensors, window)  # type: ignore[attr-defined]
    return dq, dk, dv, None


_flash_4.register_autograd(_flash_4_autograd, setup_context=_flash_4_setup_context)


def _window_left(window: int, tokens: int) -> int | None:
    """Number of positions before its own that a query attends to; None for all."""
    return None if window >= tokens else window - 1


# ----------------------------------------------------------------------------------------------------------------------
# FlashAttention 3 and 2, if installed; torch's own FlashAttention 2; FlexAttention; SDPA
# ----------------------------------------------------------------------------------------------------------------------


def _flash_3(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]

    y: Tensor | tuple[Tensor, ...] = flash_attn_func(q, k, v, causal=True, window_size=_window_size(window, q.size(1)))
    return y if isinstance(y, Tensor) else y[0]


def _flash_2(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    y: Tensor = flash_attn_func(q, k, v, causal=True, window_size=_window_size(window, q.size(1)))
    return y


def _torch_flash(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    B, T, H, D = q.shape
    k, v = _repeat_heads(k, H), _repeat_heads(v, H)
    starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
    q, k, v = (tensor.reshape(B * T, H, D) for tensor in (q, k, v))
    y = varlen_attn(q, k, v, starts, starts, T, T, window_size=_window_size(window, T))
    assert isinstance(y, Tensor)
    return y.view(B, T, H, D)


def _flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def attends(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    T = q.size(1)
    mask = create_block_mask(attends, None, None, T, T, device=str(q.device))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    attend = flex_attention if torch.compiler.is_compiling() else torch.compile(flex_attention, dynamic=False)
    y = attend(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))
    assert isinstance(y, Tensor)
    return y.transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    T, H = q.size(1), q.size(2)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, _repeat_heads(k, H), _repeat_heads(v, H)))
    if window >= T:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_window_mask(T, window, q.device))
    return y.transpose(1, 2)


def _window_size(window: int, tokens: int) -> tuple[int, int]:
    """Numbers of positions before and after its own that a query attends to; -1 for all."""
    return (-1 if window >= tokens else window - 1), 0


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H_kv, D) -> (B, T, heads, D): repeats each key or value head for the query heads that share it."""
    return x if x.size(2) == heads else x.repeat_interleave(heads // x.size(2), dim=2)


@lru_cache(maxsize=8)
def _window_mask(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool, true where the query (row) attends to the key (column)."""
    with torch.inference_mode(False):  # a mask that is cached while scoring may be used in training later
        distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)[None, :]
        return (distance >= 0) & (distance < window)


KERNELS: Mapping[str, Kernel] = {
    "flash-attn-4": Kernel(
        supports=_on_gpu(capability=(9, 0), newest=10, multiple=8, largest=128, packages=FLASH_4),
        attend=lambda q, k, v, window: _flash_4(q, k, v, window)[0],
    ),
    "flash-attn-3": Kernel(
        supports=_on_gpu(capability=(9, 0), newest=9, multiple=8, largest=256, packages=FLASH_3),
        attend=_flash_3,
    ),
    "flash-attn-2": Kernel(
        supports=_on_gpu(capability=(8, 0), multiple=8, largest=256, packages=FLASH_2),
        attend=_flash_2,
    ),
    "torch-flash": Kernel(supports=_on_gpu(capability=(8, 0), multiple=8, largest=256), attend=_torch_flash),
    "flex": Kernel(supports=_on_gpu(capability=(8, 0), multiple=16, largest=256), attend=_flex),
    "sdpa": Kernel(supports=lambda device, dtype, head_dim: True, attend=_sdpa),
}
"""Kernels by name, fastest first as far as that is known without measuring."""
