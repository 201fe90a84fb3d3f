"""Benchmarks the attention kernels that this machine supports (research/kernels/attention.py): time, throughput and error.

    uv run python benchmarks/attention.py [--heads 4 5] [--windows 2048 1024 256] [--kernels NAME ...] [--json attention.json]

As in train.py, kernels run in bfloat16, under torch.compile on a GPU and in eager mode on a CPU, and v is a slice of a larger
tensor. The forward pass is timed without gradients, as in scoring; the second time is that of a forward and a backward pass.
Times are medians. The benchmark takes about a minute on a GPU, most of it for compilation.

TFLOP/s count only the operations that the window requires, even if a kernel computes more. A query attends to itself and up to
`window - 1` keys before it, so a sequence of T tokens has window * T - window * (window - 1) / 2 pairs. A matrix product takes
2 * head_dim operations per pair and head. The forward pass has two products (scores, output), the backward pass five (scores
again, and the gradients of probabilities, q, k and v).

Errors are relative to a float32 reference, in the L2 norm: that of the output, and the largest of the gradients of q, k and v.
Prints a table, then the same as JSON.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from research.kernels.attention import KERNELS

GPU_SHAPE = {"batch": 128, "tokens": 2048, "heads": [4, 5], "head_dim": 128, "windows": [2048, 1024, 256]}
"""Shapes that train.py runs in the standard profile; the two numbers of heads belong to its two model widths."""
CPU_SHAPE = {"batch": 2, "tokens": 256, "heads": [2], "head_dim": 32, "windows": [256, 128]}

CPU_ROUNDS = 5
CHECKED_ROWS = 2
"""Sequences of the batch that are compared with the float32 reference."""
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5
"""Matrix products per pass."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of an attention problem."""

    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int

    def flops(self, products: int) -> float:
        """Operations of `products` matrix products over the pairs of the window."""
        pairs = self.window * self.tokens - self.window * (self.window - 1) // 2
        return 2.0 * products * self.head_dim * pairs * self.heads * self.batch


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One line of the table. None: not measured."""

    shape: Shape
    kernel: str
    forward_ms: float | None = None
    forward_tflops: float | None = None
    both_ms: float | None = None
    both_tflops: float | None = None
    error: float | None = None
    gradient_error: float | None = None
    note: str = ""


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The float32 reference, which materialises whole score matrices."""
    q, k, v = (tensor.float().repeat_interleave(q.size(2) // tensor.size(2), dim=2) for tensor in (q, k, v))
    positions = torch.arange(q.size(1), device=q.device)
    distance = positions[:, None] - positions
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(3))
    scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=3), v)


def make_inputs(shape: Shape, device: torch.device) -> list[Tensor]:
    """Random q, k, v and gradient of the output, in bfloat16."""
    torch.manual_seed(1)
    rows = (shape.batch, shape.tokens)
    q, k, packed, grad = (
        torch.randn((*rows, *rest), device=device, dtype=torch.bfloat16)
        for rest in (
            (shape.heads, shape.head_dim),
            (shape.kv_heads, shape.head_dim),
            (3, shape.kv_heads, shape.head_dim),
            (shape.heads, shape.head_dim),
        )
    )
    return [q.requires_grad_(), k.requires_grad_(), packed.unbind(2)[2].requires_grad_(), grad]


def measure(name: str, shape: Shape, inputs: Sequence[Tensor]) -> Timing:
    """Times one kernel. An exception becomes a note in its line, so that the other kernels are still measured."""
    q, k, v, grad = inputs
    attend = KERNELS[name].attend
    if grad.is_cuda:
        torch.compiler.reset()
        attend = torch.compile(attend, dynamic=False, fullgraph=True)

    def forward() -> Tensor:
        with torch.no_grad():
            return attend(q, k, v, shape.window)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(q, k, v, shape.window), (q, k, v), grad)

    try:
        error, gradient_error = errors(forward(), forward_and_backward(), shape, inputs)
        forward_ms, both_ms = median_ms(forward, grad.device), median_ms(forward_and_backward, grad.device)
    except Exception as problem:
        first_line = (str(problem).strip().splitlines() or [""])[0]
        return Timing(shape=shape, kernel=name, note=f"{type(problem).__name__}: {first_line[:200]}")
    return Timing(
        shape=shape,
        kernel=name,
        forward_ms=forward_ms,
        forward_tflops=shape.flops(FORWARD_PRODUCTS) / forward_ms / 1e9,
        both_ms=both_ms,
        both_tflops=shape.flops(FORWARD_PRODUCTS + BACKWARD_PRODUCTS) / both_ms / 1e9,
        error=error,
        gradient_error=gradient_error,
    )


def errors(out: Tensor, grads: Sequence[Tensor], shape: Shape, inputs: Sequence[Tensor]) -> tuple[float, float]:
    """Relative error of the output, and the largest of the gradients, over the first CHECKED_ROWS sequences."""
    *leaves, grad = (tensor.detach()[:CHECKED_ROWS].float() for tensor in inputs)
    for leaf in leaves:
        leaf.requires_grad_()
    expected = plain_attention(leaves[0], leaves[1], leaves[2], shape.window)
    expected_grads = torch.autograd.grad(expected, leaves, grad)
    gradient_errors = [relative_error(*pair) for pair in zip(grads, expected_grads, strict=True)]
    return relative_error(out, expected.detach()), max(gradient_errors)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the L2 norm; absolute if the expected norm is 0, as the gradient of q is with a window of 1."""
    return float((found[: len(expected)].float() - expected).norm()) / (float(expected.norm()) or 1.0)


def median_ms(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        from triton.testing import do_bench

        return float(do_bench(run, warmup=10, rep=100, return_mode="median"))
    found = []
    for _ in range(CPU_ROUNDS):
        began = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - began))
    return statistics.median(found)


def table_heading() -> str:
    numbers = f"{'fwd ms':>9}{'TFLOP/s':>9}{'forward_and_backward ms':>9}{'TFLOP/s':>9}{'error':>10}{'of grad':>10}"
    return f"{'heads':>7}{'window':>8}  {'kernel':<14}{numbers}"


def table_line(timing: Timing) -> str:
    shape = timing.shape
    heads = f"{shape.heads}" if shape.heads == shape.kv_heads else f"{shape.heads}/{shape.kv_heads}"
    line = f"{heads:>7}{shape.window:>8}  {timing.kernel:<14}"
    for number, form in (
        (timing.forward_ms, "9.3f"), (timing.forward_tflops, "9.1f"), (timing.both_ms, "9.3f"), (timing.both_tflops, "9.1f"),
        (timing.error, "10.2e"), (timing.gradient_error, "10.2e"),
    ):  # fmt: skip
        line += f"{'-':>{form.partition('.')[0]}}" if number is None else f"{number:{form}}"
    return f"{line}  {timing.note}".rstrip()


def parse(arguments: Sequence[str] | None, device: torch.device) -> argparse.Namespace:
    defaults = GPU_SHAPE if device.type == "cuda" else CPU_SHAPE
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=defaults["batch"])
    parser.add_argument("--tokens", type=int, default=defaults["tokens"], help="sequence length T")
    parser.add_argument("--heads", type=int, nargs="+", default=defaults["heads"], help="numbers of query heads")
    parser.add_argument("--kv-heads", type=int, help="number of key and value heads (default: as many as query heads)")
    parser.add_argument("--head-dim", type=int, default=defaults["head_dim"])
    parser.add_argument("--windows", type=int, nargs="+", default=defaults["windows"], help="T or more: full attention")
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), help="default: all that this machine supports")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    terms = parse(arguments, device)
    supported = [name for name, kernel in KERNELS.items() if kernel.supports(device, torch.bfloat16, terms.head_dim)]
    kernels = [name for name in supported if name in (terms.kernels or supported)]
    if not kernels:
        raise SystemExit(f"This machine supports none of these kernels. Name some of: {', '.join(supported)}")
    began = time.monotonic()
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{hardware}, torch {torch.__version__}, {terms.batch} rows of {terms.tokens:,} tokens, head_dim {terms.head_dim}")
    print(table_heading())
    timings: list[Timing] = []
    for heads in terms.heads:
        for window in dict.fromkeys(min(window, terms.tokens) for window in terms.windows):
            shape = Shape(
                batch=terms.batch, tokens=terms.tokens, heads=heads, kv_heads=terms.kv_heads or heads,
                head_dim=terms.head_dim, window=window,
            )  # fmt: skip
            inputs = make_inputs(shape, device)
            for name in kernels:
                timings.append(measure(name, shape, inputs))
                print(table_line(timings[-1]), flush=True)
    print(f"{time.monotonic() - began:.0f} s in total")
    found = {"hardware": hardware, "torch": torch.__version__, "timings": [asdict(timing) for timing in timings]}
    text = json.dumps(found)
    if terms.json:
        terms.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
