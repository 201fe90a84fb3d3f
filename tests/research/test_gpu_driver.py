"""What is asked of NVIDIA's driver. NVML is played: what it is asked, and that it is closed again."""

from collections.abc import Callable

import pytest

from research.gpu_driver import driver_version, first_gpu, gpu_bytes, gpu_capability, gpu_minor, gpu_name_for_cuda
from research.run import best_device
from tests.research.pynvml_played import NVMLError, play_pynvml


@pytest.mark.parametrize("visible", ["3", "GPU-abc", "GPU-abc,GPU-other"])
@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (gpu_bytes, 80),
        (gpu_capability, (9, 0)),
        (gpu_minor, 5),
        (driver_version, "595.1"),
        (gpu_name_for_cuda, "GPU-abc"),
        (best_device, ("cuda:0", 80, 70)),
    ],
)
def test_the_first_visible_gpu_is_asked_and_nvml_closed(
    monkeypatch: pytest.MonkeyPatch, visible: str, ask: Callable[[], object], answer: object
) -> None:
    played = play_pynvml(monkeypatch, visible)
    assert ask() == answer
    assert played.opened == played.closed


@pytest.mark.parametrize("visible", ["0", "GPU-other"])
def test_a_gpu_that_is_not_there_raises_and_nvml_is_closed(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    played = play_pynvml(monkeypatch, visible)
    assert gpu_capability() is None
    with pytest.raises(NVMLError):
        gpu_bytes()
    assert played.opened == played.closed == 2


def test_without_a_driver_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    played = play_pynvml(monkeypatch)
    monkeypatch.setattr(played, "nvmlInit", fail)
    assert driver_version() is None and gpu_capability() is None
    assert played.closed == 0, "what did not open is not shut down"


def fail() -> None:
    raise NVMLError


def test_the_memory_of_some_processes_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    play_pynvml(monkeypatch)
    with first_gpu() as gpu:
        assert gpu.bytes_of({1, 2, 3}) == 30 and gpu.bytes_of({3, 4}) == 0
