"""Pausing or ending every process that a process started, in whatever session; to end them it must be a child subreaper."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil

from research.sandbox.process_tree import trees_of


def kill_descendants(*, spare: Iterable[int] = (), within: float = 10.0) -> list[int]:
    """Kills every descendant of this process, except the processes `spare` and their descendants.

    All are stopped first and then killed (a fork bomb would outrun its killer), in rounds, for `within` seconds at most.
    Returns the ids of those that are left, normally none.
    """
    spared, killed = set(spare), set[psutil.Process]()
    deadline = time.monotonic() + within
    while found := set(_descendants_except(spared)):
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            _signal(found, signal_number)
        has_new = not found <= killed
        killed |= found
        while True:  # if all had been killed before, nobody is left who could start another: they only have to end
            reap(found)
            living = [child for child in found if _is_alive(child)]
            if time.monotonic() > deadline:
                return [child.pid for child in living]
            if has_new or not living:
                break
            time.sleep(0.01)
        if not has_new:
            time.sleep(0.001)  # what has ended is gone once its parent, or this process, has noticed
    return []


STOPPED_OR_ENDED = "TtZX"
"""States of a thread in /proc/PID/stat in which it does nothing until it is continued."""

Slices = Mapping[str, str]
"""A thread's folder in /proc -> what the kernel's scheduler has counted of it."""


def pause_tree(pid: int, *, within: float = 10.0) -> Slices | None:
    """Stops a process and all its descendants, which takes two walks over the machine's processes if none of them forks.

    Returns how often each of their threads has run; None if not all have stopped after `within` seconds at most, which a fork
    bomb can bring about.
    """
    stopped: set[psutil.Process] = set()
    deadline = time.monotonic() + within
    while running := _tree_of(pid) - stopped:
        if time.monotonic() > deadline:
            return None
        _signal(running, signal.SIGSTOP)
        stopped |= running
    while not _stand_still(pid):  # a thread stops once the kernel is done with its request
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)
    return _slices(pid)


def resume_tree(pid: int, paused: Slices) -> bool:
    """Lets a process and all its descendants go on. Returns whether none of their threads has run since they were paused: a
    process can have a timer of its own wake it up.
    """
    stood_still = _slices(pid) == paused
    _signal(_tree_of(pid), signal.SIGCONT)
    return stood_still


def _slices(pid: int) -> Slices:
    return dict(_of_threads(pid, "schedstat"))


def _stand_still(pid: int) -> bool:
    states = (text.rpartition(")")[2].split()[0] for _, text in _of_threads(pid, "stat"))
    return all(state in STOPPED_OR_ENDED for state in states)


def _of_threads(pid: int, name: str) -> Iterator[tuple[str, str]]:
    """The folder in /proc of each thread of a process and its descendants, and what its file `name` holds."""
    for process in _tree_of(pid):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                yield str(thread), (thread / name).read_text()


def _tree_of(pid: int) -> set[psutil.Process]:
    return set(trees_of([pid]))


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def reap(children: Iterable[psutil.Process]) -> None:
    """Reaps those of these processes that have ended."""
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)


def _descendants_except(spared: set[int]) -> list[psutil.Process]:
    """The descendants of this process without the processes `spared` and their descendants."""
    return trees_of([os.getpid()], but_for=spared)[1:]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
