"""The page cache before a run's child starts: what can be read is there, whoever read it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from research.sandbox import page_cache
from research.sandbox.linux import pages_in_cache
from research.sandbox.page_cache import PageCache
from research.sandbox.visible import View
from tests.research.judged import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

PAGES = 64


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
    wait_for(lambda: resident(tmp_path / "file") == PAGES, 10.0)


def test_files_are_looked_at_again_only_after_the_kernel_has_evicted_something(
    evicted: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [1]
    monkeypatch.setattr(page_cache, "evictions", lambda: tuple(counts))
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
    assert after is not None and all(one <= other for one, other in zip(before, after, strict=True))


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
