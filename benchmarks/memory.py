"""Measures the GPU memory of runs, against the estimate that their batch size was fitted by (see research/profiles.py).

    uv run python benchmarks/memory.py --profile small --gpu-memory 8 --budget 20 [DEVICE_BATCH_SIZE=16 ...]

Makes one run of the profile's train.py, and one of each variant. The GPU's used memory is polled many times per second: `all`
is the peak over all processes of the run, and the next columns are its peaks per phase; `torch` is what torch allocated in the
trainer, as reported by train.py; `fitted` is the profile's estimate of that. No other process may use the GPU meanwhile. The
exit status is 1 if a run has no score or exceeded its limit.
"""

import argparse
import asyncio
import json
import sys
import threading
from contextlib import ExitStack
from typing import Any

from benchmarks.terms import Terms, add_terms, engine_for, run_once, terms_of, variant_text
from cluster.hardware import Device, platform_identity
from research.errors import UserError
from research.gpu_driver import open_nvml
from research.gpu_memory import GIB, trainer_bytes
from research.hyperparameters import read_constants
from research.profiles import profile_named

POLL_SECONDS = 0.01


class MemoryMonitor:
    """Polls a GPU's used memory in a thread; keeps the peak of each phase of a run, in bytes above the use at the start."""

    def __init__(self, device: Device) -> None:
        self._opened = ExitStack()
        self._nvml = self._opened.enter_context(open_nvml())
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(device.uuid)
        self._used_at_start = self._used()
        self._phase, self.peaks = "startup", dict[str, int]()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def note_phase(self, progress: dict[str, Any]) -> None:
        """Takes the phase from the progress of a run."""
        self._phase = progress.get("phase") or self._phase

    def stop(self) -> dict[str, int]:
        """Ends the polling; returns the peaks by phase."""
        self._stopped.set()
        self._thread.join()
        self._opened.close()
        return self.peaks

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), self._used() - self._used_at_start)

    def _used(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)


def fitted_bytes(terms: Terms, rows: int) -> int:
    """The profile's estimate of the memory that the trainer allocates."""
    profile = profile_named(terms.profile)
    return profile.model_bytes + rows * terms.contract.MAX_SEQ_LEN * profile.device_bytes_per_token


async def measure(terms: Terms, variants: list[str]) -> list[dict[str, Any]]:
    """Runs the shipped train.py and each variant, one after the other; prints a line for each."""
    limit = terms.device.gpu_memory_bytes
    trainer_limit = trainer_bytes(terms.device.memory_bytes)
    total = "" if limit is None else f", all processes {limit / GIB:.2f}"
    print(f"in GB; limit of the trainer {trainer_limit / GIB:.2f}{total}")
    print(f"{'rows':>6}{'all':>8}{'startup':>9}{'train':>8}{'score':>8}{'torch':>8}{'fitted':>8}  run")
    found = []
    async with engine_for(terms) as engine:
        for name in ["as it is", *variants]:
            text = terms.train_py if name == "as it is" else variant_text(name, terms)
            rows = read_constants(text).get("DEVICE_BATCH_SIZE")
            assert isinstance(rows, int)
            monitor = MemoryMonitor(terms.device)
            result = await run_once(engine, text, terms, seed=1, on_progress=monitor.note_phase)
            peaks = monitor.stop()
            run: dict[str, Any] = {
                "run": name, "status": result.status, "reason": result.reason, "rows": rows, "limit": limit, "peaks": peaks,
                "all": max(peaks.values(), default=0), "torch": (result.reported_peak_memory_mb or 0.0) * 2**20,
                "fitted": fitted_bytes(terms, rows), "val_bpb": result.val_bpb,
            }  # fmt: skip
            run["kept"] = result.status == "ok" and (limit is None or run["all"] <= limit)
            sizes = [
                run["all"],
                *(peaks.get(phase, 0) for phase in ("startup", "training", "scoring")),
                run["torch"],
                run["fitted"],
            ]
            columns = "".join(f"{size / GIB:>{width}.2f}" for size, width in zip(sizes, (8, 9, 8, 8, 8, 8), strict=True))
            print(f"{rows:>6}{columns}  {name}: {result.status}, {result.reason}", flush=True)
            found.append(run)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the GPU memory of runs.")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="NAME=value ..., or another train.py")
    add_terms(parser)
    options = parser.parse_args()
    try:
        terms = terms_of(options)
        if terms.device.kind != "cuda":
            raise UserError("No CUDA device is visible: run this benchmark on a machine with an NVIDIA GPU.")
        print(terms.title())
        found = asyncio.run(measure(terms, options.variants))
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps({"platform": platform_identity(terms.device), "profile": terms.profile, "runs": found}))
    sys.exit(0 if all(run["kept"] for run in found) else 1)


if __name__ == "__main__":
    main()
