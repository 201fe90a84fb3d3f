"""Benchmarks the kernels of research/kernels/fused.py against plain PyTorch under torch.compile, with lower bounds.

    uv run python benchmarks/kernels.py [--tokens 262144] [--widths 512 640] [--json kernels.json]

Needs an NVIDIA GPU; takes about a minute, most of it for compilation. Everything runs in bfloat16 under autocast, with float32
weights:

- the GEMMs of the hidden layer with fused epilogues: the Triton kernel and, on Hopper, the Gluon kernel with several numbers of
  stages, against the bare GEMM of cuBLAS; a kernel that fails to compile or is wrong is listed with the reason;
- the MLP, forward and backward: fused, plain under torch.compile, and its six bare GEMMs, which are a lower bound;
- the loss: the same, with several chunk sizes, and forward only; its kernel alone, with several numbers of warps;
- queries and keys (projection, rotary embedding and norm): the same.

Prints a table (median times; TFLOP/s count only the matrix products), then the same as JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from research.kernels.fused import (
    EPSILON,
    apply_rotary_emb,
    qk_proj_rope_norm,
    relu2_mlp,
    softcapped_cross_entropy,
    uses_triton,
)

VOCABULARY = 8192
ROW_TOKENS = 2048
HEAD_DIM = 128
SOFTCAP = 15.0
ERROR_LIMIT = 1e-2
"""Maximum relative error against plain PyTorch, in the L2 norm; rounding stays far below it."""
CHECKED_ROWS = 4096
"""Rows at each end of a result that are compared with plain PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One line of the table."""

    width: int
    name: str
    ms: float | None
    tflops: float | None
    """TFLOP/s of the matrix products."""
    ns_per_token: float | None
    note: str = ""


class Table:
    """Times functions, and prints a line for each as soon as it is timed."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.timings: list[Timing] = []
        print(f"{'width':>6}{'ms':>9}{'TFLOP/s':>9}{'ns/token':>10}  what")

    def add(self, width: int, name: str, run: Callable[[], object], *, flops: float = 0.0) -> float:
        """The median time of `run` in ms; infinite if it fails."""
        from triton.testing import do_bench

        try:
            ms = float(do_bench(run, warmup=10, rep=100, return_mode="median"))
        except Exception as error:  # becomes a note in its line: the other kernels are still measured
            first_line = (str(error).strip().splitlines() or [""])[0]
            self._show(Timing(width=width, name=name, ms=None, tflops=None, ns_per_token=None,
                              note=f"{type(error).__name__}: {first_line[:200]}"))  # fmt: skip
            return float("inf")
        tflops = flops / ms / 1e9 if flops else None
        self._show(Timing(width=width, name=name, ms=ms, tflops=tflops, ns_per_token=ms * 1e6 / self.tokens))
        return ms

    def _show(self, timing: Timing) -> None:
        self.timings.append(timing)
        numbers = (f"{timing.ms:9.3f}" if timing.ms else f"{'-':>9}") + (
            f"{timing.tflops:9.0f}" if timing.tflops else f"{'-':>9}"
        )
        per_token = f"{timing.ns_per_token:10.2f}" if timing.ns_per_token else f"{'-':>10}"
        print(f"{timing.width:>6}{numbers}{per_token}  {timing.name}{'  ' if timing.note else ''}{timing.note}", flush=True)


def plain_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, up)).square(), down)


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(SOFTCAP * torch.tanh(logits / SOFTCAP), targets)


def forward_and_backward(
    function: Callable[..., Tensor | tuple[Tensor, ...]], leaves: Sequence[Tensor], grad: Tensor | Sequence[Tensor] | None
) -> Callable[[], None]:
    """A forward pass under autocast followed by a backward pass, as a function without arguments."""

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            out = function(*leaves)
        torch.autograd.grad(out, leaves, grad)

    return run


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Relative error of the first and the last CHECKED_ROWS rows, in the L2 norm."""
    ends = [torch.cat([tensor[:CHECKED_ROWS], tensor[-CHECKED_ROWS:]]).float() for tensor in (found, expected)]
    return float((ends[0] - ends[1]).norm() / ends[1].norm())


def on_hopper() -> bool:
    return torch.cuda.get_device_capability()[0] == 9


def time_hidden_products(table: Table, width: int, x: Tensor, up: Tensor, grad: Tensor) -> None:
    """Times the two GEMMs of the hidden layer; x and grad (M, C) and up (H, C) are bfloat16."""
    from research.kernels import triton_kernels

    product = torch.mm(x, up.t())
    activations = product.relu().square()
    flops = 2.0 * x.size(0) * up.numel()
    out = torch.empty_like(product)
    for name, left, aux in (("up", x, None), ("gradient", grad, activations)):
        table.add(width, f"{name}: bare GEMM by cuBLAS", partial(torch.mm, left, up.t(), out=out), flops=flops)
        expected = out.float().relu().square() if aux is None else out.float() * 2 * product.relu()
        kernels = {"Triton": triton_kernels.linear_relu2}
        if on_hopper():
            from research.kernels import hopper_kernels

            for stages in (3, 4, 5):
                kernels[f"Gluon, {stages} stages"] = partial(hopper_kernels.linear_relu2, stages=stages)
        for label, kernel in kernels.items():
            time_checked(table, width, f"{name}: {label}", partial(kernel, left, up, aux), expected, flops)


def time_checked(
    table: Table, width: int, name: str, run: Callable[[], Tensor], expected: Tensor, flops: float
) -> None:  # fmt: skip
    """Times a kernel; its line says so if the result differs from `expected` by more than ERROR_LIMIT."""
    try:
        error = relative_error(run(), expected)
    except Exception:
        error = 0.0  # the timed call raises the exception again and reports it
    table.add(width, name if error < ERROR_LIMIT else f"{name} WRONG: relative error {error:.3g}", run, flops=flops)


def time_mlp(table: Table, width: int) -> None:
    """Times the MLP with its gradients, and the GEMMs in it."""
    tokens, hidden = table.tokens, 4 * width
    x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16)
    up = torch.randn(hidden, width, device="cuda") / width**0.5
    down = torch.randn(width, hidden, device="cuda") / hidden**0.5
    grad = torch.randn_like(x)
    time_hidden_products(table, width, x, up.bfloat16(), grad)

    u, d = up.bfloat16(), down.bfloat16()
    wide = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    flops = 12.0 * tokens * width * hidden

    def bare_gemms() -> None:
        torch.mm(x, u.t(), out=wide)
        torch.mm(wide, d.t())
        torch.mm(grad, d, out=wide)
        torch.mm(grad.t(), wide)
        torch.mm(wide.t(), x)
        torch.mm(wide, u)

    table.add(width, "MLP: its six bare GEMMs, by cuBLAS", bare_gemms, flops=flops)
    leaves = [tensor.requires_grad_() for tensor in (x, up, down)]
    for name, function in (("plain, compiled", plain_mlp), ("fused, compiled", relu2_mlp)):
        compiled = torch.compile(function, dynamic=False, fullgraph=True)
        table.add(width, f"MLP: {name}", forward_and_backward(compiled, leaves, grad), flops=flops)
    table.add(width, "MLP: fused, eager", forward_and_backward(relu2_mlp, leaves, grad), flops=flops)


def time_loss(table: Table, width: int) -> None:
    """Times unembedding and loss with their gradients, and the GEMMs and the kernel in them."""
    from research.kernels.triton_kernels import cross_entropy_rows

    tokens = table.tokens
    hidden = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(VOCABULARY, width, device="cuda") * 2 / width**0.5
    targets = torch.randint(VOCABULARY, (tokens,), device="cuda")
    weight_bf16 = weight.bfloat16()
    flops = 6.0 * tokens * width * VOCABULARY
    logits = torch.mm(hidden, weight_bf16.t())

    def bare_gemms() -> None:
        torch.mm(hidden, weight_bf16.t(), out=logits)
        torch.mm(logits, weight_bf16)
        torch.mm(logits.t(), hidden)

    table.add(width, "loss: its three bare GEMMs, by cuBLAS", bare_gemms, flops=flops)
    traffic = f"{4e-9 * logits.numel():.1f} GB of memory traffic"
    for warps in (4, 8, 16):
        run = partial(cross_entropy_rows, logits, targets, softcap=SOFTCAP, grad_scale=1 / tokens, warps=warps)
        table.add(width, f"loss: kernel alone, {warps} warps, {traffic}", run)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight)]
    compiled_plain = torch.compile(lambda h, w: plain_loss(h, w, targets), dynamic=False, fullgraph=True)
    table.add(width, "loss: plain, compiled", forward_and_backward(compiled_plain, leaves, None), flops=flops)
    for chunk in (0, 2**17, 2**16, 2**15, 2**14):

        def fused(h: Tensor, w: Tensor, chunk: int = chunk) -> Tensor:
            return softcapped_cross_entropy(h, w, targets, SOFTCAP, chunk_tokens=chunk)

        name = f"loss: fused, eager, {f'chunks of {chunk}' if chunk else 'no chunks'}"
        table.add(width, name, forward_and_backward(fused, leaves, None), flops=flops)
    compiled = torch.compile(lambda h, w: softcapped_cross_entropy(h, w, targets, SOFTCAP), dynamic=False, fullgraph=True)
    table.add(width, "loss: fused, compiled", forward_and_backward(compiled, leaves, None), flops=flops)
    with torch.no_grad():
        table.add(width, "loss: fused, eager, forward only",
                  lambda: softcapped_cross_entropy(hidden, weight, targets, SOFTCAP), flops=flops / 3)  # fmt: skip


def plain_queries_and_keys(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    heads = F.linear(x, weight.flatten(0, 1)).view(*x.shape[:2], 2, -1, HEAD_DIM)
    return tuple(F.rms_norm(apply_rotary_emb(each, cos, sin), (HEAD_DIM,)) for each in heads.unbind(2))


def fused_queries_and_keys(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    return qk_proj_rope_norm(x, weight[0], weight[1], cos, sin)


def time_queries_and_keys(table: Table, width: int) -> None:
    """Times projection, rotary embedding and norm of queries and keys with their gradients, and the GEMMs in them."""
    batch, heads = table.tokens // ROW_TOKENS, width // HEAD_DIM
    x = torch.randn(batch, ROW_TOKENS, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(2, width, width, device="cuda") / width**0.5
    angles = torch.rand(ROW_TOKENS, HEAD_DIM // 2, device="cuda")
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    grads = tuple(torch.randn(batch, ROW_TOKENS, heads, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    flat, weight_bf16 = x.flatten(0, 1), weight.bfloat16().flatten(0, 1)
    flops = 2.0 * flat.numel() * 2 * width
    qk = torch.mm(flat, weight_bf16.t())
    table.add(width, "queries and keys: bare GEMM by cuBLAS", partial(torch.mm, flat, weight_bf16.t(), out=qk), flops=flops)
    if on_hopper():
        from research.kernels import hopper_kernels

        run = partial(hopper_kernels.qk_proj_rope_norm, flat, weight_bf16, cos, sin, EPSILON, ROW_TOKENS)
        table.add(width, "queries and keys: forward, fused", run, flops=flops)

    def bare_gemms() -> None:
        torch.mm(flat, weight_bf16.t(), out=qk)
        torch.mm(qk, weight_bf16)
        torch.mm(qk.t(), flat)

    table.add(width, "queries and keys: their three bare GEMMs, by cuBLAS", bare_gemms, flops=3 * flops)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    for name, function in (("plain", plain_queries_and_keys), ("fused", fused_queries_and_keys)):
        compiled = partial(torch.compile(function, dynamic=False, fullgraph=True), cos=cos, sin=sin)
        table.add(width, f"queries and keys: {name}, compiled", forward_and_backward(compiled, leaves, grads), flops=3 * flops)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=128 * 2048, help="tokens per batch")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 640], help="model widths")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    terms = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device is visible: run this benchmark on a machine with an NVIDIA GPU.")
    if not uses_triton(torch.device("cuda"), torch.bfloat16):
        raise SystemExit("The kernels need Triton and an NVIDIA GPU since Ampere: run this benchmark on such a machine.")
    began = time.monotonic()
    torch.set_float32_matmul_precision("high")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {terms.tokens:,} tokens, vocabulary {VOCABULARY:,}")
    table = Table(terms.tokens)
    for width in terms.widths:
        torch.manual_seed(1)
        torch.compiler.reset()
        time_mlp(table, width)
        time_loss(table, width)
        time_queries_and_keys(table, width)
    print(f"{time.monotonic() - began:.0f} s in total")
    found = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "tokens": terms.tokens,
        "timings": [asdict(timing) for timing in table.timings],
    }  # fmt: skip
    text = json.dumps(found)
    if terms.json:
        terms.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
