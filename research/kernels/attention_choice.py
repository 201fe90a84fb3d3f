"""Chooses the fastest attention kernel for this machine: measured once, then used by every run.

The measurement runs in a subprocess, because the judge's process must not use the GPU before it has forked its children. The
subprocess runs only library code, so the kernels that it compiles are added to the shared compile cache directly.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from research.contract import Contract
from research.files import research_folder, write_atomically
from research.kernels import compile_cache
from research.kernels.attention import KERNELS

HEADS, HEAD_DIM = 4, 128
BATCH_TOKENS = 2**17
"""Tokens per batch; large enough that kernel time, not launch overhead in Python, dominates."""

WINDOW_RATIOS = (1.0, 0.5, 0.125)
"""Windows to measure, as fractions of the sequence length: full attention, and the short windows of the original and of the
standard recipe."""

ROUNDS = 10
TIMEOUT_SECONDS = 300.0
RETRY_SECONDS = 3600.0
"""Seconds after a failed measurement before the next attempt, which can delay a run by up to TIMEOUT_SECONDS."""

FALLBACK_KERNEL = "torch-flash"
"""Kernel to use if the measurement failed. It is part of torch, as a kernel of another package may have caused the failure."""

NEEDS_COMPILING = "flex"
"""Kernel that materialises whole score matrices unless it is compiled, which takes half a minute of the first run."""

FASTER_THAN_FLEX = ("flash-attn-4", "flash-attn-3")
"""Kernels that are faster than FlexAttention on every GPU that they support."""


def choose(contract: Contract, device: str, shared: Path, *, environment: Mapping[str, str] = os.environ) -> str | None:
    """The name of the fastest kernel for `device`, measured now if it has not been yet; None if `device` is not a CUDA device.

    Args:
        shared: folder of compiled code for this software and kind of device; the measurement is stored there as well
        environment: environment of the process that measures, which says which GPUs are visible
    """
    if not device.startswith("cuda"):
        return None
    stored = measured_file(contract, shared)
    if not stored.exists() and not _has_failed_recently(stored):
        _measure_in_subprocess(contract, device, stored, environment)
    try:
        milliseconds: Mapping[str, float] = json.loads(stored.read_text())["milliseconds"]
    except (OSError, ValueError, KeyError):
        return FALLBACK_KERNEL
    return min(milliseconds, key=lambda name: milliseconds[name], default=FALLBACK_KERNEL)


def measured_file(contract: Contract, shared: Path) -> Path:
    """The file of a successful measurement. After a failed one, a file with the suffix `.log` says why instead."""
    return shared / f"attention-{contract.MAX_SEQ_LEN}.json"


def _has_failed_recently(stored: Path) -> bool:
    try:
        return time.time() - stored.with_suffix(".log").stat().st_mtime < RETRY_SECONDS
    except OSError:
        return False


def _measure_in_subprocess(contract: Contract, device: str, stored: Path, base: Mapping[str, str]) -> None:
    stored.parent.mkdir(parents=True, exist_ok=True)
    module = "research.kernels.attention_choice"
    options = ["--device", device, "--tokens", str(contract.MAX_SEQ_LEN), "--out", str(stored)]
    command = [sys.executable, "-P", "-m", module, *options]
    with tempfile.TemporaryDirectory(prefix="autoresearch-attention-") as folder:
        environment = dict(base) | compile_cache.variables(Path(folder))
        paths = [str(research_folder().parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            stored.with_suffix(".log").write_text(f"the measurement took more than {TIMEOUT_SECONDS:.0f} s\n")
            return
        compile_cache.add_to_shared(Path(folder), stored.parent)
    if done.returncode != 0:
        stored.with_suffix(".log").write_bytes(done.stdout + done.stderr)


def measure(tokens: int, device: torch.device) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds per forward and backward pass by kernel, summed over WINDOW_RATIOS, and errors of kernels that failed."""
    milliseconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, kernel in KERNELS.items():
        if not (is_worth_measuring(name, milliseconds) and kernel.supports(device, torch.bfloat16, HEAD_DIM)):
            continue
        try:
            milliseconds[name] = sum(_time(name, tokens, max(1, int(tokens * ratio)), device) for ratio in WINDOW_RATIOS)
        except Exception as error:  # this machine can't compile or run the kernel
            failures[name] = f"{type(error).__name__}: {str(error)[:300]}"
    return milliseconds, failures


def is_worth_measuring(name: str, milliseconds: Mapping[str, float]) -> bool:
    """Whether a kernel could be the fastest, given the measurements so far. SDPA never is if another kernel is supported."""
    if name == "sdpa":
        return False
    return name != NEEDS_COMPILING or milliseconds.keys().isdisjoint(FASTER_THAN_FLEX)


def _time(name: str, tokens: int, window: int, device: torch.device) -> float:
    """Median milliseconds per forward and backward pass over ROUNDS passes."""
    shape = (max(1, BATCH_TOKENS // tokens), tokens, HEADS, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    grad = torch.randn(shape, device=device, dtype=torch.bfloat16)
    attend = KERNELS[name].attend
    if name == NEEDS_COMPILING:
        attend = torch.compile(attend, dynamic=False)
    times: list[float] = []
    for _ in range(ROUNDS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        torch.autograd.grad(attend(q, k, v, window), (q, k, v), grad)
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return statistics.median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m research.kernels.attention_choice", description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tokens", type=int, required=True, help="sequence length")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    milliseconds, failures = measure(options.tokens, torch.device(options.device))
    text = json.dumps({"milliseconds": milliseconds, "failed": failures}, indent=1)
    write_atomically(options.out, text + "\n", overwrite=False)  # the first counts for all GPUs of this kind
    print(text)


if __name__ == "__main__":
    main()
