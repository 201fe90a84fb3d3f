"""The share of the CPU that a run's training got, by the kernel's own account of its threads. No judgement depends on it.

The kernel counts for each thread how long it ran and how long it was ready to run but had to wait for a core. A run that had
the machine to itself hardly waits; one that shared it trained fewer steps in the same time, and its score is worse for it.
Threads that wait for each other's cores don't count: no more waiting is counted than what others ran in the meantime.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

Event = dict[str, Any]

ThreadTimes = dict[str, tuple[int, int]]
"""A thread's folder in /proc -> nanoseconds that it has run, and that it has waited for a core."""


class TrainingShare:
    """Listens to a judge's events, and reads its children's threads when training begins and when it ends."""

    def __init__(self, emit: Callable[[Event], None], *, processes: Callable[[], Iterable[int]] | None = None) -> None:
        """`emit` gets every event; `processes` lists the run's processes (default: this process's descendants)."""
        self._emit, self._processes = emit, processes or _descendants
        self._began: ThreadTimes | None = None
        self._busy = 0.0
        self.value: float | None = None
        """Time that the threads ran, divided by the time that they could have run: 0 to 1. None if it isn't known."""

    def emit(self, event: Event) -> None:
        """Passes an event on. Training lasts from the first report of the phase `training` to that of `handover`."""
        phase = event.get("phase")
        if phase == "handover" and self._began is not None and self.value is None:
            self.value = share_between(self._began, thread_times(self._processes()), busy=_busy_seconds() - self._busy)
        self._emit(event)
        if phase == "training" and self._began is None:
            self._began, self._busy = thread_times(self._processes()), _busy_seconds()


def share_between(before: ThreadTimes, after: ThreadTimes, *, busy: float) -> float | None:
    """The share that the threads in `after` had since `before`; None if they did nothing.

    `busy` are the seconds that all of the machine's cores were busy in the meantime, or taken away from a virtual machine.
    """
    ran = waited = 0
    for thread, (ran_now, waited_now) in after.items():
        ran_before, waited_before = before.get(thread, (0, 0))
        ran, waited = ran + ran_now - ran_before, waited + waited_now - waited_before
    others = max(0.0, busy * 1e9 - ran)
    return ran / (ran + min(waited, others)) if ran > 0 else None


def _busy_seconds() -> float:
    """Seconds that the machine's cores have been busy, all together."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def thread_times(pids: Iterable[int], proc: Path = Path("/proc")) -> ThreadTimes:
    """The times of all threads of these processes; empty where the kernel keeps none. Those that end meanwhile are left out."""
    times: ThreadTimes = {}
    for pid in pids:
        try:
            threads = [folder.name for folder in (proc / str(pid) / "task").iterdir()]
        except OSError:
            continue
        for thread in threads:
            folder = f"{pid}/task/{thread}"
            try:
                ran, waited, _ = (proc / folder / "schedstat").read_text().split()
            except (OSError, ValueError):
                continue
            times[folder] = (int(ran), int(waited))
    return times


def _descendants() -> list[int]:
    try:
        return [process.pid for process in psutil.Process().children(recursive=True)]
    except psutil.Error:
        return []
