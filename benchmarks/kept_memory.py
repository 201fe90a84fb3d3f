"""Measures the speedup on a CPU if malloc keeps the memory of freed tensors (`research.sandbox.linux.keep_freed_memory`).

    uv run python benchmarks/kept_memory.py [--steps 40] [--pairs 3]

Times training steps of the shipped train.py under the `cpu` profile, alternately with and without it, each in a subprocess.
Prints milliseconds and page faults per step, then the same as JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from research.child_settings import ChildSettings
from research.profiles import contract_for
from research.sandbox.linux import keep_freed_memory
from research.starting_hyperparameters import fit_to_profile

TRAIN_PY = Path(__file__).parent.parent / "research" / "train.py"
WARMUP_STEPS = 5


def time_steps(steps: int) -> dict[str, float]:
    """Milliseconds and page faults per training step in this process."""
    contract = contract_for("cpu")
    os.environ.update(ChildSettings(contract=contract).environment())
    train: dict[str, object] = {"__name__": "train"}
    exec(compile(fit_to_profile(TRAIN_PY.read_text(), "cpu", None)[0], str(TRAIN_PY), "exec"), train)
    import torch

    model = train["build_model"]()  # type: ignore[operator]
    optimizer = train["Optimizer"](model)  # type: ignore[operator]
    rows = int(str(train["DEVICE_BATCH_SIZE"]))
    ids = torch.randint(contract.VOCAB_SIZE, (rows, contract.MAX_SEQ_LEN + 1))

    def step(number: int) -> None:
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(number, 0.1)
        model.zero_grad(set_to_none=True)

    for number in range(WARMUP_STEPS):
        step(number)
    faults, began = _faults(), time.monotonic()
    for number in range(steps):
        step(number)
    return {"ms": 1000 * (time.monotonic() - began) / steps, "faults": (_faults() - faults) / steps}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the speedup on a CPU if malloc keeps freed memory.")
    parser.add_argument("--steps", type=int, default=40, help="timed steps per process (default: 40)")
    parser.add_argument("--pairs", type=int, default=3, help="processes with and without, each (default: 3)")
    parser.add_argument("--measure", choices=("kept", "given back"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        if options.measure == "kept":
            keep_freed_memory()
        print(json.dumps(time_steps(options.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {"given back": [], "kept": []}
    for _ in range(options.pairs):
        for how, measured in found.items():
            command = [sys.executable, __file__, "--steps", str(options.steps), "--measure", how]
            measured.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for how, measured in found.items():
        times = ", ".join(f"{one['ms']:.1f}" for one in measured)
        faults = statistics.fmean(one["faults"] for one in measured)
        print(f"freed memory {how:<11} {times} ms per step, {faults:,.0f} page faults per step")
    ratio = statistics.median(a["ms"] / b["ms"] for a, b in zip(found["given back"], found["kept"], strict=True))
    print(f"{ratio:.2f} times the steps per second")
    print(json.dumps({"ratio": ratio, **found}))


if __name__ == "__main__":
    main()
