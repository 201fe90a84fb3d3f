"""What this machine can train on: GPUs by NVML, an Apple GPU by the platform, else the CPU.

Nothing here imports torch or makes a CUDA context: the farm's own process stays light and off the GPUs.
"""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from research.errors import UserError
from research.gpu_driver import nvml_if_present
from research.gpu_memory import GIB
from research.machine import usable_cores

DeviceKind = Literal["cuda", "mps", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Device:
    """One thing that can train."""

    kind: DeviceKind
    index: int
    """NVML's number for a GPU; 0 for the others."""
    name: str
    memory_bytes: int
    """The device's own memory, or the limit of it that its runs have; the machine's for `mps` and `cpu`."""
    free_bytes: int
    """Free when it was looked at, within the limit."""
    limited: bool = False
    """Whether `memory_bytes` is a limit (`--gpu-memory`)."""
    power_limit_watts: float | None = None
    capability: tuple[int, int] | None = None
    """CUDA's version of a GPU: (9, 0) is Hopper."""
    threads: int
    """CPU threads that its runs may use."""
    uuid: str | None = None
    """How CUDA names the GPU whatever the order of its numbers."""
    node: str = ""
    """The cluster's node that has it; empty for this machine."""

    @property
    def key(self) -> str:
        """How people and logs name it: `cuda:1`, `mps`, `cpu`, on a cluster behind its node's name. Unique in a farm."""
        name = f"cuda:{self.index}" if self.kind == "cuda" else self.kind
        return f"{self.node}/{name}" if self.node else name

    @property
    def gpu_memory_bytes(self) -> int | None:
        """The limit that its runs have; None: none."""
        return self.memory_bytes if self.limited else None

    @property
    def torch_device(self) -> str:
        """What a run calls it: its process sees one GPU only, so that is always `cuda:0`."""
        return "cuda:0" if self.kind == "cuda" else self.kind


@dataclass(frozen=True, kw_only=True)
class BusyProcess:
    """A process that computes on a GPU."""

    pid: int
    name: str
    memory_bytes: int | None
    """None where the driver doesn't tell (in a container, say)."""


def detect_devices(environment: Mapping[str, str] = os.environ) -> list[Device]:
    """All that can train here, best first: GPUs that CUDA_VISIBLE_DEVICES leaves visible, the Apple GPU, the CPU."""
    threads = usable_cores()
    memory = psutil.virtual_memory()
    devices = _gpus(environment.get("CUDA_VISIBLE_DEVICES"), threads)
    shared: dict[str, Any] = {"memory_bytes": memory.total, "free_bytes": memory.available, "threads": threads}
    if sys.platform == "darwin" and platform.machine() == "arm64":
        devices.append(Device(kind="mps", index=0, name=cpu_model(), **shared))
    devices.append(Device(kind="cpu", index=0, name=cpu_model(), **shared))
    return devices


def choose_devices(text: str | None, found: list[Device] | None = None) -> tuple[Device, ...]:
    """The devices that `--devices` names: `0,2`, `cpu`, `mps`; None is all GPUs, else the Apple GPU, else the CPU.

    The machine's threads are shared out among them. A UserError says what there is to choose from.
    """
    found = detect_devices() if found is None else found
    if text is None:
        chosen = [device for device in found if device.kind == found[0].kind]
    else:
        chosen = [_device_named(word.strip(), found) for word in text.split(",")]
    if len({device.key for device in chosen}) < len(chosen):
        raise UserError(f"--devices {text} names a device twice.")
    threads = max(1, found[-1].threads // len(chosen))
    return tuple(replace(device, threads=threads) for device in chosen)


def limited(device: Device, limit: int | None) -> Device:
    """A GPU with runs that take at most `limit` bytes of its memory; as it is where it has no more."""
    if limit is None or device.kind != "cuda" or limit >= device.memory_bytes:
        return device
    return replace(device, memory_bytes=limit, free_bytes=min(device.free_bytes, limit), limited=True)


def platform_identity(device: Device) -> str:
    """One line that says on what a wall-clock score was made: scores compare only where it is equal.

    A limit of memory stands in the memory's place: it makes batches smaller, and scores other ones.
    """
    memory = f"{device.memory_bytes / GIB:.4g} GB" if device.limited else f"{round(device.memory_bytes / GIB)} GB"
    if device.kind == "cuda":
        power = [] if device.power_limit_watts is None else [f"{device.power_limit_watts:.0f} W"]
        return ", ".join([device.name, memory, *power])
    if device.kind == "mps":
        return f"{device.name} GPU, {memory}"
    return f"{device.name}, {device.threads} thread{'s' if device.threads > 1 else ''}"


def busy_processes(device: Device) -> list[BusyProcess]:
    """Who else computes on this GPU now: it would cost runs time under the clock. Empty for other devices."""
    if device.kind != "cuda":
        return []
    with nvml_if_present() as nvml:
        if nvml is None:
            return []
        try:
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml, device))
        except nvml.NVMLError:
            return []
    return [
        BusyProcess(pid=process.pid, name=_process_name(process.pid), memory_bytes=process.usedGpuMemory)
        for process in processes
        if process.pid != os.getpid()
    ]


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def _device_named(word: str, found: list[Device]) -> Device:
    wanted = f"cuda:{word}" if word.isdigit() else word
    for device in found:
        if device.key == wanted:
            return device
    there = ", ".join(f"{device.key.removeprefix('cuda:')} ({device.name})" for device in found)
    raise UserError(f"--devices: there is no {word!r} here. What there is: {there}.")


def _gpus(visible: str | None, threads: int) -> list[Device]:
    with nvml_if_present() as nvml:
        if nvml is None:
            return []
        devices = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            devices += [_gpu(nvml, part, index, threads) for part in _parts(nvml, handle)]
    # the parts of a split card share its number in NVML: count through, so that each has a name of its own
    devices = [replace(device, index=number) for number, device in enumerate(devices)]
    return devices if visible is None else _visible(devices, visible)


def _visible(devices: list[Device], visible: str) -> list[Device]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order. As CUDA does, whatever follows a wrong entry is ignored."""
    chosen = []
    for word in filter(None, (word.strip() for word in visible.split(","))):
        match = [d for d in devices if str(d.index) == word or (d.uuid or "").startswith(word)]
        if not match or word == "-1":
            break
        chosen.append(match[0])
    return chosen


def _gpu(nvml: Any, handle: Any, index: int, threads: int) -> Device:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        power_limit = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000
    except nvml.NVMLError:  # a part of a split card, and some laptops
        power_limit = None
    try:
        capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        capability = None
    return Device(
        kind="cuda",
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(memory.total),
        free_bytes=int(memory.free),
        power_limit_watts=power_limit,
        capability=capability,
        threads=threads,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
    )


def _parts(nvml: Any, handle: Any) -> list[Any]:
    """The MIG devices of a card that is split into some, else the card itself."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return [handle]
    except nvml.NVMLError:
        return [handle]
    parts = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            parts.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
        except nvml.NVMLError:
            continue
    return parts


def _handle(nvml: Any, device: Device) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(device.uuid)


def _process_name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "?"
