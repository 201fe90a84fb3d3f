"""The ways to stop a farm: Ctrl-C and other signals, or `farm stop` through the local API."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.home import Home

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


def interrupt_holder(home: Home) -> int | None:
    """Interrupts the process that holds a home and doesn't answer, as Ctrl-C does; returns its id.

    None if there is none on this machine that this user may signal, or it was paused and so would not hear it.
    """
    import psutil

    pid = home.holder_pid() if home.holder() is not None else None
    if pid is None or pid == os.getpid():
        return None
    try:
        process = psutil.Process(pid)
        is_holding = any(Path(file.path) == home.lock_file.resolve() for file in process.open_files())
        if not is_holding or process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return None
        process.send_signal(signal.SIGTERM if _ignores_ctrl_c(pid) else signal.SIGINT)
    except psutil.Error:
        return None
    return pid


def _ignores_ctrl_c(pid: int) -> bool:
    """Whether a process ignores Ctrl-C, as one does that a shell has started in the background; False if that is unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:")]
    return any(mask >> (signal.SIGINT - 1) & 1 for mask in masks)
