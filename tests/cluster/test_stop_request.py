"""A farm that is told to stop says so at once, and hears whoever may tell it."""

import asyncio
import os
import signal

import pytest

from cluster.stop_request import SIGNALS, STOPPING, StopRequest


async def told(number: int, times: int) -> tuple[list[str], int]:
    """What is said, and how often the farm is stopped, when a signal comes several times."""
    said: list[str] = []
    stops: list[int] = []
    request = StopRequest(lambda: stops.append(1), say=said.append)
    with request.on_signals():
        for _ in range(times):
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)
    assert request.reason == "stopped"
    return said, len(stops)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_stops_and_is_answered_once(number: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # tests under nohup inherit that SIGHUP is ignored
    try:
        assert asyncio.run(told(number, times=2)) == ([STOPPING], 2)
    finally:
        signal.signal(number, before)


def test_nohup_is_obeyed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        async def hang_up() -> str:
            request = StopRequest(lambda: None, say=print)
            with request.on_signals():
                os.kill(os.getpid(), signal.SIGHUP)
                await asyncio.sleep(0.05)
            return request.reason

        assert asyncio.run(hang_up()) == ""
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
