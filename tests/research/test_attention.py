"""Attention against a plain softmax in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from research import attention
from research.attention import causal_attention, kernel_name


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The definition: for each head and position a softmax over the window, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.size(2) // k.size(2)
    rows = []
    for t in range(q.size(1)):
        first = max(0, t - window + 1)
        heads = []
        for head in range(q.size(2)):
            keys, values = k[:, first : t + 1, head // groups], v[:, first : t + 1, head // groups]
            scores = torch.einsum("bd,bsd->bs", q[:, t, head], keys) / np.sqrt(q.size(3))
            heads.append(torch.einsum("bs,bsd->bd", scores.softmax(dim=1), values))
        rows.append(torch.stack(heads, dim=1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize(("tokens", "window"), [(1, 1), (7, 3), (17, 1), (33, 16), (33, 33), (33, 100)])
def test_attention_is_a_softmax_over_the_window(heads: tuple[int, int], tokens: int, window: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, tokens, h, 8) for h in (heads[0], heads[1], heads[1])]
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    weight = torch.randn(shapes[0], generator=generator)
    found = causal_attention(*inputs, window=window)
    expected = plain_attention(*inputs, window)
    assert found.shape == shapes[0] and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    found_grads = torch.autograd.grad((found * weight).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weight).sum(), inputs)
    for a, b in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_model_can_be_scored_first_and_trained_afterwards() -> None:
    attention._window_mask.cache_clear()
    q = torch.randn(1, 9, 2, 8)
    with torch.inference_mode():
        causal_attention(q, q, q, window=3)
    q.requires_grad_()
    causal_attention(q, q, q, window=3).sum().backward()
    assert q.grad is not None


def test_which_kernel_serves_a_cpu() -> None:
    assert kernel_name(torch.device("cpu"), torch.bfloat16) == "sdpa"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize(("tokens", "window"), [(256, 256), (257, 64), (1024, 1)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_gpu_kernel_agrees_with_float32(tokens: int, window: int, kv_heads: int) -> None:
    shapes = [(2, tokens, heads, 64) for heads in (4, kv_heads, kv_heads)]
    half = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    full = [tensor.detach().float().requires_grad_() for tensor in half]
    found, expected = (causal_attention(*inputs, window=window) for inputs in (half, full))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    found.float().sum().backward()
    expected.sum().backward()
    for a, b in zip(half, full, strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad.float(), b.grad, atol=5e-2, rtol=5e-2)
