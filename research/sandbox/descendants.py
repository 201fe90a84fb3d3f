"""Ending every process that a process started, in whatever session; for one that is a child subreaper (linux.py)."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable

import psutil


def kill_descendants(*, spare: Iterable[int] = (), within: float = 10.0) -> list[int]:
    """Kills every descendant of this process, except the processes `spare` and their descendants.

    All are stopped first and then killed (a fork bomb would outrun its killer), in rounds, for `within` seconds at most.
    Returns the ids of those that are left, normally none.
    """
    spared = set(spare)
    deadline = time.monotonic() + within
    while True:
        living = _descendants_except(spared)
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for child in living:
                with contextlib.suppress(psutil.Error):
                    child.send_signal(signal_number)
        reap(living)
        living = [child for child in living if _is_alive(child)]
        if not living and not _descendants_except(spared):
            return []
        if time.monotonic() > deadline:
            return [child.pid for child in living]
        time.sleep(0.01)


def reap(children: Iterable[psutil.Process]) -> None:
    """Reaps those of these processes that have ended."""
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)


def _descendants_except(spared: set[int]) -> list[psutil.Process]:
    """The descendants of this process without the processes `spared` and their descendants.

    Each walk below a process reads all of /proc. So there is one walk per spared process, of which there are few; one per
    descendant would take time quadratic in the size of a fork bomb.
    """
    found = psutil.Process().children(recursive=True)
    kept = set(spared)
    for pid in spared:
        with contextlib.suppress(psutil.Error):
            kept.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return [child for child in found if child.pid not in kept]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
