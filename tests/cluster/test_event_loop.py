"""A Ctrl-C while the event loop of a command is made."""

import asyncio
import gc
import signal
import sys
from collections.abc import Iterator

import pytest

from cluster.event_loop import interrupts_held, run_in_loop


class InterruptedWhileMaking(asyncio.DefaultEventLoopPolicy):
    """Makes loops, with a Ctrl-C each time before one has the sockets that its end needs."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        signal.raise_signal(signal.SIGINT)
        return super().new_event_loop()


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests were started in the background, which ignores it."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, kept)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What Python would print of exceptions that nobody can catch."""
    found: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", found.append)
    asyncio.set_event_loop_policy(InterruptedWhileMaking())
    yield found
    asyncio.set_event_loop_policy(None)


async def answer(begun: list[bool]) -> int:
    begun.append(True)
    await asyncio.sleep(0)
    return 7


@pytest.mark.filterwarnings("error")
def test_a_ctrl_c_while_the_loop_is_made_counts_once_it_is(unraisable: list[object]) -> None:
    begun: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        run_in_loop(answer(begun))
    gc.collect()
    assert not begun and not unraisable
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loop_returns_what_its_coroutine_does_and_ctrl_c_ends_it() -> None:
    assert run_in_loop(answer([])) == 7

    async def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        run_in_loop(interrupted())


def test_a_ctrl_c_that_is_held_counts_after_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        signal.raise_signal(signal.SIGINT)
        done.append("the block")
    assert done == ["the block"]
