"""What other processes do on this machine before runs start. A machine that is shared gives runs unequal time to train."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from cluster.hardware import Device, busy_processes, gpu_use_percent
from research.formatting import counted, shortened

MEASURED_SECONDS = 0.5

SHORT_SHARE = 0.1
"""Share of the CPU cores that runs want, above which a lack of them is told: half a second of an idle desktop takes less."""

NAMED_CORES = 0.1
"""CPU cores that a process must use to be named."""

LINE_WIDTH = 100
"""Columns of a warning."""

BUSY_GPU_PERCENT = 10
"""Utilisation of a GPU above which it is busy: an idle one has 0."""


@dataclass(frozen=True, kw_only=True)
class CpuUse:
    """The use of this process's CPU cores by all but it and what it started, the hypervisor's other guests among them."""

    cores: int
    """CPU cores that this process may run on."""
    others: float
    """How many of them were busy with others, on average."""
    names: tuple[str, ...] = ()
    """The busiest processes, as `python (4711)`; empty where they are in another container."""


def busy_lines(devices: Sequence[Device]) -> list[str]:
    """Warnings before runs on these devices; none if nothing else uses them. Takes half a second."""
    return [*(line for device in devices for line in gpu_lines(device)), *cpu_lines(measure_cpu_use(), devices)]


def gpu_lines(device: Device) -> list[str]:
    """A warning if a GPU is in use; none for other devices."""
    if device.kind != "cuda":
        return []
    processes, percent = busy_processes(device), gpu_use_percent(device) or 0
    if processes:
        named = ", ".join(f"{process.name} ({process.pid})" for process in processes[:3])
        others = counted(len(processes), "other process", "other processes")
        return [f"warning: {device.key} is used by {others} ({named}): scores will suffer"]
    if percent > BUSY_GPU_PERCENT:
        return [f"warning: {device.key} is {percent}% busy, with processes that can't be seen from here: scores will suffer"]
    return []


def cpu_lines(use: CpuUse, devices: Sequence[Device]) -> list[str]:
    """A warning if others leave fewer CPU cores than the devices' runs want: their threads, or one per GPU to feed it."""
    wanted = sum(device.threads if device.kind == "cpu" else 1 for device in devices)
    if use.cores - use.others >= (1 - SHORT_SHARE) * wanted:
        return []
    named = f": {', '.join(use.names)}" if use.names else ""
    return [
        shortened(f"warning: other processes use {use.others:.1f} of {counted(use.cores, 'CPU core')}{named}", LINE_WIDTH),
        "  Runs get unequal shares of it, so chance may look like a gain: wait for them or end them",
    ]


def measure_cpu_use(seconds: float = MEASURED_SECONDS) -> CpuUse:
    """What others use of this process's CPU cores now, measured for some seconds. What it has started is its own use."""
    began, busy_before, used_before = time.monotonic(), _busy_seconds(), dict(_processes())
    time.sleep(seconds)
    taken = time.monotonic() - began
    busy, used = sum(_busy_seconds()) - sum(busy_before), dict(_processes())
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    spent = {
        process: (now - used_before.get(process, 0.0 if process[0] in own else now)) / taken for process, now in used.items()
    }
    ours = sum(cores for (pid, _, _), cores in spent.items() if pid in own)
    theirs = sorted((cores, f"{name} ({pid})") for (pid, _, name), cores in spent.items() if pid not in own)
    others = min(max(busy / taken - ours, 0.0), len(busy_before))
    names = tuple(name for cores, name in theirs[:-4:-1] if cores >= NAMED_CORES)
    return CpuUse(cores=len(busy_before), others=others, names=names)


def _busy_seconds() -> list[float]:
    """Seconds that each CPU core of this process's affinity has been busy, or stolen by the hypervisor."""
    times = psutil.cpu_times(percpu=True)
    chosen = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(len(times))
    idle = ("idle", "iowait", "guest", "guest_nice")  # guests' time is in user and nice as well
    return [
        sum(value for name, value in times[core]._asdict().items() if name not in idle) for core in chosen if core < len(times)
    ]


def _processes() -> Iterator[tuple[tuple[int, float, str], float]]:
    """The machine's processes as (pid, start, name), with the CPU seconds that each has used."""
    for process in psutil.process_iter(["pid", "create_time", "name", "cpu_times"]):
        known = process.info
        if known["cpu_times"] is not None:
            used = known["cpu_times"].user + known["cpu_times"].system
            yield (known["pid"], known["create_time"] or 0.0, known["name"] or "?"), used
