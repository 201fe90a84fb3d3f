"""The time that a run would have taken alone."""

import os
import sys
import threading
import time

import pytest

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
