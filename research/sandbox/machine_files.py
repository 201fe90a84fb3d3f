"""The machine's files for a program that may read most of them and write few: read-only mounts, or Landlock without namespaces.

A coding agent needs the machine's programs wherever they are, so this is the machine's own root with parts taken away. (A run
needs little, so it gets a root folder with that alone, root_folder.py.)
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from research.files import make_open_folder
from research.sandbox import landlock
from research.sandbox.linux import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    bind,
    make_read_only,
    make_writable,
    mount,
)

NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
"""Namespaces that the mounts need, and that end and hide processes; the network stays the machine's."""

SCRATCH_FOLDERS = ("/tmp", "/var/tmp")
"""Folders that are the program's own temporary folder instead."""

HIDDEN = ("/dev", "/run", "/var/run")
"""Folders with the machine's devices, and with the sockets of services that would write or run something for a caller: the
service managers of the user and of the system, containers."""

NAME_SERVICE = ("/etc/resolv.conf", "/run/current-system", "/run/opengl-driver")
"""Paths that are shown although what they lead to is hidden: where names are resolved, and NixOS's programs."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")

_READ_ONLY_FOR_ROOT = ("bus", "fs", "irq", "sys", "sysrq-trigger")
"""What in /proc belongs to the machine rather than to processes; root could write there without a capability."""

_SHARED_MEMORY = "mode=1777,size=1g"


@dataclass(frozen=True, kw_only=True)
class MachineFiles:
    """What a program may do with the machine's files. Paths that don't exist are left out."""

    writable: tuple[Path, ...]
    """Files and folders that it may write; the only ones."""
    kept: tuple[Path, ...] = ()
    """Files and folders that it may read although they are in hidden folders, but not write although in writable ones."""
    hidden: tuple[Path, ...] = ()
    """Files and folders that it may not even read, beside HIDDEN."""
    temporary: Path
    """An empty folder that it sees as SCRATCH_FOLDERS."""


def enter_mounts(files: MachineFiles) -> None:
    """Shows this process, the first one of new NAMESPACES, the machine's files as `files` says. Raises OSError."""
    shown = [(path, path, _is_writable(path)) for path in _there(files.writable)]
    shown += [(path, path, False) for path in _there((*files.kept, *map(Path, NAME_SERVICE)))]
    shown += [(files.temporary, path, True) for path in _real(map(Path, SCRATCH_FOLDERS))]
    shown += [(path, path, True) for path in _there(map(Path, DEVICES))]
    # held open, since what is hidden is no longer found by its path
    held = [(os.open(source, os.O_PATH), _place(path), is_writable) for source, path, is_writable in shown]
    nothing = os.open(os.devnull, os.O_PATH)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    make_read_only("/")
    covers = [path for path in _real((*files.hidden, *map(Path, HIDDEN))) if _cover(path, nothing)]
    for descriptor, place, is_writable in sorted(held, key=lambda entry: len(entry[1].parts)):
        _show(descriptor, place, is_writable=is_writable)
    _make_devices()
    for path in covers:
        if path.is_mount():  # one in a scratch folder is gone with all that was there
            make_read_only(path, below=False)
    _mount_proc()
    for descriptor, *_ in held:
        os.close(descriptor)
    os.close(nothing)


def restrict(files: MachineFiles) -> None:
    """Restricts this process to `files` by Landlock. SCRATCH_FOLDERS are hidden: only `temporary` itself can be used.

    What is below a writable folder is writable, even if it is kept: rules only add. Raises OSError.
    """
    hidden = _real((*files.hidden, *map(Path, (*HIDDEN, *SCRATCH_FOLDERS))))
    readable, listable = granted_around(Path("/"), hidden)
    landlock.restrict(
        readable=[*readable, *_there((*files.kept, *map(Path, NAME_SERVICE)))],
        listable=listable,
        writable=[*_there(files.writable), files.temporary],
        devices=[Path(path) for path in (*DEVICES, "/dev/pts", "/dev/ptmx")],
        network=True,
    )


def granted_around(folder: Path, hidden: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """How to grant `folder` without the real paths `hidden`: the paths to grant, and the folders that may be listed only.

    Symbolic links are left out: where they lead to is granted, or not, by its own path.
    """
    inside = [path for path in hidden if path.is_relative_to(folder)]
    if not inside:
        return [folder], []
    if folder in inside:
        return [], []
    granted, listed = [], [folder]
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        return [], []
    for entry in entries:
        if entry.is_symlink():
            continue
        parts, folders = granted_around(entry, inside)
        granted += parts
        listed += folders
    return granted, listed


def _there(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that this user can find."""
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]  # noqa: PTH110 - Path.exists raises where it is denied


def _is_writable(path: Path) -> bool:
    """Whether a path's file system can be written here at all."""
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _real(paths: Iterable[Path]) -> list[Path]:
    """The places that the paths lead to, outermost first, without those below others."""
    found: list[Path] = []
    for path in sorted({path.resolve() for path in _there(paths)}, key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _place(path: Path) -> Path:
    """Where a path is, with the links in the folders above it resolved, but not one at its end."""
    return path.parent.resolve() / path.name


def _cover(path: Path, nothing: int) -> bool:
    """Puts an empty folder, writable as yet, or a file that can't be opened, over a path. Returns whether it is a folder."""
    if not path.is_dir():
        bind(f"/proc/self/fd/{nothing}", path)
        return False
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    return True


def _show(descriptor: int, place: Path, *, is_writable: bool) -> None:
    """Makes what is held open visible at a place, which is made if what was there is hidden."""
    source = Path(f"/proc/self/fd/{descriptor}")
    if source.is_dir():
        make_open_folder(place)
    elif not os.path.lexists(place):
        make_open_folder(place.parent)
        place.touch()
    if place.is_symlink() and not place.exists():  # it leads into a hidden folder
        place = Path(os.path.realpath(place))
        make_open_folder(place.parent)
        place.touch()
    bind(source, place)
    if is_writable:
        make_writable(place, devices=place.parent == Path("/dev"))


def _make_devices() -> None:
    """Completes /dev, which holds DEVICES: links, terminals and shared memory of the program's own."""
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path("/dev", name).symlink_to(f"/proc/self/{target}")
    for name in ("pts", "shm"):
        Path("/dev", name).mkdir()
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, _SHARED_MEMORY)
    with contextlib.suppress(OSError):  # some containers refuse it; few programs need a terminal
        mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
        Path("/dev/ptmx").symlink_to("pts/ptmx")


def _mount_proc() -> None:
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if os.geteuid() != 0:
        return
    for name in _READ_ONLY_FOR_ROOT:
        path = Path("/proc", name)
        if path.exists():
            bind(path, path)
            make_read_only(path)
