"""Attention against a plain softmax in float64."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from research.kernels import attention
from research.kernels.attention import KERNELS, causal_attention, kernel_name

CLOSE = 2e-2
"""Of bfloat16 to float64, as a share of the norm: rounding makes half a percent, a key too many in a window of 100 ten."""


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The definition: for each head and position a softmax over the window, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.size(2) // k.size(2)
    k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.size(3))
    back = torch.arange(q.size(1), device=q.device)[:, None] - torch.arange(q.size(1), device=q.device)
    scores = scores.masked_fill((back < 0) | (back >= window), float("-inf"))
    return torch.einsum("bhts,bshd->bthd", scores.softmax(dim=-1), v)


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


def masked_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The definition with a mask, in the inputs' dtype; and the log-sum-exp of the scores, (B, H, T)."""
    groups, distance = q.size(2) // k.size(2), torch.arange(q.size(1), device=q.device)
    k, v = (tensor.repeat_interleave(groups, dim=2) for tensor in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(3))
    distance = distance[:, None] - distance
    scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=3), v), scores.logsumexp(dim=3)


def attention_inputs(tokens: int, heads: int, kv_heads: int, head_dim: int, device: str = "cuda") -> list[Tensor]:
    """q, k, v in bfloat16; v is a slice of a larger tensor, as train.py's is."""
    generator = torch.Generator(device).manual_seed(3)
    shapes = ((2, tokens, heads, head_dim), (2, tokens, kv_heads, head_dim), (2, tokens, 3, kv_heads, head_dim))
    q, k, qkv = (torch.randn(shape, generator=generator, device=device).bfloat16() for shape in shapes)
    return [tensor.detach().requires_grad_() for tensor in (q, k, qkv.unbind(2)[2])]


def share(found: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """Their distance as a share of the expected norm, or of `least` where that is greater."""
    return ((found.double() - expected.double()).norm() / max(expected.double().norm().item(), least)).item()


# flash-attn-4's operators, on a CPU, with its two functions played ----------------------------------------------------


def played_forward(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window_size_left: int | None,
                   return_lse: bool) -> tuple[Tensor | None, ...]:  # fmt: skip
    assert causal and return_lse
    window = q.size(1) if window_size_left is None else window_size_left + 1
    out, lse = masked_attention(q.float(), k.float(), v.float(), window)
    return out.to(q.dtype).contiguous(), lse.contiguous(), None, None, None


def played_backward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor, *, causal: bool,
                    window_size_left: int | None, dq: Tensor, dk: Tensor, dv: Tensor) -> None:  # fmt: skip
    assert causal and grad.is_contiguous()
    window = q.size(1) if window_size_left is None else window_size_left + 1
    groups, scale = q.size(2) // k.size(2), q.size(3) ** -0.5
    keys, values = (tensor.float().repeat_interleave(groups, dim=2) for tensor in (k, v))
    distance = torch.arange(q.size(1))[:, None] - torch.arange(q.size(1))
    p = (torch.einsum("bqhd,bkhd->bhqk", q.float(), keys) * scale - lse[..., None]).exp()
    p = p.masked_fill((distance < 0) | (distance >= window), 0)
    from_out = (grad.float() * out.float()).sum(3).transpose(1, 2)[..., None]
    ds = p * (torch.einsum("bqhd,bkhd->bhqk", grad.float(), values) - from_out) * scale
    dq.copy_(torch.einsum("bhqk,bkhd->bqhd", ds, keys))
    for target, weights, rows in ((dk, ds, q), (dv, p, grad)):
        all_heads = torch.einsum("bhqk,bqhd->bkhd", weights, rows.float())
        target.copy_(all_heads.unflatten(2, (k.size(2), groups)).sum(3))


@pytest.fixture
def played_flash_4(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = ModuleType("flash_attn.cute.interface")
    interface._flash_attn_fwd, interface._flash_attn_bwd = played_forward, played_backward  # type: ignore[attr-defined]
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)


@pytest.mark.usefixtures("played_flash_4")
@pytest.mark.parametrize(("tokens", "window"), [(9, 1), (9, 4), (9, 9), (1, 1)])
@pytest.mark.parametrize("compiled", [False, True])
def test_flash_attention_4_is_called_as_it_wants_to_be(tokens: int, window: int, compiled: bool) -> None:
    q, k, v = attention_inputs(tokens, heads=4, kv_heads=2, head_dim=8, device="cpu")
    attend = KERNELS["flash-attn-4"].attend
    if compiled:
        torch.compiler.reset()
        attend = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=False)
    out = attend(q, k, v, window)
    expected, _ = masked_attention(q.double(), k.double(), v.double(), window)
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
    found = [out, *torch.autograd.grad((out.float() * weight).sum(), (q, k, v))]
    wanted = [expected, *torch.autograd.grad((expected * weight).sum(), (q, k, v))]
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.bfloat16 and share(a, b, least=1e-3) < CLOSE


@pytest.mark.usefixtures("played_flash_4")
@pytest.mark.parametrize("transposed", [False, True])
def test_the_compiler_knows_what_flash_attention_4_returns(transposed: bool) -> None:
    q, k, v = (tensor.detach() for tensor in attention_inputs(6, heads=4, kv_heads=2, head_dim=8, device="cpu"))
    if transposed:
        q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (q, k, v))
    out, lse = attention._flash_4(q, k, v, 3)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(attention._flash_4, (q, k, v, 3), test_utils=checks)
    torch.library.opcheck(attention._flash_4_backward, (torch.ones_like(out), q, k, v, out, lse, 3), test_utils=checks)


# On a GPU -------------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def serving(request: pytest.FixtureRequest) -> str:
    """The name of a kernel, where this GPU has it; nothing that was compiled for another test counts towards a limit."""
    name: str = request.param
    if not KERNELS[name].supports(torch.device("cuda"), torch.bfloat16, 128):
        pytest.skip(f"{name} does not serve this GPU, or is not installed")
    torch.compiler.reset()
    return name


# few, since flash-attn-4 and flex_attention compile for seconds where the kind of window, the groups or the width are new
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize(
    ("tokens", "window", "heads", "kv_heads", "head_dim"),
    [(257, 1, 4, 4, 128), (1000, 63, 4, 4, 128), (2048, 2048, 4, 4, 128), (2048, 100, 6, 2, 64), (257, 257, 5, 1, 128)],
)
@pytest.mark.parametrize("serving", list(KERNELS), indirect=True)
def test_each_kernel_agrees_with_float64(
    serving: str, tokens: int, window: int, heads: int, kv_heads: int, head_dim: int
) -> None:
    inputs = attention_inputs(tokens, heads, kv_heads, head_dim)
    full = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out = KERNELS[serving].attend(*inputs, window)
    expected, _ = masked_attention(*full, window)
    assert out.dtype == torch.bfloat16 and out.shape == inputs[0].shape
    weight = torch.randn(out.shape, generator=torch.Generator("cuda").manual_seed(4), device="cuda").bfloat16()
    grads, expected_grads = torch.autograd.grad(out, inputs, weight), torch.autograd.grad(expected, full, weight.double())
    assert share(out, expected) < CLOSE
    for name, a, b in zip("qkv", grads, expected_grads, strict=True):
        # with a window of 1 no query and no key matters: what comes is rounding
        least = weight.double().norm().item() if window == 1 else 0.0
        assert share(a, b, least) < CLOSE, f"gradient of {name}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize("serving", list(KERNELS), indirect=True)
def test_each_kernel_can_be_compiled_in_one_graph(serving: str) -> None:
    generator = torch.Generator("cuda").manual_seed(5)
    qkv = torch.randn((2, 257, 3, 4, 128), generator=generator, device="cuda").bfloat16().requires_grad_()
    weight = torch.randn((2, 257, 4, 128), generator=generator, device="cuda").bfloat16()

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unbind(2)
        q, k = (torch.nn.functional.rms_norm(tensor, (128,)) for tensor in (q, k))
        return KERNELS[serving].attend(q, k, v, 63)

    found = []
    for function in (attend, torch.compile(attend, fullgraph=True, dynamic=False)):
        out = function(qkv)
        found.append([out, *torch.autograd.grad(out, qkv, weight)])
    for eager, compiled in zip(*found, strict=True):
        assert compiled.shape == eager.shape and share(compiled, eager) < CLOSE / 2
