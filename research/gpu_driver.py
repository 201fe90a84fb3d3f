"""What NVIDIA's driver tells of the GPU that this process sees, by NVML: asking CUDA would start it.

NVML is shut down after each question: a process that is forked off would have it open on descriptors that it then closes, and
torch asks NVML there, too.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any


class Gpu:
    """The first GPU that this process sees, as long as NVML is open. Everything raises NVMLError."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def memory(self) -> tuple[int, int]:
        """Total and free bytes."""
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return int(memory.total), int(memory.free)

    def capability(self) -> tuple[int, int]:
        """Its compute capability."""
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(self._handle)
        return int(major), int(minor)

    def minor(self) -> int:
        """The number in the name of its device file."""
        return int(self._nvml.nvmlDeviceGetMinorNumber(self._handle))

    def uuid(self) -> str:
        return str(self._nvml.nvmlDeviceGetUUID(self._handle))

    def bytes_of(self, pids: Collection[int]) -> int:
        """Its memory that processes hold; 0 where NVML can't tell them apart (in containers and virtual machines)."""
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        return sum(int(process.usedGpuMemory or 0) for process in processes if process.pid in pids)


@contextmanager
def first_gpu() -> Iterator[Gpu]:
    """By CUDA_VISIBLE_DEVICES, of which NVML knows nothing. Raises NVMLError."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield Gpu(pynvml, _handle(pynvml, first_visible()))
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any, visible: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(visible)) if visible.isdigit() else nvml.nvmlDeviceGetHandleByUUID(visible)


def first_visible() -> str:
    """Its number or name in CUDA_VISIBLE_DEVICES."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def gpu_bytes() -> int:
    """That GPU's memory. Raises NVMLError."""
    with first_gpu() as gpu:
        return gpu.memory()[0]


def gpu_capability() -> tuple[int, int] | None:
    """Its compute capability; None where there is no NVIDIA GPU that this process sees."""
    try:
        with first_gpu() as gpu:
            return gpu.capability()
    except Exception:  # no driver, no GPU, none visible: NVML has an error of its own for each
        return None


def gpu_minor() -> int:
    """The number in the name of that GPU's device file. Raises NVMLError."""
    with first_gpu() as gpu:
        return gpu.minor()


def gpu_name_for_cuda() -> str:
    """What CUDA_VISIBLE_DEVICES calls that GPU by itself: a number would count those that a sandbox shows. Raises NVMLError."""
    visible = first_visible()
    if not visible.isdigit():
        return visible
    with first_gpu() as gpu:
        return gpu.uuid()
