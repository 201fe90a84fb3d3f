"""Which attention kernel this machine is fastest with: measured once, then handed to every run.

Measuring takes a process of its own, as the judge's may not use the GPU before it has forked its children. Only library code
runs in it, so what it compiles goes straight to the folder that runs share.
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
"""So many that a GPU needs longer than Python takes to launch its kernels."""

WINDOW_RATIOS = (1.0, 0.5, 0.125)
"""Of the sequence: full attention, the original's short window, and the one of the standard recipe."""

ROUNDS = 10
MOST_SECONDS = 300.0
TRIED_AGAIN_SECONDS = 3600.0
"""After a failure: not by each run, which it would cost up to MOST_SECONDS."""

NOT_TO_BE_DOUBTED = "torch-flash"
"""The choice where measuring failed: a part of torch, where a package's kernel may be what broke."""

NEEDS_COMPILING = "flex"
"""Without torch.compile it computes whole score matrices. Compiling takes it half a minute of the first run."""

FASTER_THAN_FLEX = ("flash-attn-4", "flash-attn-3")
"""On every GPU that they serve."""


def choose(contract: Contract, device: str, shared: Path, *, environment: Mapping[str, str] = os.environ) -> str | None:
    """The name of the fastest kernel for `device`, measured now if it never was; None where there is nothing to choose.

    `shared` is the folder of compiled code for this software and kind of device; the choice and the milliseconds lie there,
    and the compiled kernels. `environment` is that of the process that measures: it says which GPUs are visible.
    """
    if not device.startswith("cuda"):
        return None
    stored = measured_file(contract, shared)
    if not stored.exists() and not _has_failed_lately(stored):
        _measure_apart(contract, device, stored, environment)
    try:
        milliseconds: Mapping[str, float] = json.loads(stored.read_text())["milliseconds"]
    except (OSError, ValueError, KeyError):
        return NOT_TO_BE_DOUBTED
    return min(milliseconds, key=lambda name: milliseconds[name], default=NOT_TO_BE_DOUBTED)


def measured_file(contract: Contract, shared: Path) -> Path:
    """Where the choice lies, once measuring has gone well; else a file of that name in `.log` says why it has not."""
    return shared / f"attention-{contract.MAX_SEQ_LEN}.json"


def _has_failed_lately(stored: Path) -> bool:
    try:
        return time.time() - stored.with_suffix(".log").stat().st_mtime < TRIED_AGAIN_SECONDS
    except OSError:
        return False


def _measure_apart(contract: Contract, device: str, stored: Path, base: Mapping[str, str]) -> None:
    stored.parent.mkdir(parents=True, exist_ok=True)
    module = "research.kernels.attention_choice"
    command = [sys.executable, "-m", module, "--device", device, "--tokens", str(contract.MAX_SEQ_LEN)]
    with tempfile.TemporaryDirectory(prefix="autoresearch-attention-") as folder:
        environment = dict(base) | compile_cache.variables(Path(folder))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_code(), environment.get("PYTHONPATH")]))
        try:
            done = subprocess.run([*command, "--out", str(stored)], env=environment, capture_output=True, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            stored.with_suffix(".log").write_text(f"measuring took more than {MOST_SECONDS:.0f} s\n")
            return
        compile_cache.add_to_shared(Path(folder), stored.parent)
    if done.returncode != 0:
        stored.with_suffix(".log").write_bytes(done.stdout + done.stderr)


def _code() -> str:
    return str(research_folder().parent)


def measure(tokens: int, device: torch.device) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of a forward and a backward pass, summed over WINDOW_RATIOS, by kernel; and why others failed."""
    milliseconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, kernel in KERNELS.items():
        if not (is_worth_measuring(name, milliseconds) and kernel.serves(device, torch.bfloat16, HEAD_DIM)):
            continue
        try:
            milliseconds[name] = sum(_time(name, tokens, max(1, int(tokens * ratio)), device) for ratio in WINDOW_RATIOS)
        except Exception as error:  # a kernel that this machine can't compile or run is one not to choose
            failures[name] = f"{type(error).__name__}: {str(error)[:300]}"
    return milliseconds, failures


def is_worth_measuring(name: str, milliseconds: Mapping[str, float]) -> bool:
    """Whether a kernel could be the fastest, by what is measured so far. SDPA is for machines that have nothing better."""
    if name == "sdpa":
        return False
    return name != NEEDS_COMPILING or milliseconds.keys().isdisjoint(FASTER_THAN_FLEX)


def _time(name: str, tokens: int, window: int, device: torch.device) -> float:
    """The median of ROUNDS, in milliseconds."""
    shape = (max(1, BATCH_TOKENS // tokens), tokens, HEADS, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    grad = torch.randn(shape, device=device, dtype=torch.bfloat16)
    attend = KERNELS[name].attend
    if name == NEEDS_COMPILING:
        attend = torch.compile(attend, dynamic=False)
    found: list[float] = []
    for _ in range(ROUNDS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        torch.autograd.grad(attend(q, k, v, window), (q, k, v), grad)
        end.record()
        end.synchronize()
        found.append(float(begin.elapsed_time(end)))
    return statistics.median(found[3:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m research.kernels.attention_choice", description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tokens", type=int, required=True, help="of a row")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    milliseconds, failures = measure(options.tokens, torch.device(options.device))
    text = json.dumps({"milliseconds": milliseconds, "failed": failures}, indent=1)
    write_atomically(options.out, text + "\n", overwrite=False)  # whoever was first has chosen for all GPUs of this kind
    print(text)


if __name__ == "__main__":
    main()
