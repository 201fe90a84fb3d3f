"""How the processes of a run share a GPU's memory. The GPU itself is played: what torch is told, and what it answers."""

from typing import Any

import pytest
import torch

from research import feed
from research.child.setup import require_device
from research.gpu_memory import CONTEXT_BYTES, GIB, LEAST_LIMIT, buffer_bytes, child_bytes, scorer_bytes, trainer_bytes

CUDA = torch.device("cuda:0")
TOTAL = 80 * GIB


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a process binds torch to, on a GPU with 80 GB."""
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"total_memory": TOTAL}))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: found.append(fraction))
    return found


@pytest.mark.parametrize("memory", [LEAST_LIMIT, 4 * GIB, 8 * GIB, 24 * GIB, 80 * GIB, 140 * GIB])
def test_all_processes_together_keep_a_limit(memory: int) -> None:
    training = trainer_bytes(memory) + 2 * scorer_bytes(memory) + 3 * CONTEXT_BYTES
    judge = 2 * buffer_bytes(memory) + GIB // 2  # the buffer, its copy, and the cross-entropy of a chunk
    scoring = judge + 2 * scorer_bytes(memory) + 3 * CONTEXT_BYTES
    assert training <= memory and trainer_bytes(memory) > memory // 5
    assert scoring <= memory or memory < 4 * GIB
    assert 3 * buffer_bytes(memory) < scorer_bytes(memory)


def test_without_room_the_trainer_gets_nothing() -> None:
    assert trainer_bytes(1) == trainer_bytes(GIB) == 0


def test_each_child_is_bound_to_its_share(fractions: list[float]) -> None:
    for trains in (True, False):
        assert child_bytes(None, trains=trains) is None
        require_device(CUDA, memory_limit=child_bytes(8 * GIB, trains=trains))
    assert fractions == [4.5 / 80, 1 / 80]


def test_a_share_above_what_there_is_binds_nothing(fractions: list[float]) -> None:
    require_device(CUDA, memory_limit=2 * TOTAL)
    assert fractions == [1.0]


def test_without_a_limit_torch_is_told_nothing(fractions: list[float]) -> None:
    require_device(CUDA, memory_limit=None)
    require_device(torch.device("cpu"), memory_limit=1)
    assert fractions == []


@pytest.mark.parametrize(("free", "fraction", "reserved", "room"), [
    (60, 1.0, 10, 60),  # others hold 10 GB
    (75, 0.1, 5, 3),  # a limit of 8 GB, 5 of them taken
])  # fmt: skip
def test_rows_lie_on_the_gpu_within_the_limit(monkeypatch: pytest.MonkeyPatch, free: int, fraction: float, reserved: int,
                                              room: int) -> None:  # fmt: skip
    answers: dict[str, Any] = {"mem_get_info": (free * GIB, TOTAL), "get_per_process_memory_fraction": fraction,
                               "memory_reserved": reserved * GIB}  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert feed.free_bytes(CUDA) == pytest.approx(room * GIB)
    assert feed.fits(int(0.49 * room * GIB), CUDA) and not feed.fits(int(0.51 * room * GIB), CUDA)
    assert not feed.fits(1, torch.device("cpu"))
