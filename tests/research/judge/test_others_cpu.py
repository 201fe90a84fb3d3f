"""The time that a run would have taken alone."""

import os
import sys
import threading
import time

import pytest

from research.judge import others_cpu
from research.judge.conversation import MOST_DISTURBED, Phase, begin_phase
from research.judge.others_cpu import OthersCpu
from tests.research.judged import in_a_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems don't tell what processes use")

SECONDS = 1.0


def wait_for_a_second() -> float:
    """Seconds of a second that the machine left to this process, by the measure under test, with a thread per core."""
    others = OthersCpu()
    time.sleep(SECONDS)
    return others.undisturbed_seconds(None) or 0.0


def compute_for_a_second() -> tuple[float, float]:
    """Seconds by the measure for one thread, and by the process's own account."""
    others, began = OthersCpu(), time.process_time()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        pass
    own = time.process_time() - began
    return others.undisturbed_seconds(1) or 0.0, own


def test_what_others_compute_meanwhile_is_left_out() -> None:
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            pass

    others = threading.Thread(target=compute)
    began = time.process_time()
    others.start()
    try:
        left = in_a_fork(wait_for_a_second)
    finally:
        stop.set()
        others.join()
    computed = min(SECONDS, time.process_time() - began)
    assert left < SECONDS + 0.2 - 0.5 * computed / (os.cpu_count() or 1)


def test_what_a_run_computes_itself_is_never_left_out() -> None:
    undisturbed, own = in_a_fork(compute_for_a_second)
    assert undisturbed > 0.9 * own - 0.05


def test_others_are_not_charged_with_more_than_the_machine_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends while processes are read seems to have used hours in a second."""
    used = iter(
        [others_cpu._Used(own=1.0, others=50.0, machine=100.0), others_cpu._Used(own=1.6, others=9_050.0, machine=101.0)]
    )
    monkeypatch.setattr(others_cpu, "_used", lambda: next(used))
    monkeypatch.setattr(others_cpu.os, "cpu_count", lambda: 1)
    times = iter([10.0, 11.0])
    monkeypatch.setattr(others_cpu, "monotonic", lambda: next(times))
    assert OthersCpu().undisturbed_seconds(1) == pytest.approx(0.6)


def test_a_phase_may_take_longer_by_what_others_made_it_wait_up_to_a_limit() -> None:
    disturbed = Phase(name="scoring", began=0.0, cap=2.0, undisturbed=lambda: 1.5)
    slow = Phase(name="scoring", began=0.0, cap=2.0, undisturbed=lambda: 2.5)
    unknown = Phase(name="scoring", began=0.0, cap=2.0, undisturbed=lambda: None)
    assert [phase.is_over(1.9) for phase in (disturbed, slow, unknown)] == [False, False, False]
    assert [phase.is_over(15.0) for phase in (disturbed, slow, unknown)] == [False, True, True]
    assert disturbed.is_over(MOST_DISTURBED * 2.0 + 0.1)


def test_others_are_looked_at_on_a_cpu_only() -> None:
    assert begin_phase("startup", cap=1.0, threads=1, on_gpu=True).undisturbed is None
    alone = begin_phase("startup", cap=1.0, threads=1, on_gpu=False).undisturbed
    assert alone is not None and alone() is not None
