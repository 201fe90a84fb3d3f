"""A root folder for one run, in memory that vanishes with it: what the run's View names, read-only, and nothing else."""

import contextlib
import os
import stat
from pathlib import Path

from research.files import make_open_folder
from research.sandbox.linux import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    bind,
    make_read_only,
    mount,
    pivot_root,
)
from research.sandbox.visible import PLAIN_DEVICES, View, links_on_the_way

SCRATCH_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Scratch folders that every run has to itself."""

HOST_COUNTERS = (
    "stat", "vmstat", "zoneinfo", "buddyinfo", "pagetypeinfo", "slabinfo", "diskstats", "interrupts", "softirqs", "schedstat",
    "loadavg", "locks", "timer_list", "sched_debug", "keys", "key-users", "latency_stats", "fs", "pressure",
    "sys/fs/dentry-state", "sys/fs/inode-nr", "sys/fs/inode-state", "sys/fs/file-nr", "sys/fs/aio-nr", "sys/kernel/pty/nr",
)  # fmt: skip
"""What /proc shows of the whole machine that any process can move, and that no program needs: each is empty in a run."""

COMPILED = Path("/autoresearch-compiled")
"""The folder that every run compiles into: compiled code names the folder that it lies in, and is not found in another."""


def enter_root(view: View, folder: Path, *, compiled: Path | None, owner: int, memory_bytes: int) -> None:
    """Makes what `view` names the whole file system of this process, which has its own mount and process namespaces.

    `folder` exists under the same path as a copy, with its files, and belongs to `owner`. It, COMPILED and the scratch folders
    together hold at most `memory_bytes`. `compiled` is a folder outside, which may lie in the hidden `folder`, that becomes
    COMPILED, writable; None: an empty one.
    """
    held = None if compiled is None else os.open(compiled, os.O_PATH)  # its path will be hidden by what is mounted on `folder`
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID, f"mode=755,size={memory_bytes}")
    root = folder
    root.chmod(0o755)
    _make_devices(view, root)
    for path in view.readable:
        _show(path, root)
    for path in view.hidden:
        _cover(path, root)
    make_open_folder(root / "proc")
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in HOST_COUNTERS:
        _cover(Path("/proc", name), root)
    for name in SCRATCH_FOLDERS:
        place = root / name.lstrip("/")
        make_open_folder(place)
        place.chmod(0o1777)
    home = root / folder.relative_to("/")
    make_open_folder(home)
    for name, content in files.items():
        (home / name).write_bytes(content)
        os.chown(home / name, owner, -1)
    make_open_folder(root / COMPILED.relative_to("/"))
    for place in (home, root / COMPILED.relative_to("/")):
        os.chown(place, owner, -1)
    if held is not None:
        bind(Path(f"/proc/self/fd/{held}"), root / COMPILED.relative_to("/"))
        os.close(held)
    pivot_root(root)
    os.chdir(folder)


def _make_devices(view: View, root: Path) -> None:
    for path in view.devices:
        place = root / path.relative_to("/")
        if path.is_dir():
            make_open_folder(place)
        else:
            make_open_folder(place.parent)
            place.touch()
        bind(path, place)
        if str(path) in PLAIN_DEVICES:
            make_read_only(place, devices=True)  # what is written goes to the device; its times, which all runs see, stay
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        make_open_folder(root / "dev")
        (root / "dev" / name).symlink_to(f"/proc/self/{target}")


def _show(path: Path, root: Path) -> None:
    """Makes `path` visible below `root`, read-only, with the links that lead to it."""
    links, real = links_on_the_way(path)
    for link, target in links:
        place = root / link.relative_to("/")
        make_open_folder(place.parent)
        with contextlib.suppress(FileExistsError):
            place.symlink_to(target)
    place = root / real.relative_to("/")
    if _is_shown(place, real):
        return
    if real.is_dir():
        make_open_folder(place)
    else:
        make_open_folder(place.parent)
        place.touch()
    bind(real, place)
    make_read_only(place)


def _is_shown(place: Path, real: Path) -> bool:
    """Whether a path is visible already, because a folder that contains it is."""
    with contextlib.suppress(OSError):
        return os.path.samestat(place.stat(), real.stat())
    return False


def _cover(path: Path, root: Path) -> None:
    """Puts an empty folder, or an empty file, over `path` below `root`."""
    place = root / path.resolve().relative_to("/")
    if not place.exists():
        return
    if stat.S_ISDIR(place.stat().st_mode):
        mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4k")
        make_read_only(place)
    else:
        bind("/dev/null", place)
