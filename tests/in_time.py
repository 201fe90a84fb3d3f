"""Limits of time that are promised to a user, on a machine whose cores others use as well."""

import time

MEASURED_S = 0.05


def in_time(began: float, seconds: float) -> bool:
    """Whether fewer than `seconds` have passed since `began` (time.monotonic()), or not many times more on a busy machine.

    How busy it is, is measured only where the limit is exceeded: what takes four times as long as all work does now is late.
    """
    passed = time.monotonic() - began
    return passed < seconds or passed < 4 * seconds * _slowness()


def _slowness() -> float:
    """How many times longer than alone this thread's work takes now."""
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < MEASURED_S:
        pass
    return max(1.0, (time.monotonic() - began) / MEASURED_S)
