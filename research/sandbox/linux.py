"""The Linux system calls that Python does not offer. Each raises OSError with the call's name."""

import contextlib
import ctypes
import os
import platform
import signal
import sys
from functools import cache
from pathlib import Path

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 24, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47

SYSCALLS = {
    "seccomp": {"x86_64": 317, "aarch64": 277},
    "pivot_root": {"x86_64": 155, "aarch64": 41},
    "capset": {"x86_64": 126, "aarch64": 91},
    "mount_setattr": {"x86_64": 442, "aarch64": 442},
    "cachestat": {"x86_64": 451, "aarch64": 451},
    "landlock_create_ruleset": {"x86_64": 444, "aarch64": 444},
    "landlock_add_rule": {"x86_64": 445, "aarch64": 445},
    "landlock_restrict_self": {"x86_64": 446, "aarch64": 446},
}
"""Numbers of the system calls that the C library has no function for."""

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK_BYTES = (2**30, 2**25)
"""The largest block to keep; glibc before 2.35 refuses the first."""
_SECUREBITS_NOROOT_LOCKED = 0b11
_WHOLE_FILE = bytes(16)


class _MountAttributes(ctypes.Structure):
    _fields_ = [("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64),
                ("userns_fd", ctypes.c_uint64)]  # fmt: skip


def machine() -> str:
    """The processor's architecture: `x86_64`, `aarch64`, or another name."""
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())


def syscall(name: str, *arguments: object) -> int:
    """Makes a system call by its number in SYSCALLS. Raises OSError."""
    try:
        number = SYSCALLS[name][machine()]
    except KeyError:
        raise OSError(38, f"{name} is not known on {machine()}") from None
    return _checked(name, _libc().syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)][:4]
    return _checked("prctl", _libc().prctl(option, *padded))


def unshare(flags: int) -> None:
    _checked("unshare", _libc().unshare(flags))


def mount(source: str, target: str | Path, kind: str | None, flags: int, data: str = "") -> None:
    where = os.fsencode(target)
    kind_bytes = kind.encode() if kind else None
    _checked(f"mount {target}", _libc().mount(os.fsencode(source), where, kind_bytes, ctypes.c_ulong(flags), data.encode()))


def bind(source: str | Path, target: str | Path) -> None:
    """Makes `source`, with everything mounted below it, also visible at `target`."""
    mount(str(source), target, None, MS_BIND | MS_REC)


def make_read_only(target: str | Path, *, devices: bool = False, below: bool = True) -> None:
    """Makes a mount read-only, without set-user-id programs and, unless `devices`, device nodes; with all mounts `below` it."""
    attributes = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | (0 if devices else _MOUNT_ATTR_NODEV)
    _set_attributes(target, _MountAttributes(set=attributes), below=below)


def make_writable(target: str | Path, *, devices: bool = False) -> None:
    """Makes a mount, but not those below it, writable again, and with `devices` its device nodes usable."""
    cleared = _MOUNT_ATTR_RDONLY | (_MOUNT_ATTR_NODEV if devices else 0)
    _set_attributes(target, _MountAttributes(clear=cleared), below=False)


def _set_attributes(target: str | Path, wanted: _MountAttributes, *, below: bool) -> None:
    path, flags = ctypes.c_char_p(os.fsencode(target)), _AT_RECURSIVE if below else 0
    syscall("mount_setattr", _AT_FDCWD, path, flags, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)))


def pivot_root(new_root: Path) -> None:
    """Makes `new_root`, which must be a mount, the root; the old one is gone afterwards."""
    os.chdir(new_root)
    here = ctypes.c_char_p(b".")
    syscall("pivot_root", here, here)
    _checked("umount2", _libc().umount2(b".", MNT_DETACH))
    os.chdir("/")


def forbid_capabilities() -> None:
    """Prevents programs that are executed later from getting capabilities. Call it before giving up one's own."""
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:  # past the last one, or not permitted (then there is nothing to drop)
            break
    with contextlib.suppress(OSError):  # an ordinary user can't: no_new_privs has the same effect
        prctl(PR_SET_SECUREBITS, _SECUREBITS_NOROOT_LOCKED)


def drop_capabilities() -> None:
    """Drops every capability."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    syscall("capset", ctypes.byref(header), ctypes.byref(nothing))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent ends, on Linux."""
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, number)


def become_subreaper() -> None:
    """Makes this process adopt its orphaned descendants, on Linux, so that a double fork cannot hide one."""
    if sys.platform == "linux":
        prctl(PR_SET_CHILD_SUBREAPER, 1)


def keep_freed_memory() -> None:
    """Lets glibc's malloc keep large blocks that are freed, in this process and those forked off it.

    By default it gives each tensor of some megabytes back to the kernel, which clears the pages for the next one: on a CPU that
    is a third of a training step (benchmarks/kept_memory.py).
    """
    if sys.platform == "linux" and hasattr(_libc(), "mallopt"):
        taken = next((size for size in _KEPT_BLOCK_BYTES if _libc().mallopt(_M_MMAP_THRESHOLD, size)), None)
        if taken is not None:  # set alone, the trim threshold would give back even blocks of 128 KiB
            _libc().mallopt(_M_TRIM_THRESHOLD, max(_KEPT_BLOCK_BYTES))


def pages_in_cache(descriptor: int) -> int:
    """Number of a file's pages that are in the page cache; needs Linux 6.5. On an overlay some kernels answer 0."""
    found = (ctypes.c_uint64 * 5)()
    syscall("cachestat", ctypes.c_int(descriptor), _WHOLE_FILE, found, ctypes.c_uint(0))
    return int(found[0])


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(name: str, answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return answer
