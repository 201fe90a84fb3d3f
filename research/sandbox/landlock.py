"""Landlock: which files a process may open, and what it may signal or connect to.

Source: Linux `Documentation/userspace-api/landlock`.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from research.sandbox.linux import PR_SET_NO_NEW_PRIVS, prctl, syscall

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_IOCTL_DEV = 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR

_FILE_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file rights of each version; later versions add none."""

_FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | (1 << 14) | _IOCTL_DEV
"""Rights that a rule on something other than a folder may name."""

_NET_BIND_AND_CONNECT = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1


def abi() -> int:
    """The kernel's version of Landlock; 0 if it has none, or has it turned off."""
    try:
        return syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    except OSError:
        return 0


def restrict(*, readable: Iterable[Path], listable: Iterable[Path], writable: Iterable[Path], devices: Iterable[Path],
             network: bool = False) -> None:  # fmt: skip
    """Restricts this process, and all that it starts, to these paths and what is below them. Raises OSError.

    `listable` folders show their names only; paths that don't exist are left out. TCP (unless `network`), abstract Unix sockets
    and signals to processes outside are refused as well, if the kernel's version of Landlock supports that.
    """
    version = abi()
    handled = (1 << _FILE_RIGHTS_BY_ABI.get(version, 16)) - 1
    sockets = _NET_BIND_AND_CONNECT if version >= 4 and not network else 0
    scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, sockets, scoped)[: {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}.get(version, 24)]
    ruleset = syscall(
        "landlock_create_ruleset", ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    try:
        for paths, rights in (
            (readable, READ),
            (listable, READ_DIR),
            (writable, handled),
            (devices, READ_FILE | WRITE_FILE | _IOCTL_DEV),
        ):
            for path in paths:
                _add_rule(ruleset, path, rights & handled)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _add_rule(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = rights if path.is_dir() else rights & _FILE_ONLY
        rule = struct.pack("=Qi", rights, descriptor)
        syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.c_char_p(rule), 0)
    finally:
        os.close(descriptor)
