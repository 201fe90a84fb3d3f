"""A run's use of the machine, polled from outside: its peak memory, and the limits that end it."""

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from research.gpu_driver import Gpu, first_gpu
from research.sandbox.oom_kills import oom_kills
from research.sandbox.process_tree import trees_of

POLL_SECONDS = 0.25

MAX_TASKS = 4096
"""Processes and threads of a run, by a limit of the kernel that binds every user except root."""

RECENT_POLLS = 8
"""Polls within which the end of a process and the kernel's count of processes killed for memory belong together."""

MOST_FAILURES = 20
"""Polls in a row that may fail before the run is ended, since nothing bounds it meanwhile."""

LEAST_FREE_MEMORY = 0.03
"""Fraction of the host's memory that must stay free, whoever uses the rest: some memory belongs to no process."""

NEARLY_ALL = 0.8
"""Share of its limit by which a run that was killed has run out of memory, which can grow fast between two polls."""

DEEPEST_FOLDER = 64
"""Levels of folders that a run may nest in its working folder."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What all processes of a run may use together."""

    memory_bytes: int
    processes: int = 512
    disk_bytes: int = 4 * 2**30
    """Disk space in the working folders."""

    @staticmethod
    def of_host(memory_bytes: int | None = None) -> "Limits":
        """Limits with `memory_bytes`, or most of the host's memory."""
        return Limits(memory_bytes=memory_bytes or int(0.9 * psutil.virtual_memory().total))


@dataclass(frozen=True, kw_only=True)
class BrokenLimit:
    """A limit that a run has broken."""

    resource: Literal["memory", "processes", "disk", "machine", "measuring"]
    """`machine`: the memory of the host ran out, and another process uses more of it than the run."""
    reason: str
    """The amount and the limit, in words."""


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """What is known of a run's memory from outside: what was polled, and whether the kernel has killed for memory."""

    peak_bytes: int
    limit_bytes: int
    kills: int
    """Processes that the kernel has killed for memory in the last seconds."""

    @property
    def ran_out(self) -> bool:
        """Whether anything but a guess says that memory ran out."""
        return self.kills > 0 or self.peak_bytes >= NEARLY_ALL * self.limit_bytes

    def in_words(self) -> str:
        """The peak and the limit, in brackets; empty if nothing was measured."""
        if not self.peak_bytes:
            return ""
        return f" (at most {self.peak_bytes / 2**30:.1f} GiB of {self.limit_bytes / 2**30:.1f} GiB were seen in use)"


class Supervisor:
    """Polls the trees of some processes, and notes the first limit that they break. It ends no process itself."""

    def __init__(self, limits: Limits) -> None:
        self.broken: BrokenLimit | None = None
        self._limits = limits
        self._peak_bytes = 0
        self._kills = deque([oom_kills()], maxlen=RECENT_POLLS)
        self._pids: Callable[[], Sequence[int]] = tuple
        self._folders: tuple[Path, ...] = ()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def watch(self, pids: Callable[[], Sequence[int]], folders: Sequence[Path]) -> None:
        """Starts the thread that polls the processes that `pids()` lists, with their descendants, and these folders."""
        self._pids, self._folders = pids, tuple(folders)
        self._thread.start()

    def memory_use(self) -> MemoryUse:
        """What is known so far of the memory that the processes use."""
        kills = oom_kills() - self._kills[0]
        return MemoryUse(peak_bytes=self._peak_bytes, limit_bytes=self._limits.memory_bytes, kills=kills)

    def stop(self) -> None:
        """Stops polling."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _poll(self) -> None:
        failures = 0
        while self.broken is None and not self._stopped.wait(POLL_SECONDS):
            try:
                self.broken, failures = self._look(), 0
            except Exception as error:  # this thread must not end unnoticed: nothing else watches the run
                failures += 1
                if failures == MOST_FAILURES:
                    reason = f"its use of the machine can't be measured ({type(error).__name__})"
                    self.broken = BrokenLimit(resource="measuring", reason=reason)

    def _look(self) -> BrokenLimit | None:
        limits = self._limits
        self._kills.append(oom_kills())
        tree = trees_of(self._pids())
        memory = sum(map(_resident_bytes, tree))
        if memory > limits.memory_bytes:  # memory that forked processes share was counted for each of them
            memory = sum(map(_proportional_bytes, tree))
        self._peak_bytes = max(self._peak_bytes, memory)
        host = psutil.virtual_memory()
        if len(tree) > limits.processes:
            return BrokenLimit(resource="processes", reason=f"too many processes: {len(tree)} (limit {limits.processes})")
        if memory > limits.memory_bytes:
            reason = f"out of memory: {memory / 2**30:.1f} GiB used (limit {limits.memory_bytes / 2**30:.1f} GiB)"
            return BrokenLimit(resource="memory", reason=reason)
        if host.available < LEAST_FREE_MEMORY * host.total:
            left = f"the host has {host.available / 2**30:.1f} GiB of memory left"
            if uses_most(tree) or any(map(has_files_in_flight, tree)):
                return BrokenLimit(resource="memory", reason=f"out of memory: {left}")
            return BrokenLimit(resource="machine", reason=f"{left}, of which another process uses more than this run")
        usages = [disk_usage(folder) for folder in self._folders]
        if any(incomplete for _, incomplete in usages):
            reason = f"its folders can't be counted: nested more than {DEEPEST_FOLDER} levels deep, or closed to the judge"
            return BrokenLimit(resource="disk", reason=reason)
        written = sum(written for written, _ in usages)
        if written > limits.disk_bytes:
            reason = f"too much disk space: {written / 2**30:.1f} GiB written (limit {limits.disk_bytes / 2**30:.1f} GiB)"
            return BrokenLimit(resource="disk", reason=reason)
        return None


class MemoryMonitor:
    """Peak memory of a process tree: resident memory, or GPU memory if NVML can tell processes apart.

    The first `waiting` processes of the tree are not counted: they only wait, and share their memory with the next one.
    """

    def __init__(self, pid: int, *, gpu: bool, waiting: int = 0) -> None:
        self._pid, self._gpu, self._waiting = pid, gpu, waiting
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Stops polling, and returns the peak in MiB; None if nothing was measured."""
        self._stopped.set()
        self._thread.join()
        return self._peak_bytes / 2**20 if self._peak_bytes else None

    def _poll(self) -> None:
        with first_gpu() if self._gpu else contextlib.nullcontext() as gpu:
            while not self._stopped.wait(POLL_SECONDS):
                with contextlib.suppress(psutil.Error, OSError):
                    self._peak_bytes = max(self._peak_bytes, self._now(gpu))

    def _now(self, gpu: Gpu | None) -> int:
        tree = trees_of([self._pid])
        if gpu is not None:
            return gpu.bytes_of({process.pid for process in tree})
        return sum(map(_resident_bytes, tree[self._waiting :]))


def _resident_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def uses_most(tree: Sequence[psutil.Process]) -> bool:
    """Whether these processes together use as much memory as any other process of the machine, or more."""
    own = set(tree)
    others = (process for process in psutil.process_iter() if process not in own)
    most = max(map(used_bytes, others), default=0)
    return sum(map(used_bytes, tree)) >= most


def used_bytes(process: psutil.Process) -> int:
    """Resident memory, and that of files without a name (memfd) which the process holds open, mapped or not."""
    unnamed: dict[tuple[int, int], int] = {}
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            if str(descriptor.readlink()).startswith("/memfd:"):
                file = descriptor.stat()
                unnamed[file.st_dev, file.st_ino] = 512 * file.st_blocks
    return _resident_bytes(process) + sum(unnamed.values())


def has_files_in_flight(process: psutil.Process) -> bool:
    """Whether files wait in a socket of this process to be received (SCM_RIGHTS), where the kernel says so (from Linux 5.6 on).

    Such a file is in no process's list, so that the memory of one without a name is nobody's. An honest run has such files for
    moments.
    """
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{process.pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                lines = descriptor.read_text().splitlines()
                if any(line.startswith("scm_fds:") and line.split()[-1] != "0" for line in lines):
                    return True
    return False


def _proportional_bytes(process: psutil.Process) -> int:
    """Resident memory, with shared pages divided among the processes that share them, where a process shows that."""
    with contextlib.suppress(psutil.Error, AttributeError):
        return int(process.memory_full_info().pss)
    return _resident_bytes(process)


def disk_usage(folder: Path) -> tuple[int, bool]:
    """Bytes on disk of all files below a folder, and whether a folder can't be counted: nested too deeply, or closed."""
    total, incomplete = 0, False
    waiting = [(str(folder), 0)]
    while waiting:
        here, depth = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
                    else:
                        total += _bytes_on_disk(entry)
        except OSError as error:  # a folder that is gone holds nothing
            incomplete = incomplete or error.errno in (errno.ENAMETOOLONG, errno.EACCES)
        if depth >= DEEPEST_FOLDER:
            return total, True
    return total, incomplete


def _bytes_on_disk(entry: "os.DirEntry[str]") -> int:
    with contextlib.suppress(OSError):
        return entry.stat(follow_symlinks=False).st_blocks * 512
    return 0
