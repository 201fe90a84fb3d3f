"""Causal attention with an optional sliding window, by the best kernel that the hardware has.

Plumbing, not policy: train.py may replace it by its own.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int) -> Tensor:
    """Softmax attention of each position on itself and the `window - 1` positions before it.

    q: (B, T, H, D); k, v: (B, T, H_kv, D) with H a multiple of H_kv; a window of T or more is full causal attention.
    Returns (B, T, H, D) in q's dtype.
    """
    groups = q.size(2) // k.size(2)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    if kernel_name(q.device, q.dtype) == "varlen":
        return _varlen(q, k, v, window)
    return _sdpa(q, k, v, window)


def kernel_name(device: torch.device, dtype: torch.dtype) -> str:
    """Which kernel serves `device` and `dtype`: `varlen` (torch's own FlashAttention 2, Ampere and newer) or `sdpa`."""
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0):
        return "varlen"
    return "sdpa"


def _varlen(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    B, T, H, D = q.shape
    starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
    left = -1 if window >= T else window - 1
    q, k, v = (tensor.reshape(B * T, H, D) for tensor in (q, k, v))
    y = varlen_attn(q, k, v, starts, starts, T, T, window_size=(left, 0))
    assert isinstance(y, Tensor)
    return y.view(B, T, H, D)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    T = q.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if window >= T:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_window_mask(T, window, q.device))
    return y.transpose(1, 2)


@lru_cache(maxsize=8)
def _window_mask(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool, true where the query (row) sees the key (column)."""
    with torch.inference_mode(False):  # it may be made while a model is scored, and then be used to train
        distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)[None, :]
        return (distance >= 0) & (distance < window)
