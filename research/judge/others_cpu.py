"""What the processes of other programs use of the CPU, so that a run isn't charged for the time that they made it wait."""

import os
import sys

import psutil

from research.ipc.channel import monotonic


class OthersCpu:
    """Measures from its construction on how long work would have taken, had this process and its descendants been alone.

    What is known of the other processes counts, and not what is known of a run's own, which can hide processes. So whatever the
    machine computed without a known process for it is charged to the run.
    """

    def __init__(self) -> None:
        self._began, self._used = monotonic(), _cpu_of_others()

    def undisturbed_seconds(self, threads: int | None) -> float | None:
        """Seconds since then, less what others made work with `threads` threads (None: one per core) wait; None if the system
        doesn't tell.
        """
        if sys.platform != "linux":
            return None
        seconds, cores = monotonic() - self._began, os.cpu_count() or 1
        others = max(0.0, _cpu_of_others() - self._used)
        return min(seconds, max(0.0, cores * seconds - others) / (threads or cores))


def _cpu_of_others() -> float:
    """Seconds of the CPU that other processes and the children that they have waited for have used, or other machines of the
    same host (steal).
    """
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    times = (process.info["cpu_times"] for process in psutil.process_iter(["cpu_times"]) if process.pid not in own)
    stolen = getattr(psutil.cpu_times(), "steal", 0.0)
    return float(stolen + sum(part.user + part.system + part.children_user + part.children_system for part in times if part))
