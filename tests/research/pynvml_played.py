"""NVIDIA's management library, played: one GPU, and a count of how often it was opened and closed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest


class NVMLError(Exception):
    """As pynvml's."""


class Played(ModuleType):
    """Answers for GPU 3, which is called GPU-abc; raises for any other, and for all while it is closed."""

    def __init__(self, total: int) -> None:
        super().__init__("pynvml")
        self.total = total
        self.opened = self.closed = 0
        self.NVMLError = NVMLError

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._gpu(True)
        return "595.1"

    def _gpu(self, wanted: bool) -> str:
        if self.opened == self.closed or not wanted:
            raise NVMLError("closed" if wanted else "not found")
        return "gpu"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self._gpu(index == 3)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return self._gpu(uuid == "GPU-abc")

    def nvmlDeviceGetMemoryInfo(self, gpu: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._gpu(gpu == "gpu"), total=self.total, free=70)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: str) -> tuple[int, int]:
        self._gpu(gpu == "gpu")
        return 9, 0

    def nvmlDeviceGetMinorNumber(self, gpu: str) -> int:
        self._gpu(gpu == "gpu")
        return 5

    def nvmlDeviceGetUUID(self, gpu: str) -> str:
        self._gpu(gpu == "gpu")
        return "GPU-abc"

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:
        self._gpu(gpu == "gpu")
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in ((1, 10), (2, 20), (3, None))]


def play_pynvml(monkeypatch: pytest.MonkeyPatch, visible: str = "3", *, total: int = 80) -> Played:
    """Takes pynvml's place, with `visible` in CUDA_VISIBLE_DEVICES and `total` bytes on the GPU."""
    played = Played(total)
    monkeypatch.setitem(sys.modules, "pynvml", played)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return played
