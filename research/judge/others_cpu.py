"""What the processes of other programs use of the CPU, so that a run isn't charged for the time that they made it wait."""

import os
import sys
from dataclasses import dataclass

import psutil

from research.ipc.channel import monotonic


class OthersCpu:
    """Measures from its construction on how long work would have taken, had this process and its descendants been alone.

    What is known of the other processes counts, and not what is known of a run's own, which can hide processes. So whatever the
    machine computed without a known process for it is charged to the run. But others have not used more than the machine has
    computed beside what is known of the run: a process that ends while processes are read is missed, or counted twice.
    """

    def __init__(self) -> None:
        self._began, self._used = monotonic(), _used()

    def undisturbed_seconds(self, threads: int | None) -> float | None:
        """Seconds since then, less what others made work with `threads` threads (None: one per core) wait; None if the system
        doesn't tell.
        """
        if sys.platform != "linux":
            return None
        seconds, cores, now = monotonic() - self._began, os.cpu_count() or 1, _used()
        beside_own = now.machine - self._used.machine - (now.own - self._used.own)
        others = max(0.0, min(now.others - self._used.others, beside_own))
        return min(seconds, max(0.0, cores * seconds - others) / (threads or cores))


@dataclass(frozen=True, kw_only=True)
class _Used:
    """Seconds of the CPU that were used up to a moment."""

    own: float
    """By this process and its descendants."""
    others: float
    """By other processes and the children that they have waited for, or other machines of the same host (steal)."""
    machine: float
    """By everything, steal included."""


def _used() -> _Used:
    """What was used up to now."""
    tree = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    own, others = 0.0, 0.0
    for process in psutil.process_iter(["cpu_times"]):
        part = process.info["cpu_times"]
        if part is None:
            continue
        seconds = part.user + part.system + part.children_user + part.children_system
        if process.pid in tree:
            own += seconds
        else:
            others += seconds
    times = psutil.cpu_times()
    stolen = getattr(times, "steal", 0.0)
    machine = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")) + stolen
    return _Used(own=own, others=others + stolen, machine=machine)
