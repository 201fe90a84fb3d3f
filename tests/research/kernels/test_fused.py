"""The fused operators against their formulas: plain PyTorch in float64, the Triton kernels in float32."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from research.kernels import fused
from research.kernels.fused import qk_proj_rope_norm, relu2_mlp, rms_norm, softcapped_cross_entropy, uses_triton

HAS_GPU = torch.cuda.is_available() and uses_triton(torch.device("cuda"), torch.bfloat16)
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU since Ampere with Triton")
SOFTCAP = 15.0
MLP_SIZES = [(512, 512), (3333, 392), (333, 384), (1, 640), (100, 100)]
"""Tokens and widths: many tiles per SM; tiles that hang over every edge; fewer tiles than SMs."""
CLOSE = 1e-2
"""Largest distance of bfloat16 from float32, as a share of the norm."""


def mlp_formula(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (x @ up.T).clamp_min(0).square() @ down.T


def norm_formula(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt()


def loss_formula(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float = SOFTCAP, *, rounded: bool = False) -> Tensor:
    """With `rounded`, of logits that are rounded to bfloat16; the gradient passes the rounding by."""
    logits = hidden @ weight.T
    if rounded:
        logits = logits + (logits.bfloat16() - logits).detach()
    logits = softcap * torch.tanh(logits / softcap)
    picked = logits.gather(-1, targets[..., None])[..., 0]
    return (logits.logsumexp(-1) - picked).mean()


def mlp_inputs(tokens: int, width: int, device: str = "cpu") -> list[Tensor]:
    """x (2, tokens, width), up, down in float32; none of their values is lost in bfloat16."""
    generator = torch.Generator(device).manual_seed(1)
    shapes = ((2, tokens, width), (4 * width, width), (width, 4 * width))
    inputs = [torch.randn(shape, generator=generator, device=device) / shape[-1] ** 0.5 for shape in shapes]
    inputs[0] *= width**0.5
    return [tensor.bfloat16().float() for tensor in inputs]


def loss_inputs(tokens: int, width: int, vocabulary: int, device: str = "cpu") -> tuple[list[Tensor], Tensor]:
    """hidden (2, tokens, width) and weight, as above, with logits up to the softcap and beyond; targets (2, tokens)."""
    generator = torch.Generator(device).manual_seed(2)
    hidden = torch.randn((2, tokens, width), generator=generator, device=device)
    weight = torch.randn((vocabulary, width), generator=generator, device=device) * 6 / width**0.5
    targets = torch.randint(vocabulary, (2, tokens), generator=generator, device=device)
    targets[0, 0], targets[-1, -1] = 0, vocabulary - 1
    return [hidden.bfloat16().float(), weight.bfloat16().float()], targets


def rotary_inputs(tokens: int, heads: int, dim: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """qk (2, tokens, 2, heads, dim), cos and sin (tokens, dim / 2) in float32; none of their values is lost in bfloat16."""
    generator = torch.Generator(device).manual_seed(3)
    qk = torch.randn((2, tokens, 2, heads, dim), generator=generator, device=device)
    angles = torch.rand((tokens, dim // 2), generator=generator, device=device) * 6.3
    return qk.bfloat16().float(), angles.cos().bfloat16().float(), angles.sin().bfloat16().float()


def rotary_formula(qk: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of channels as a complex number, turned; then every head divided by its root mean square; (2, B, T, H, D)."""
    a, b = qk.unflatten(-1, (2, -1)).unbind(-2)
    turned = torch.complex(a, b) * torch.complex(cos, -sin)[:, None, None]
    out = torch.cat([turned.real, turned.imag], dim=-1)
    return (out / out.square().mean(-1, keepdim=True).sqrt()).movedim(2, 0)


def product_inputs(tokens: int, heads: int, dim: int, device: str = "cpu") -> list[Tensor]:
    """x (2, tokens, C), weight (2, C, C) of C = heads * dim, cos and sin as above."""
    generator = torch.Generator(device).manual_seed(4)
    width = heads * dim
    x = torch.randn((2, tokens, width), generator=generator, device=device)
    weight = torch.randn((2, width, width), generator=generator, device=device) / width**0.5
    return [x.bfloat16().float(), weight.bfloat16().float(), *rotary_inputs(tokens, heads, dim, device)[1:]]


def product_formula(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = [(x @ matrix.T).unflatten(-1, (-1, 2 * cos.size(1))) for matrix in weight]
    return rotary_formula(torch.stack(heads, dim=2), cos, sin)


def value_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Of the output's weighted sum, with weights that differ; a scalar is weighted by 3."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    weights = torch.linspace(-1, 3, out.numel(), device=out.device).view(out.shape) if out.dim() else torch.tensor(3.0)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def distance(found: Tensor, expected: Tensor) -> float:
    """As a share of the expected norm; NaN, which is close to nothing, stays."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


# On a CPU --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mlp_is_its_formula(dtype: torch.dtype) -> None:
    inputs = mlp_inputs(tokens=9, width=24)
    found = value_and_gradients(relu2_mlp, [tensor.to(dtype) for tensor in inputs])
    expected = value_and_gradients(mlp_formula, [tensor.double() for tensor in inputs])
    assert found[0].shape == (2, 9, 24)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_is_its_formula(dtype: torch.dtype) -> None:
    x = mlp_inputs(tokens=9, width=24)[0]
    found = value_and_gradients(rms_norm, [x.to(dtype)])
    for a, b in zip(found, value_and_gradients(norm_formula, [x.double()]), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not fused.HAS_TRITON, reason="the operator exists where Triton is installed")
def test_the_norms_operator_is_its_formula() -> None:
    """The GPU's operator, run on a CPU: its backward pass gets only the output."""
    x = mlp_inputs(tokens=9, width=24)[0]
    found = value_and_gradients(lambda x: fused._rms_norm(x)[0], [x])
    for a, b in zip(found, value_and_gradients(norm_formula, [x.double()]), strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("softcap", [15.0, 50.0])
def test_the_loss_is_its_formula(dtype: torch.dtype, softcap: float) -> None:
    inputs, targets = loss_inputs(tokens=9, width=24, vocabulary=50)
    found = value_and_gradients(
        lambda hidden, weight: softcapped_cross_entropy(hidden, weight, targets, softcap),
        [tensor.to(dtype) for tensor in inputs],
    )
    expected = value_and_gradients(
        lambda hidden, weight: loss_formula(hidden, weight, targets, softcap), [tensor.double() for tensor in inputs]
    )
    assert found[0].shape == () and found[0].dtype == torch.float32
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_queries_and_keys_are_their_formula(dtype: torch.dtype) -> None:
    x, weight, *angles = (tensor.to(dtype) for tensor in product_inputs(tokens=5, heads=3, dim=8))
    found = value_and_gradients(lambda x, weight: torch.stack(qk_proj_rope_norm(x, *weight, *angles)), [x, weight])
    expected = value_and_gradients(
        lambda x, weight: product_formula(x, weight, *(angle.double() for angle in angles)), [x.double(), weight.double()]
    )
    assert found[0].shape == (2, 2, 5, 3, 8)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)


def test_there_may_be_fewer_keys_than_queries() -> None:
    x, weight, cos, sin = product_inputs(tokens=5, heads=4, dim=8)
    q, k = qk_proj_rope_norm(x, weight[0], weight[1][:16], cos, sin)
    expected = product_formula(x, weight, cos, sin)
    assert q.shape == (2, 5, 4, 8) and k.shape == (2, 5, 2, 8)
    torch.testing.assert_close(q, expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(k, expected[1][:, :, :2], atol=1e-4, rtol=1e-4)


def test_weights_are_cast_to_the_inputs_dtype() -> None:
    x, up, down = mlp_inputs(tokens=3, width=8)
    assert relu2_mlp(x.bfloat16(), up, down).dtype == torch.bfloat16
    grads = value_and_gradients(lambda up, down: relu2_mlp(x.bfloat16(), up, down).float(), [up, down])[1:]
    assert all(grad.dtype == torch.float32 for grad in grads)
    with torch.autocast("cpu", torch.bfloat16):
        assert relu2_mlp(x, up, down).dtype == torch.bfloat16


def test_a_cpu_runs_plain_torch() -> None:
    assert not uses_triton(torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(("tokens", "size", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 3, [2]), (7, 0, [7])])
def test_chunks_cover_all_tokens_once(tokens: int, size: int, sizes: list[int]) -> None:
    chunks = fused._chunks(tokens, size)
    assert [chunk.stop - chunk.start for chunk in chunks] == sizes
    assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(tokens))


# On a GPU --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["eager", "compiled"])
def prepare(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[..., Tensor]], Callable[..., Tensor]]]:
    """What makes a function ready to be called: nothing, or torch.compile, which may not fall back anywhere."""
    torch.compiler.reset()
    yield (lambda f: torch.compile(f, dynamic=False, fullgraph=True)) if request.param == "compiled" else (lambda f: f)


def autocast(on: bool) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if on else nullcontext()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("tokens", "width"), MLP_SIZES)
@pytest.mark.parametrize("casts", [False, True])
def test_the_gpu_mlp_agrees_with_float32(
    tokens: int, width: int, casts: bool, prepare: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> None:
    inputs = mlp_inputs(tokens, width, "cuda")
    mlp = prepare(relu2_mlp)

    def run(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        with autocast(casts):
            y = mlp(x if casts else x.bfloat16(), up, down)
        assert y.dtype == torch.bfloat16 and y.shape == x.shape
        return y.float()

    found, expected = value_and_gradients(run, inputs), value_and_gradients(mlp_formula, inputs)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and distance(a, b) < CLOSE
    with torch.inference_mode():
        assert distance(run(*inputs), expected[0]) < CLOSE


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("tokens", "width"), [(512, 512), (333, 640), (1, 100)])
def test_the_gpu_norm_agrees_with_float32(
    tokens: int, width: int, prepare: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> None:
    x = mlp_inputs(tokens, width, "cuda")[0]
    norm = prepare(rms_norm)
    found = value_and_gradients(lambda x: norm(x.bfloat16()).float(), [x])
    for a, b in zip(found, value_and_gradients(norm_formula, [x]), strict=True):
        assert a.shape == b.shape and distance(a, b) < CLOSE


@pytest.mark.gpu
@needs_gpu
def test_both_kernels_of_the_hidden_layer_agree() -> None:
    from research.kernels import hopper_kernels, triton_kernels

    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("not a Hopper GPU")
    x, up, _ = mlp_inputs(3333, 392, "cuda")  # several tiles per SM, which hang over every edge
    x, up = x.flatten(0, 1).bfloat16(), up.bfloat16()
    activations = triton_kernels.linear_relu2(x, up, None)
    assert distance(hopper_kernels.linear_relu2(x, up, None), activations) < 1e-3
    gradient = triton_kernels.linear_relu2(x, up, activations)
    assert distance(hopper_kernels.linear_relu2(x, up, activations), gradient) < 1e-3


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("tokens", "width", "vocabulary"), [(512, 512, 8192), (333, 384, 8000), (5, 640, 50)])
@pytest.mark.parametrize("chunk_tokens", [0, 300])
@pytest.mark.parametrize("casts", [False, True])
def test_the_gpu_loss_agrees_with_float32(
    tokens: int, width: int, vocabulary: int, chunk_tokens: int, casts: bool,
    prepare: Callable[[Callable[..., Tensor]], Callable[..., Tensor]],
) -> None:  # fmt: skip
    inputs, targets = loss_inputs(tokens, width, vocabulary, "cuda")
    loss = prepare(softcapped_cross_entropy)

    def run(hidden: Tensor, weight: Tensor) -> Tensor:
        with autocast(casts):
            return loss(hidden if casts else hidden.bfloat16(), weight, targets, SOFTCAP, chunk_tokens=chunk_tokens)

    found = value_and_gradients(run, inputs)
    expected = value_and_gradients(lambda hidden, weight: loss_formula(hidden, weight, targets, rounded=True), inputs)
    assert found[0].dtype == torch.float32
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and distance(a, b) < CLOSE
    with torch.no_grad():
        torch.testing.assert_close(run(*inputs), found[0], atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(run(*inputs), found[0], atol=1e-5, rtol=1e-5)
    assert distance(run(inputs[0], inputs[1].clone().requires_grad_()).detach(), expected[0]) < CLOSE  # one of two


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("tokens", "heads", "dim"), [(512, 4, 128), (4096, 5, 128), (384, 5, 128), (333, 5, 128), (128, 1, 128), (7, 3, 96)]
)
@pytest.mark.parametrize("casts", [False, True])
def test_queries_and_keys_on_a_gpu_agree_with_float32(
    tokens: int, heads: int, dim: int, casts: bool, prepare: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> None:
    x, weight, cos, sin = product_inputs(tokens, heads, dim, "cuda")
    function = prepare(qk_proj_rope_norm)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        with autocast(casts):
            q, k = function(x if casts else x.bfloat16(), *weight, cos, sin)
        assert q.dtype == torch.bfloat16
        return torch.stack([q, k]).float()

    found = value_and_gradients(run, [x, weight])
    expected = value_and_gradients(lambda x, weight: product_formula(x, weight, cos, sin), [x, weight])
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and distance(a, b) < CLOSE
    assert distance(run(x, weight.clone().requires_grad_()).detach(), expected[0]) < CLOSE  # one of two
