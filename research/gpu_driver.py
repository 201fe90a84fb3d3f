"""What NVIDIA's driver says about the machine's GPUs, through NVML: asking CUDA would initialise it.

NVML is shut down after each query. A forked process would inherit it open, on descriptors that it then closes, and torch
queries NVML in that process as well.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any


@contextmanager
def open_nvml() -> Iterator[Any]:
    """The NVML bindings (pynvml), initialised for the block. Raises NVMLError if there is no NVIDIA driver."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def nvml_if_present() -> Iterator[Any | None]:
    """The NVML bindings, initialised for the block; None if there is no NVIDIA driver."""
    import pynvml

    with ExitStack() as stack:
        nvml = None
        with suppress(pynvml.NVMLError):
            nvml = stack.enter_context(open_nvml())
        yield nvml


def driver_version() -> str | None:
    """The NVIDIA driver's version; None if there is no driver."""
    with nvml_if_present() as nvml:
        return None if nvml is None else str(nvml.nvmlSystemGetDriverVersion())


class Gpu:
    """One GPU while NVML is open. Every method raises NVMLError."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def memory(self) -> tuple[int, int]:
        """Total and free bytes of its memory."""
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return int(memory.total), int(memory.free)

    def capability(self) -> tuple[int, int]:
        """Its compute capability, major and minor: (9, 0) is Hopper."""
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(self._handle)
        return int(major), int(minor)

    def minor(self) -> int:
        """The number in the name of its device file, /dev/nvidia<number>."""
        return int(self._nvml.nvmlDeviceGetMinorNumber(self._handle))

    def uuid(self) -> str:
        """Its UUID, `GPU-...`, which doesn't depend on the order of GPUs; CUDA_VISIBLE_DEVICES accepts it."""
        return str(self._nvml.nvmlDeviceGetUUID(self._handle))

    def bytes_of(self, pids: Collection[int]) -> int:
        """Bytes of its memory that processes hold; 0 if NVML can't tell them apart (in containers and virtual machines)."""
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        return sum(int(process.usedGpuMemory or 0) for process in processes if process.pid in pids)


@contextmanager
def first_gpu() -> Iterator[Gpu]:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves to this process, for the block. Raises NVMLError."""
    with open_nvml() as nvml:
        name = first_visible()
        handle = nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
        yield Gpu(nvml, handle)


def first_visible() -> str:
    """The first GPU's number or UUID in CUDA_VISIBLE_DEVICES; `0` if that is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def gpu_bytes() -> int:
    """Bytes of memory of the first visible GPU. Raises NVMLError."""
    with first_gpu() as gpu:
        return gpu.memory()[0]


def gpu_capability() -> tuple[int, int] | None:
    """The first visible GPU's compute capability; None if there is no NVIDIA GPU."""
    try:
        with first_gpu() as gpu:
            return gpu.capability()
    except Exception:  # no driver, no GPU, none visible: NVML has a different error for each
        return None


def gpu_minor() -> int:
    """The number in the name of the first visible GPU's device file. Raises NVMLError."""
    with first_gpu() as gpu:
        return gpu.minor()


def gpu_name_for_cuda() -> str:
    """The first visible GPU's name for CUDA_VISIBLE_DEVICES in a sandbox, which shows no other GPU. Raises NVMLError.

    It is a UUID: a number would count the GPUs that the sandbox shows.
    """
    visible = first_visible()
    if not visible.isdigit():
        return visible
    with first_gpu() as gpu:
        return gpu.uuid()
