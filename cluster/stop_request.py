"""The ways to stop a farm: Ctrl-C and other signals, or `farm stop` through the local API."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop the farm: Ctrl-C, a polite kill, and the end of the terminal."""


STOPPING = "stopping: what is training now is left unfinished, and runs again when the same command resumes"
"""What the user is told at once, since ending a run's processes takes seconds."""


class StopRequest:
    """Whether the farm was told to stop, and what happens then. Created in the event loop that it stops."""

    def __init__(self, on_stop: Callable[[], None], *, say: Callable[[str], None]) -> None:
        """`on_stop` is called in the event loop at each request; `say` tells the user at the first one."""
        self.reason = ""
        """Why the farm is stopping; empty while it runs."""
        self._on_stop, self._say = on_stop, say
        self._loop = asyncio.get_running_loop()

    def request(self) -> None:
        """Stops the farm; called in its event loop."""
        if not self.reason:
            self._say(STOPPING)
        self.reason = "stopped"
        self._on_stop()

    def request_from_thread(self) -> None:
        """Stops the farm; called in any other thread."""
        self._loop.call_soon_threadsafe(self.request)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Lets SIGNALS stop the farm, except for the end of the terminal if it was started by nohup."""
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = [number for number in SIGNALS if number != signal.SIGHUP or not nohup]
        for number in heard:
            self._loop.add_signal_handler(number, self.request)
        try:
            yield
        finally:
            for number in heard:
                self._loop.remove_signal_handler(number)


def interrupt_this_process() -> None:
    """Stops this process as Ctrl-C does, or by SIGTERM if it was started in the background, where Ctrl-C is ignored."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
