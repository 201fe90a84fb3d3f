"""The page cache before a run's child starts: what can be read is there, whoever read it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from research.sandbox import page_cache
from research.sandbox.linux import pages_in_cache
from research.sandbox.page_cache import Evictions, PageCache
from research.sandbox.visible import View

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

PAGES = 2048


@pytest.fixture
def evicted(tmp_path: Path) -> Callable[[], None]:
    """Takes `tmp_path`'s file out of the page cache."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(PAGES * os.sysconf("SC_PAGE_SIZE")))

    def evict() -> None:
        with file.open() as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    evict()
    try:
        if resident(file):
            pytest.skip("this file system keeps files in memory")
    except OSError:
        pytest.skip("this kernel can't say what is in the page cache")
    return evict


def resident(file: Path) -> int:
    with file.open() as opened:
        return pages_in_cache(opened.fileno())


def view(*readable: Path, hidden: tuple[Path, ...] = ()) -> View:
    return View(readable=readable, hidden=hidden, devices=())


def test_what_was_evicted_is_brought_back(evicted: Callable[[], None], tmp_path: Path) -> None:
    cache = PageCache(view(tmp_path))
    found = cache.warm()
    assert (found.files, found.requested, found.looked, found.problem) == (1, 1, True, None)
    assert resident(tmp_path / "file") == PAGES


def test_files_are_looked_at_again_only_after_the_kernel_has_evicted_something(
    evicted: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [1]
    monkeypatch.setattr(page_cache, "evictions", lambda: Evictions(pages=tuple(counts), names=()))
    cache = PageCache(view(tmp_path))
    assert cache.warm().looked
    assert not cache.warm().looked
    evicted()
    counts[0] += 1
    assert cache.warm().requested == 1


def test_without_counts_files_are_looked_at_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "evictions", lambda: None)
    cache = PageCache(view(tmp_path))
    assert cache.warm().looked and cache.warm().looked


def test_dropping_names_is_counted_so_that_files_are_looked_at_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cache = PageCache(view(tmp_path))
    cache.warm()
    if page_cache.evictions() is None or not page_cache.drop_names():
        pytest.skip("this process can't have the kernel forget names")
    assert cache.warm().looked


def test_the_kernel_counts_what_it_evicts() -> None:
    before = page_cache.evictions()
    if before is None:
        pytest.skip("this kernel doesn't count all that it evicts")
    after = page_cache.evictions()
    assert after is not None
    for one, other in zip((*before.pages, *before.names), (*after.pages, *after.names), strict=True):
        assert 0 <= one <= other


def test_with_too_little_memory_nothing_is_read_and_the_reason_is_given(
    evicted: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "available_bytes", lambda: 2**10)
    found = PageCache(view(tmp_path)).warm()
    assert found.problem is not None and not found.looked and resident(tmp_path / "file") == 0


def test_hidden_files_devices_and_what_links_lead_to_are_left_alone(tmp_path: Path) -> None:
    for name in ("shown/a", "shown/below/b", "shown/hidden/c", "outside/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "shown" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "shown" / "loop").symlink_to(tmp_path / "shown")
    os.mkfifo(tmp_path / "shown" / "fifo")
    shown = view(tmp_path / "shown", tmp_path / "shown" / "below", tmp_path / "shown" / "loop", Path("/sys/devices"),
                 hidden=(tmp_path / "shown" / "hidden",))  # fmt: skip
    found = PageCache(shown).warm()
    assert found.files == 2 and found.bytes == 2


REFERENCED = """
import ctypes, mmap, os, sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
descriptor = os.open(sys.argv[1], os.O_RDONLY)
base = LIBC.mmap(None, ctypes.c_size_t(4 * 4096 * PAGES), 0, 0x22, -1, ctypes.c_long(0))
places = []
for n in range(PAGES):  # a private page beside each one makes fork copy the mapping, with its pages marked as not accessed
    place = LIBC.mmap(ctypes.c_void_p(base + n * 4 * 4096), ctypes.c_size_t(8192), 3, 0x12, descriptor, ctypes.c_long(n * 8192))
    ctypes.memset(place + 4096, 1, 1)
    LIBC.munmap(ctypes.c_void_p(place + 4096), ctypes.c_size_t(4096))
    ctypes.string_at(place, 1)
    places.append(place)
if os.fork() == 0:
    found, here = {}, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if ":" not in line.split()[0]:
            here = int(line.split("-")[0], 16)
        elif line.startswith("Referenced:"):
            found[here] = line.split()[1] != "0"
    print("".join(str(int(found[place])) for place in places), flush=True)
    os._exit(0)
os.wait()
"""


def referenced(file: Path) -> str:
    """Which pages of a file (every second one) the kernel has marked as read, as another process can see."""
    code = REFERENCED.replace("PAGES", str(PAGES // 2))
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()


def differing(action: Callable[[], None], file: Path) -> int:
    """Number of a file's pages whose mark an action changes."""
    before = referenced(file)
    action()
    return sum(one != other for one, other in zip(before, referenced(file), strict=True))


@pytest.mark.skipif(os.sysconf("SC_PAGE_SIZE") != 4096, reason="the other process assumes pages of 4 KiB")
def test_what_was_read_later_does_not_show(evicted: Callable[[], None], tmp_path: Path) -> None:
    """Before it does, which shows that the other process can see it."""
    cache, file = PageCache(view(tmp_path)), tmp_path / "file"

    def read_some() -> None:
        with file.open("rb", buffering=0) as opened:
            for page in range(0, PAGES, 16):
                os.pread(opened.fileno(), 1, page * 4096)

    with file.open() as opened:
        for start in range(0, PAGES * 4096, 2**17):
            os.posix_fadvise(opened.fileno(), start, 2**17, os.POSIX_FADV_WILLNEED)
    if not (shown := differing(read_some, file)):
        pytest.skip("this kernel doesn't show which pages were read")
    cache.warm()
    assert differing(read_some, file) <= shown // 10
