"""Each attention kernel that serves this machine (kernels/attention.py): its time, its share of the arithmetic, its error.

    uv run python benchmarks/attention.py [--heads 4 5] [--windows 2048 1024 256] [--kernels NAME ...] [--json attention.json]

In bfloat16, under torch.compile on a GPU as train.py runs it, and plain on a CPU as train.py does there; the values are a slice
of a larger tensor, as train.py's are. Forward is timed without gradients, as a model is scored; the other time is of a forward
and a backward pass. Medians. Takes about a minute on a GPU, most of it to compile.

TFLOP/s count what the window needs, whatever a kernel computes beside it. A query sees itself and up to `window - 1` keys
before it, so a row of T tokens has window * T - window * (window - 1) / 2 pairs. A product takes 2 * head_dim operations a pair
and head; forward has two (scores, output), backward five (scores again, and the gradients of probabilities, q, k and v).

Errors are distances to float32 as a share of the norm: of the output, and the worst of the gradients of q, k and v.
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
"""What train.py runs in the standard profile, with either width."""
CPU_SHAPE = {"batch": 2, "tokens": 256, "heads": [2], "head_dim": 32, "windows": [256, 128]}

CPU_ROUNDS = 5
CHECKED_ROWS = 2
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is attended to."""

    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int

    def flops(self, products: int) -> float:
        """Of so many products over the pairs that the window has."""
        pairs = self.window * self.tokens - self.window * (self.window - 1) // 2
        return 2.0 * products * self.head_dim * pairs * self.heads * self.batch


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One line of the table; None is what could not be measured."""

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
    """The definition, in float32, with whole score matrices."""
    q, k, v = (tensor.float().repeat_interleave(q.size(2) // tensor.size(2), dim=2) for tensor in (q, k, v))
    positions = torch.arange(q.size(1), device=q.device)
    distance = positions[:, None] - positions
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(3))
    scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=3), v)


def make_inputs(shape: Shape, device: torch.device) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
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
    """Times one kernel; whatever a compiler or a driver raises becomes a note, since the other lines still count."""
    q, k, v, grad = inputs
    attend = KERNELS[name].attend
    if grad.is_cuda:
        torch.compiler.reset()
        attend = torch.compile(attend, dynamic=False, fullgraph=True)

    def forward() -> Tensor:
        with torch.no_grad():
            return attend(q, k, v, shape.window)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(q, k, v, shape.window), (q, k, v), grad)

    try:
        error, gradient_error = errors(forward(), both(), shape, inputs)
        forward_ms, both_ms = median_ms(forward, grad.device), median_ms(both, grad.device)
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
    """Of the output, and the worst of the gradients, in the first rows: no row has to do with another."""
    *leaves, grad = (tensor.detach()[:CHECKED_ROWS].float() for tensor in inputs)
    for leaf in leaves:
        leaf.requires_grad_()
    expected = plain_attention(leaves[0], leaves[1], leaves[2], shape.window)
    expected_grads = torch.autograd.grad(expected, leaves, grad)
    return distance(out, expected.detach()), max(distance(*pair) for pair in zip(grads, expected_grads, strict=True))


def distance(found: Tensor, expected: Tensor) -> float:
    """As a share of the norm, unless that is 0 (as of a query's gradient with a window of 1)."""
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


def title_line() -> str:
    numbers = f"{'fwd ms':>9}{'TFLOP/s':>9}{'both ms':>9}{'TFLOP/s':>9}{'error':>10}{'of grad':>10}"
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
    usual = GPU_SHAPE if device.type == "cuda" else CPU_SHAPE
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=usual["batch"])
    parser.add_argument("--tokens", type=int, default=usual["tokens"], help="T, of a row")
    parser.add_argument("--heads", type=int, nargs="+", default=usual["heads"], help="of queries")
    parser.add_argument("--kv-heads", type=int, help="of keys and values (default: as many as of queries)")
    parser.add_argument("--head-dim", type=int, default=usual["head_dim"])
    parser.add_argument("--windows", type=int, nargs="+", default=usual["windows"], help="of T or more: full")
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), help="default: all that serve here")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    terms = parse(arguments, device)
    serving = [name for name, kernel in KERNELS.items() if kernel.serves(device, torch.bfloat16, terms.head_dim)]
    kernels = [name for name in serving if name in (terms.kernels or serving)]
    if not kernels:
        raise SystemExit(f"none of these serves here; what does: {', '.join(serving)}")
    began = time.monotonic()
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{hardware}, torch {torch.__version__}, {terms.batch} rows of {terms.tokens:,} tokens, heads of {terms.head_dim}")
    print(title_line())
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
    print(f"{time.monotonic() - began:.0f} s in all")
    found = {"hardware": hardware, "torch": torch.__version__, "timings": [asdict(timing) for timing in timings]}
    text = json.dumps(found)
    if terms.json:
        terms.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
