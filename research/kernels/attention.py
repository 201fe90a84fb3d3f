"""Causal attention with an optional sliding window, by the fastest kernel that the machine has.

Plumbing, not policy: train.py may replace it by its own. Which kernel is the fastest is measured once per machine
(research/kernels/attention_choice.py) and handed to every process of a run, so that trainer and scorers compute alike.
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
"""Names the kernel that the judge's processes use; without it the first of KERNELS that can serve does."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int) -> Tensor:
    """Softmax attention of each position on itself and the `window - 1` positions before it.

    q: (B, T, H, D); k, v: (B, T, H_kv, D) with H a multiple of H_kv; a window of T or more is full causal attention.
    Returns (B, T, H, D) in q's dtype.
    """
    return KERNELS[kernel_name(q.device, q.dtype, q.size(-1))].attend(q, k, v, min(window, q.size(1)))


def kernel_name(device: torch.device, dtype: torch.dtype, head_dim: int = 128) -> str:
    """Which of KERNELS serves: the chosen one where it can, else the first that can."""
    chosen = os.environ.get(CHOICE_VARIABLE, "")
    names = [chosen, *KERNELS] if chosen in KERNELS else list(KERNELS)
    return next(name for name in names if KERNELS[name].serves(device, dtype, head_dim))


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to compute attention."""

    serves: Callable[[torch.device, torch.dtype, int], bool]
    """Whether it can on this device, with this dtype and width of a head."""
    attend: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    """(q, k, v, window) as `causal_attention`, with a window of at most T."""


def _on_gpu(*, capability: tuple[int, int], multiple: int, largest: int, packages: tuple[str, ...] = (),
            newest: int = 99) -> Callable[[torch.device, torch.dtype, int], bool]:  # fmt: skip
    """For kernels of half precision on NVIDIA GPUs from `capability` up to major version `newest`, if `packages` are there."""

    def serves(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
        if device.type != "cuda" or torch.version.cuda is None or dtype not in (torch.bfloat16, torch.float16):
            return False
        found = torch.cuda.get_device_capability(device)
        fits = head_dim % multiple == 0 and head_dim <= largest
        return fits and capability <= found and found[0] <= newest and INSTALLED.issuperset(packages)

    return serves


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is a part of is missing
        return False


FLASH_4 = ("flash_attn.cute", "cutlass")
"""flash-attn (2) can bring an older flash_attn.cute along, but not the CUTLASS that it runs on."""
FLASH_3 = ("flash_attn_interface",)
FLASH_2 = ("flash_attn.flash_attn_interface",)

INSTALLED = frozenset(filter(_is_installed, (*FLASH_4, *FLASH_3, *FLASH_2)))
"""Looked for once, at import: torch.compile can't trace a search for packages."""


# ----------------------------------------------------------------------------------------------------------------------
# FlashAttention 4 (flash-attn-4): written in CuTe's Python, for Hopper and newer; its functions are no operators of torch
# ----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("autoresearch::flash_attention_4", mutates_args=())
def _flash_4(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Returns the output (B, T, H, D) and the log-sum-exp of the scores, (B, H, T) float32."""
    from flash_attn.cute.interface import _flash_attn_fwd  # type: ignore[import-not-found]

    out, lse, *_ = _flash_attn_fwd(q, k, v, causal=True, window_size_left=_left(window, q.size(1)), return_lse=True)
    return out, lse


@_flash_4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=torch.float32)


@torch.library.custom_op("autoresearch::flash_attention_4_backward", mutates_args=())
def _flash_4_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
                      window: int) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the gradients of q, k and v, contiguous whatever the strides of these: the compiler has to know beforehand."""
    from flash_attn.cute.interface import _flash_attn_bwd

    dq, dk, dv = (tensor.new_empty(tensor.shape) for tensor in (q, k, v))
    left = _left(window, q.size(1))
    _flash_attn_bwd(q, k, v, out, grad, lse, causal=True, window_size_left=left, dq=dq, dk=dk, dv=dv)
    return dq, dk, dv


@_flash_4_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep_for_flash_4(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, int],
                      output: tuple[Tensor, Tensor]) -> None:  # fmt: skip
    q, k, v, ctx.window = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(q, k, v, *output)


def _differentiate_flash_4(ctx: torch.autograd.function.FunctionCtx, grad: Tensor,
                           _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
    window: int = ctx.window  # type: ignore[attr-defined]
    dq, dk, dv = _flash_4_backward(grad.contiguous(), *ctx.saved_tensors, window)  # type: ignore[attr-defined]
    return dq, dk, dv, None


_flash_4.register_autograd(_differentiate_flash_4, setup_context=_keep_for_flash_4)


def _left(window: int, tokens: int) -> int | None:
    """Positions before its own that a query sees; None for all."""
    return None if window >= tokens else window - 1


# ----------------------------------------------------------------------------------------------------------------------
# FlashAttention 3 and 2 where they are installed; torch's own FlashAttention 2; flex_attention; SDPA
# ----------------------------------------------------------------------------------------------------------------------


def _flash_3(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]

    y: Tensor | tuple[Tensor, ...] = flash_attn_func(q, k, v, causal=True, window_size=_both_sides(window, q.size(1)))
    return y if isinstance(y, Tensor) else y[0]


def _flash_2(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from flash_attn import flash_attn_func  # type: ignore[import-not-found]

    y: Tensor = flash_attn_func(q, k, v, causal=True, window_size=_both_sides(window, q.size(1)))
    return y


def _torch_flash(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    B, T, H, D = q.shape
    k, v = _with_heads(k, H), _with_heads(v, H)
    starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
    q, k, v = (tensor.reshape(B * T, H, D) for tensor in (q, k, v))
    y = varlen_attn(q, k, v, starts, starts, T, T, window_size=_both_sides(window, T))
    assert isinstance(y, Tensor)
    return y.view(B, T, H, D)


def _flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    T = q.size(1)
    mask = create_block_mask(sees, None, None, T, T, device=str(q.device))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    attend = flex_attention if torch.compiler.is_compiling() else torch.compile(flex_attention, dynamic=False)
    y = attend(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))
    assert isinstance(y, Tensor)
    return y.transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    T, H = q.size(1), q.size(2)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, _with_heads(k, H), _with_heads(v, H)))
    if window >= T:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_window_mask(T, window, q.device))
    return y.transpose(1, 2)


def _both_sides(window: int, tokens: int) -> tuple[int, int]:
    """Positions before and after its own that a query sees; -1 for all."""
    return (-1 if window >= tokens else window - 1), 0


def _with_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H_kv, D) -> (B, T, heads, D): each head of keys or values for the queries' heads that share it."""
    return x if x.size(2) == heads else x.repeat_interleave(heads // x.size(2), dim=2)


@lru_cache(maxsize=8)
def _window_mask(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool, true where the query (row) sees the key (column)."""
    with torch.inference_mode(False):  # it may be made while a model is scored, and then be used to train
        distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)[None, :]
        return (distance >= 0) & (distance < window)


KERNELS: Mapping[str, Kernel] = {
    "flash-attn-4": Kernel(
        serves=_on_gpu(capability=(9, 0), newest=10, multiple=8, largest=128, packages=FLASH_4),
        attend=lambda q, k, v, window: _flash_4(q, k, v, window)[0],
    ),
    "flash-attn-3": Kernel(
        serves=_on_gpu(capability=(9, 0), newest=9, multiple=8, largest=256, packages=FLASH_3),
        attend=_flash_3,
    ),
    "flash-attn-2": Kernel(
        serves=_on_gpu(capability=(8, 0), multiple=8, largest=256, packages=FLASH_2),
        attend=_flash_2,
    ),
    "torch-flash": Kernel(serves=_on_gpu(capability=(8, 0), multiple=8, largest=256), attend=_torch_flash),
    "flex": Kernel(serves=_on_gpu(capability=(8, 0), multiple=16, largest=256), attend=_flex),
    "sdpa": Kernel(serves=lambda device, dtype, head_dim: True, attend=_sdpa),
}
"""By name, the fastest first as far as that is known without measuring."""
