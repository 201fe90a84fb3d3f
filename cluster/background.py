"""Work in threads that a stopped command doesn't wait for.

Preparing data can download for minutes. It may be left behind at any line, as by kill -9: what it has not completed is made
again by the same command.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

THREAD = "in-background"
"""The name of the threads."""

T = TypeVar("T")


async def in_background(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns or raises, in a thread of its own. A task that is cancelled leaves that thread behind."""
    import asyncio

    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from now on nobody can cancel it, so that the thread can set its result

    def work() -> None:
        try:
            outcome.set_result(function(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    try:
        return await asyncio.wrap_future(outcome)
    finally:
        if outcome.done():
            thread.join()


def is_left_behind() -> bool:
    """Whether such work is still going on."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def exit_without_waiting(status: int) -> None:
    """Ends this process at once if work was left behind; Python's own exit would wait for the threads that it has started."""
    if is_left_behind():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
