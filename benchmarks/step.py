"""Benchmarks a training step: time, memory and, on a GPU, time by kernel.

    uv run python benchmarks/step.py [--recipe original] [--against CHECKOUT] [--rounds 2] [--kernels 20] [NAME=value ...]

Runs steps of the shipped train.py on random tokens with Zipf-like frequencies, without prepared data or a judge. The sides are
this checkout, another one with --against, and this one with other constants. In each round, every side is measured once, in a
subprocess. Prints for each side the mean milliseconds per step without synchronisation between steps, the median milliseconds
of a step with synchronisation after it, and the ratios to this checkout; then the same as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).parent.parent
WARMUP_STEPS = 6
ZIPF_OFFSET = 10.0
"""Offset of the ranks in the Zipf-Mandelbrot law, which makes the most frequent tokens rarer than Zipf's law does."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Figures from one process."""

    ms: float
    """Mean milliseconds per step, without synchronisation between steps."""
    alone_ms: float
    """Median milliseconds of a step, with synchronisation after each."""
    tokens_per_second: float
    first_seconds: float
    """Seconds of the first step, most of them for compilation."""
    allocated_mb: float
    kernels: dict[str, tuple[float, float]]
    """Milliseconds and calls per step by kernel name, in descending order of time; empty on a CPU or without --kernels."""


# --- in a subprocess, with the measured checkout on its path ----------------------------------------------------------


def load_train_py(options: argparse.Namespace) -> ModuleType:
    """The checkout's train.py with the profile's contract and starting hyperparameters, and the constants in the options."""
    from research.child_settings import ChildSettings
    from research.hyperparameters import read_constants, write_constants
    from research.profiles import contract_for
    from research.starting_hyperparameters import fit_to_profile

    os.environ.update(ChildSettings(contract=contract_for(options.profile)).environment())
    path = options.measure / "research" / "train.py"
    text, _ = fit_to_profile(path.read_text(), options.profile, None, recipe=options.recipe)
    text = write_constants(text, read_constants("\n".join(word.replace("=", " = ", 1) for word in options.constants)))
    return module_of(text, "train")


def module_of(train_py: str, name: str) -> ModuleType:
    """A train.py's text as a module, registered under `name`, where torch.compile looks its globals up."""
    module = sys.modules[name] = ModuleType(name)
    exec(compile(train_py, f"{name}.py", "exec"), module.__dict__)
    return module


def measure(options: argparse.Namespace) -> Step:
    """Times steps in this process."""
    train = load_train_py(options)
    import torch

    from research.sandbox.linux import keep_freed_memory

    keep_freed_memory()  # as in the judge's processes
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = train.build_model()
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    rows, tokens = train.DEVICE_BATCH_SIZE, train.MAX_SEQ_LEN
    accumulation_steps = train.TOTAL_BATCH_SIZE // (rows * tokens)
    frequencies = 1 / (torch.arange(train.VOCAB_SIZE, device=device) + ZIPF_OFFSET)
    batches = [
        torch.multinomial(frequencies, rows * (tokens + 1), replacement=True).view(rows, -1)
        for _ in range(2 * accumulation_steps)
    ]
    optimizer = train.Optimizer(model)
    forward = torch.compile(model, dynamic=False) if on_gpu else model
    number = 0

    def step() -> None:
        nonlocal number
        for part in range(accumulation_steps):
            ids = batches[(number * accumulation_steps + part) % len(batches)]
            loss = forward(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            (loss / accumulation_steps).backward()
        optimizer.step(number, min(0.9, number / 100))
        model.zero_grad(set_to_none=True)
        number += 1

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def seconds_of(steps: int) -> float:
        wait()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        return time.perf_counter() - began

    first = seconds_of(1)
    seconds_of(options.warmup)
    alone = statistics.median(seconds_of(1) for _ in range(options.steps))
    each = seconds_of(options.steps) / options.steps
    return Step(
        ms=1000 * each,
        alone_ms=1000 * alone,
        tokens_per_second=train.TOTAL_BATCH_SIZE / each,
        first_seconds=first,
        allocated_mb=torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
        kernels=kernels_of(step) if on_gpu and options.kernels else {},
    )


def kernels_of(step: Callable[[], None], steps: int = 2) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls per step of each GPU kernel, measured by torch's profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    found = [event for event in profiler.key_averages() if event.device_type.name == "CUDA"]
    found.sort(key=lambda event: -event.self_device_time_total)
    return {event.key: (event.self_device_time_total / steps / 1000, event.count / steps) for event in found}


# --- the command ------------------------------------------------------------------------------------------------------


def run_measured(checkout: Path, constants: Sequence[str], options: argparse.Namespace) -> Step:
    """Measures one side once, in a subprocess."""
    script = checkout / "benchmarks" / "step.py"  # the checkout's own script, which knows where its modules are
    command = [sys.executable, str(script), "--measure", str(checkout), "--profile", options.profile, *constants]
    command += ["--steps", str(options.steps), "--kernels", str(options.kernels)]
    command += ["--warmup", str(options.warmup)] if options.warmup != WARMUP_STEPS else []  # older checkouts don't have it
    command += ["--recipe", options.recipe] if options.recipe else []
    paths = [str(checkout), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the steps of {checkout} failed with exit status {done.returncode}: see their output above")
    return Step(**json.loads(done.stdout.splitlines()[-1]))


def print_kernels(name: str, found: Step, count: int) -> None:
    total = sum(ms for ms, _ in found.kernels.values())
    print(f"\n{name}: kernels take {total:.1f} ms per step")
    for kernel, (ms, calls) in list(found.kernels.items())[:count]:
        print(f"{ms:9.3f} ms {calls:7.1f} x {1000 * ms / calls:9.1f} us  {kernel[:100]}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("constants", nargs="*", metavar="NAME=value", help="also measure this checkout with these constants")
    parser.add_argument("--profile", help="standard, small or cpu (default: chosen for the hardware)")
    parser.add_argument("--recipe", choices=("best", "original"), help="default: the profile's")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="also measure this other checkout of the project")
    parser.add_argument("--steps", type=int, default=30, help="timed steps per measurement (default: 30)")
    parser.add_argument("--warmup", type=int, default=WARMUP_STEPS, help="further steps that are not timed (default: 6)")
    parser.add_argument("--rounds", type=int, default=2, help="measurements per side (default: 2)")
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="list the N GPU kernels that take the most time")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def sides_of(options: argparse.Namespace) -> dict[str, tuple[Path, list[str]]]:
    """Checkout and changed constants of each side, by name."""
    from benchmarks.terms import TRAIN_PY, constants_of
    from research.errors import UserError
    from research.hyperparameters import write_constants

    sides: dict[str, tuple[Path, list[str]]] = {"this checkout": (CHECKOUT, [])}
    if options.against:
        if not (options.against / "research" / "train.py").is_file():
            raise SystemExit(f"There is no research/train.py in {options.against}: name a checkout of this project.")
        sides["the other checkout"] = (options.against.resolve(), [])
    if options.constants:
        try:
            write_constants(TRAIN_PY.read_text(), constants_of(" ".join(options.constants)))
        except UserError as error:
            raise SystemExit(str(error)) from None
        sides[" ".join(options.constants)] = (CHECKOUT, options.constants)
    return sides


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.measure:
        print(json.dumps(asdict(measure(options))))
        return
    from cluster.hardware import choose_devices, platform_identity
    from research.profiles import choose_profile

    device = choose_devices()[0]
    options.profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    sides = sides_of(options)
    print(f"{platform_identity(device)}, profile {options.profile}, {options.steps} steps, {options.rounds} rounds")
    print(f"{'ms':>9}{'alone ms':>10}{'tokens/s':>13}{'MiB':>9}{'first s':>9}  side")
    found: dict[str, list[Step]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (checkout, constants) in sides.items():
            one = run_measured(checkout, constants, options)
            found[name].append(one)
            print(f"{one.ms:9.2f}{one.alone_ms:10.2f}{one.tokens_per_second:13,.0f}{one.allocated_mb:9,.0f}"
                  f"{one.first_seconds:9.1f}  {name}", flush=True)  # fmt: skip
    base = found["this checkout"]
    ratios = {
        name: statistics.median(b.ms / a.ms for a, b in zip(base, steps, strict=True))
        for name, steps in found.items()
        if steps is not base
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f} times as long as this checkout")
    for name, steps in found.items():
        if steps[-1].kernels:
            print_kernels(name, steps[-1], options.kernels)
    sides_found = {name: [asdict(one) for one in steps] for name, steps in found.items()}
    print(json.dumps({"platform": platform_identity(device), "profile": options.profile, "recipe": options.recipe,
                      "ratios": ratios, "sides": sides_found}))  # fmt: skip


if __name__ == "__main__":
    main()
