"""The page cache: before a run's child starts, every file that it can read is brought there.

A run could otherwise learn from the files that are in the page cache what a run before it has read of them. Which pages were
read also shows in /proc/PID/smaps (Referenced): the kernel marks a page once it is read, and again on a second and a third read
(`folio_mark_accessed` in Linux `mm/swap.c`). So each file is read until another read changes nothing.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from research.sandbox.linux import pages_in_cache
from research.sandbox.visible import View

LARGEST_PART = 0.5
"""Fraction of the available memory up to which files are brought into the page cache."""

READS = 3
"""Reads after which a page is active and referenced, from whatever state."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BYTES_PER_REQUEST = 2**17
"""The kernel cuts a longer request, unless the disk's largest transfer is longer."""

_PAGE_COUNTERS = ("pgsteal_file", "pginodesteal", "kswapd_inodesteal", "drop_pagecache")
_NAME_COUNTERS = ("slabs_scanned", "drop_slab")

_NAMES_AND_INODES = "2"

_NOT_ON_DISK = tuple(map(Path, ("/sys", "/proc", "/dev")))


@dataclass(frozen=True, kw_only=True)
class Evictions:
    """The kernel's counts of what it has taken out of its caches, by whatever limit."""

    pages: tuple[int, ...]
    names: tuple[int, ...]
    """Names and inodes of files."""


@dataclass(frozen=True, kw_only=True)
class Warming:
    """What one call of `PageCache.warm` found and did."""

    files: int
    """Number of files that the view holds."""
    bytes: int
    """Their size."""
    looked: bool
    """Whether the files were looked at; False: nothing has left the page cache since the last call, or memory is too short."""
    requested: int = 0
    """Files that were requested, since the kernel didn't say that all of their pages are in the page cache."""
    problem: str | None = None
    """Why the files were not brought into the page cache, in words; None: they were."""


class PageCache:
    """Keeps the files of a view in the page cache, as far as other users of the memory let it."""

    def __init__(self, view: View, *, reads: int = READS) -> None:
        """`reads` is how often each file is read when pages may have left the cache; with 0 what was read still shows."""
        self._view, self._reads = view, reads
        self._files: list[tuple[str, int]] | None = None
        self._evictions: Evictions | None = None

    def warm(self, *, anew: bool = False) -> Warming:
        """Brings every file of the view into the page cache, with all its pages marked as read.

        The files are listed once. Later calls return at once if the kernel has evicted nothing since; with `anew` they read
        each file once more, which restores marks that a run can clear if it may write to /proc. Needs no privileges; files
        that this process can't read are left out.
        """
        before, last = evictions(), self._evictions
        pages_stayed = before is not None and last is not None and before.pages == last.pages
        names_stayed = before is not None and last is not None and before.names == last.names
        if self._files is None:
            self._files = list(_files_of(self._view))
        files, size = self._files, sum(size for _, size in self._files)
        if pages_stayed and names_stayed and not anew:
            return Warming(files=len(files), bytes=size, looked=False)
        available = available_bytes()
        if size > LARGEST_PART * available:
            problem = f"the files that a run can read take {size / 2**30:.1f} GiB, of {available / 2**30:.1f} GiB available"
            return Warming(files=len(files), bytes=size, looked=False, problem=problem)
        requested = 0
        if pages_stayed:
            _look_up(path for path, _ in files)
        else:
            requested = sum(_request(path, size) for path, size in files)
        for _ in range(int(anew) if pages_stayed else self._reads):
            _read(path for path, _ in files)
        self._evictions = before
        return Warming(files=len(files), bytes=size, looked=True, requested=requested)


def evictions() -> Evictions | None:
    """What the kernel has evicted since it started; None if it doesn't count all of it (Linux before 5.8)."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        counts = {name: int(count) for name, count in map(str.split, lines)}
        if all(name in counts for name in (*_PAGE_COUNTERS, *_NAME_COUNTERS)):
            pages, names = (tuple(counts[name] for name in counters) for counters in (_PAGE_COUNTERS, _NAME_COUNTERS))
            return Evictions(pages=pages, names=names)
    return None


def drop_names() -> bool:
    """Has the kernel forget the names and inodes that it keeps of files not in use, on the whole machine.

    A lookup leaves its name behind, also where there is no such file, and one of the same name is faster then. Returns whether
    the kernel did: that takes root and a /proc/sys that is not read-only, as it is in most containers.
    """
    try:
        Path("/proc/sys/vm/drop_caches").write_text(_NAMES_AND_INODES)
    except OSError:
        return False
    return True


def available_bytes() -> int:
    """Memory that the page cache may fill: the host's available memory, or this container's limit if that is less."""
    available = int(psutil.virtual_memory().available)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            available = min(available, int(Path(name).read_text()))
    return available


def _files_of(view: View) -> Iterator[tuple[str, int]]:
    """Paths and sizes of the regular files of a view; links are resolved, and each path is given once."""
    hidden = {str(path.resolve()) for path in view.hidden}
    tops = {path.resolve() for path in view.readable}
    tops = {path for path in tops if not any(path.is_relative_to(other) for other in (*_NOT_ON_DISK, *tops - {path}))}
    yield from ((str(path), path.stat().st_size) for path in tops if path.is_file())
    waiting = [str(path) for path in tops if path.is_dir()]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.path in hidden:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path, entry.stat().st_size


def _look_up(paths: Iterable[str]) -> None:
    """Has the kernel know the names of files again."""
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).stat()


def _request(path: str, size: int) -> bool:
    """Has the kernel read a file, unless all of it is in the page cache. Returns whether it was requested."""
    if not size:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if _is_in_cache(descriptor, size):
            return False
        for start in range(0, size, _BYTES_PER_REQUEST):
            os.posix_fadvise(descriptor, start, _BYTES_PER_REQUEST, os.POSIX_FADV_WILLNEED)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _read(paths: Iterable[str]) -> None:
    """Has the kernel read files from beginning to end, without copying what it reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for path in paths:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    start = 0
                    while sent := os.sendfile(nowhere, descriptor, start, 2**30):
                        start += sent
                    _apply_marks(descriptor)
                finally:
                    os.close(descriptor)
    finally:
        os.close(nowhere)


def _apply_marks(descriptor: int) -> None:
    """Has the kernel apply the marks that it collects before it moves pages to the active list (`lru_add_drain`)."""
    os.posix_fadvise(descriptor, 2**40, _PAGE, os.POSIX_FADV_DONTNEED)


def _is_in_cache(descriptor: int, size: int) -> bool:
    """Whether a file is in the page cache as far as the kernel says: before Linux 6.5 it doesn't."""
    with contextlib.suppress(OSError):
        return pages_in_cache(descriptor) >= -(-size // _PAGE)
    return False
