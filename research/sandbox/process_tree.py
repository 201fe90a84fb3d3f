"""The processes below a process. A run's limits are polled by them, and its end waits for them."""

import os
import sys
from collections import deque
from collections.abc import Collection, Iterable

import psutil


def trees_of(pids: Iterable[int], *, but_for: Collection[int] = ()) -> list[psutil.Process]:
    """The processes with these ids and all their descendants, each once and after its parent; those that are gone are left out,
    and so are `but_for` with their descendants.

    It reads what the machine's processes are once, however many trees there are: a walk below each process would take time
    quadratic in the size of a fork bomb.
    """
    waiting = deque((pid, 0.0) for pid in pids)
    children = _children_by_parent() if waiting else {}
    found: dict[int, psutil.Process] = {}
    while waiting:
        pid, began = waiting.popleft()
        if pid in found or pid in but_for:
            continue
        try:
            process = psutil.Process(pid)
            created = process.create_time()
        except psutil.Error:
            continue
        if created >= began:  # else another process has got the id meanwhile
            found[pid] = process
            waiting.extend((child, created) for child in children.get(pid, ()))
    return list(found.values())


def _children_by_parent() -> dict[int, list[int]]:
    """The ids of all processes, by their parents'; psutil reads the same in more than twice the time."""
    children: dict[int, list[int]] = {}
    if sys.platform != "linux":
        for process in psutil.process_iter(["ppid"]):
            children.setdefault(process.info["ppid"], []).append(process.pid)
        return children
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    for name in names:
        stat = _bytes_of(f"/proc/{name}/stat")
        fields = stat[stat.rfind(b")") + 1 :].split(None, 2)  # state, parent, the others
        if len(fields) == 3:
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


def _bytes_of(path: str) -> bytes:
    """The first bytes of a file in /proc; none if its process is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, 1024)
    except OSError:
        return b""
    finally:
        os.close(file)
