"""What Ctrl-C must not find half done: an import, and the event loop of a command."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_loop(main: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns or raises, in an event loop of its own. Only for the main thread.

    As `asyncio.run`, but a SIGINT that arrives while the loop is being made counts once it is made: a loop that is cut off
    before prints a traceback when it is collected, and a coroutine that never began a warning.
    """
    with contextlib.closing(main), asyncio.Runner() as runner:
        with interrupts_held():
            runner.get_loop()
        return runner.run(main)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Lets a SIGINT of the block count after it. An import loses one that arrives in a callback of its lock. Only for the main
    thread."""
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        signal.raise_signal(signal.SIGINT)
