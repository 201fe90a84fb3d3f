"""What this machine can train on: GPUs (found through NVML), an Apple GPU, or the CPU.

Nothing here imports torch or makes a CUDA context: the farm's own process stays light and off the GPUs. psutil and pynvml
are imported where they are used, since every command parses `--devices`.
"""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from research.cpu_cores import usable_cores
from research.errors import UserError
from research.gpu_driver import nvml_if_present
from research.gpu_memory import GIB

DeviceKind = Literal["cuda", "mps", "cpu"]


@dataclass(frozen=True, kw_only=True)
class DeviceRequest:
    """The value of `--devices`, before the machine's devices are known."""

    kind: DeviceKind | None = None
    """None: GPUs if there are any, else the Apple GPU, else the CPU."""
    gpus: tuple[int, ...] | None = None
    """Numbers of the GPUs to use; None: all of the kind."""

    @staticmethod
    def parse(text: str) -> "DeviceRequest":
        """The request that `0,2`, `cuda`, `mps` or `cpu` makes. Raises UserError."""
        for kind in get_args(DeviceKind):
            if text == kind:
                return DeviceRequest(kind=kind)
        numbers = [word.strip().removeprefix("cuda:") for word in text.split(",")]
        if not all(number.isdecimal() for number in numbers):
            raise UserError(f"--devices must be GPU numbers (such as 0,2), cuda, mps or cpu, not {text!r}.")
        gpus = tuple(int(number) for number in numbers)
        if len(set(gpus)) < len(gpus):
            raise UserError(f"--devices {text} names a GPU twice.")
        return DeviceRequest(kind="cuda", gpus=gpus)

    def __str__(self) -> str:
        """The text that `parse` turns into this request; empty for the default."""
        return ",".join(map(str, self.gpus)) if self.gpus is not None else self.kind or ""


ANY_DEVICE = DeviceRequest()
"""The request if `--devices` isn't given."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that runs can train on: a GPU, the Apple GPU, or the CPU."""

    kind: DeviceKind
    index: int
    """NVML's number for a GPU; 0 for the others."""
    name: str
    memory_bytes: int
    """The GPU's memory, or the limit for its runs; the machine's memory for `mps` and `cpu`."""
    free_bytes: int
    """Memory that was free when the device was detected, within the limit."""
    limited: bool = False
    """Whether `memory_bytes` is a limit (`--gpu-memory`)."""
    power_limit_watts: float | None = None
    capability: tuple[int, int] | None = None
    """CUDA compute capability; (9, 0) is Hopper."""
    threads: int
    """CPU threads that its runs may use."""
    uuid: str | None = None
    """CUDA's own name for the GPU, which doesn't depend on the numbering."""
    node: str = ""
    """Name of the cluster node that has it; empty for this machine."""

    @property
    def key(self) -> str:
        """The name in messages and logs: `cuda:1`, `mps` or `cpu`, on a cluster prefixed with `NODE/`. Unique in a farm."""
        name = f"cuda:{self.index}" if self.kind == "cuda" else self.kind
        return f"{self.node}/{name}" if self.node else name

    @property
    def gpu_memory_bytes(self) -> int | None:
        """The GPU memory limit for its runs; None: no limit."""
        return self.memory_bytes if self.limited else None

    @property
    def torch_device(self) -> str:
        """The name inside a run, whose process sees one GPU only: `cuda:0`, `mps` or `cpu`."""
        return "cuda:0" if self.kind == "cuda" else self.kind


@dataclass(frozen=True, kw_only=True)
class BusyProcess:
    """A process that uses a GPU for compute."""

    pid: int
    name: str
    memory_bytes: int | None
    """None if the driver doesn't report it (in a container, say)."""


def detect_devices(environment: Mapping[str, str] = os.environ) -> list[Device]:
    """This machine's devices, best first: the GPUs that CUDA_VISIBLE_DEVICES leaves visible, the Apple GPU, the CPU."""
    import psutil

    threads = usable_cores()
    memory = psutil.virtual_memory()
    devices = _gpus(environment.get("CUDA_VISIBLE_DEVICES"), threads)
    shared: dict[str, Any] = {"memory_bytes": memory.total, "free_bytes": memory.available, "threads": threads}
    if sys.platform == "darwin" and platform.machine() == "arm64":
        devices.append(Device(kind="mps", index=0, name=cpu_model(), **shared))
    devices.append(Device(kind="cpu", index=0, name=cpu_model(), **shared))
    return devices


def choose_devices(request: DeviceRequest = ANY_DEVICE, found: Sequence[Device] | None = None) -> tuple[Device, ...]:
    """The requested ones of the devices `found` (default: this machine's). They share the machine's threads.

    Raises UserError, which lists the available devices.
    """
    found = detect_devices() if found is None else found
    of_kind = {device.index: device for device in found if device.kind == (request.kind or found[0].kind)}
    wanted = tuple(of_kind) if request.gpus is None else request.gpus
    if not of_kind or not set(wanted) <= set(of_kind):
        there = ", ".join(f"{device.key.removeprefix('cuda:')} ({device.name})" for device in found)
        raise UserError(f"--devices {request} names a device that this machine doesn't have; it has {there}.")
    threads = max(1, found[-1].threads // len(wanted))
    return tuple(replace(of_kind[index], threads=threads) for index in wanted)


def limited(device: Device, limit: int | None) -> Device:
    """The device with its runs limited to `limit` bytes of GPU memory; unchanged if it has no more than that."""
    if limit is None or device.kind != "cuda" or limit >= device.memory_bytes:
        return device
    return replace(device, memory_bytes=limit, free_bytes=min(device.free_bytes, limit), limited=True)


def platform_identity(device: Device) -> str:
    """The hardware in one line. Scores under a time budget are comparable only if it is equal.

    A memory limit replaces the memory size, since it makes batches smaller and so changes scores.
    """
    memory = f"{device.memory_bytes / GIB:.4g} GB" if device.limited else f"{round(device.memory_bytes / GIB)} GB"
    if device.kind == "cuda":
        power = [] if device.power_limit_watts is None else [f"{device.power_limit_watts:.0f} W"]
        return ", ".join([device.name, memory, *power])
    if device.kind == "mps":
        return f"{device.name} GPU, {memory}"
    return f"{device.name}, {device.threads} thread{'s' if device.threads > 1 else ''}"


def busy_processes(device: Device) -> list[BusyProcess]:
    """Other processes that use this GPU now, which would slow runs down. Empty for other devices."""
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


def gpu_use_percent(device: Device) -> int | None:
    """Share of the last moments in which this GPU computed, whoever for; None if the driver doesn't say, and for others."""
    if device.kind != "cuda":
        return None
    with nvml_if_present() as nvml:
        if nvml is None:
            return None
        try:
            return int(nvml.nvmlDeviceGetUtilizationRates(_handle(nvml, device)).gpu)
        except nvml.NVMLError:  # MIG devices have none
            return None


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def _gpus(visible: str | None, threads: int) -> list[Device]:
    with nvml_if_present() as nvml:
        if nvml is None:
            return []
        devices = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            devices += [_gpu(nvml, part, index, threads) for part in _parts(nvml, handle)]
    # MIG devices share their card's number in NVML: renumber them, so that each has its own name
    devices = [replace(device, index=number) for number, device in enumerate(devices)]
    return devices if visible is None else _visible(devices, visible)


def _visible(devices: list[Device], visible: str) -> list[Device]:
    """The devices that CUDA_VISIBLE_DEVICES lists, in its order. Like CUDA, this ignores everything after an invalid entry."""
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
    except nvml.NVMLError:  # MIG devices and some laptops have none
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
    """The MIG devices of a card that is partitioned, else the card itself."""
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
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "?"
