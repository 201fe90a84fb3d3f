"""What a run takes of the machine, polled from outside: its peak memory, and bounds that end it."""

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from research.gpu_driver import Gpu, first_gpu

POLL_SECONDS = 0.25

LEAST_FREE_MEMORY = 0.03
"""Share of the host's memory that must stay free, whoever takes it: memory without a process's name on it counts so, too."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What all processes of a run may take together."""

    memory_bytes: int
    processes: int = 512
    disk_bytes: int = 4 * 2**30
    """In its working folders."""

    @staticmethod
    def of_host(memory_bytes: int | None = None) -> "Bounds":
        """`memory_bytes`, else most of what the host has."""
        return Bounds(memory_bytes=memory_bytes or int(0.9 * psutil.virtual_memory().total))


class Supervisor:
    """Polls the trees of some processes, and notes the first bound that they break."""

    def __init__(self, pids: Sequence[int], folders: Sequence[Path], bounds: Bounds) -> None:
        self.broken: str | None = None
        """Which bound was broken, in words. The tree is ended by whoever asks."""
        self._pids, self._folders, self._bounds = tuple(pids), tuple(folders), bounds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _poll(self) -> None:
        while self.broken is None and not self._stopped.wait(POLL_SECONDS):
            self.broken = self._look()

    def _look(self) -> str | None:
        tree = [process for pid in self._pids for process in _tree_of(pid)]
        memory = sum(map(_resident_bytes, tree))
        if memory > self._bounds.memory_bytes:  # as it seems: what forked processes share was counted for each
            memory = sum(map(_proportional_bytes, tree))
        host = psutil.virtual_memory()
        if len(tree) > self._bounds.processes:
            return f"out of processes: {len(tree)} ({self._bounds.processes} is the limit)"
        if memory > self._bounds.memory_bytes:
            return f"out of memory: {memory / 2**30:.1f} GiB ({self._bounds.memory_bytes / 2**30:.1f} GiB is the limit)"
        if host.available < LEAST_FREE_MEMORY * host.total:
            return f"out of memory: the host has {host.available / 2**30:.1f} GiB left"
        written = sum(map(_bytes_below, self._folders))
        if written > self._bounds.disk_bytes:
            return f"out of disk: wrote {written / 2**30:.1f} GiB ({self._bounds.disk_bytes / 2**30:.1f} GiB is the limit)"
        return None


class MemoryMonitor:
    """Peak memory of a process tree: resident memory, or GPU memory where NVML can tell processes apart.

    The first `waiting` processes of the tree are not counted: they only wait, and share their memory with the one that works.
    """

    def __init__(self, pid: int, *, gpu: bool, waiting: int = 0) -> None:
        self._pid, self._gpu, self._waiting = pid, gpu, waiting
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Peak MiB; None where nothing was seen."""
        self._stopped.set()
        self._thread.join()
        return self._peak_bytes / 2**20 if self._peak_bytes else None

    def _poll(self) -> None:
        with first_gpu() if self._gpu else contextlib.nullcontext() as gpu:
            while not self._stopped.wait(POLL_SECONDS):
                with contextlib.suppress(psutil.Error):
                    self._peak_bytes = max(self._peak_bytes, self._now(gpu))

    def _now(self, gpu: Gpu | None) -> int:
        tree = _tree_of(self._pid)
        if gpu is not None:
            return gpu.bytes_of({process.pid for process in tree})
        return sum(map(_resident_bytes, tree[self._waiting :]))


def _tree_of(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def _resident_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _proportional_bytes(process: psutil.Process) -> int:
    """Resident memory, with what several processes share divided among them; all of it where a process doesn't show that."""
    with contextlib.suppress(psutil.Error, AttributeError):
        return int(process.memory_full_info().pss)
    return _resident_bytes(process)


def _bytes_below(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(where) / name).lstat().st_blocks * 512
    return total
