"""Shared memory: anonymous, sent to other processes by its descriptor, and sealed against writing."""

import errno
import fcntl
import mmap
import os
import sys
import tempfile

_SEAL, _SHRINK, _GROW, _WRITE = 0x1, 0x2, 0x4, 0x8
"""Linux's seals: against more seals, smaller and larger sizes, and writing."""

LARGEST_COPY = 2**30
"""Bytes that one system call copies; the kernel stops at 2 GiB."""


def shared_memory(size: int) -> int:
    """A descriptor of `size` bytes of anonymous memory that can be sealed and sent (macOS: an unlinked file).

    Nobody can change a size that is given here: whoever reads memory that another process has cut off is killed (SIGBUS).
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    if size:
        os.ftruncate(descriptor, size)
        _add_seals(descriptor, _SHRINK | _GROW)
    return descriptor


def memory_with(content: bytes | memoryview) -> int:
    """A descriptor of shared memory that holds these bytes."""
    descriptor = shared_memory(0)
    with os.fdopen(os.dup(descriptor), "wb") as memory:
        memory.write(content)
    return descriptor


def sealed_memory(content: bytes | memoryview) -> int:
    """A descriptor of sealed memory that holds these bytes."""
    descriptor = memory_with(content)
    seal(descriptor)
    return descriptor


def seal(descriptor: int) -> None:
    """Makes shared memory read-only for everyone, for good. Raises OSError if something can still write to it.

    A read-only descriptor is not enough: it can be opened again for writing through /proc/self/fd.
    """
    _add_seals(descriptor, _SEAL | _SHRINK | _GROW | _WRITE)


def _add_seals(descriptor: int, seals: int) -> None:
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def is_sealable_memory(descriptor: int) -> bool:
    """Whether a descriptor that a child sent is memory whose reads can neither block nor change after sealing.

    Memory in huge pages is refused: it can be mapped in whole pages only, and may run out where it is first read.
    """
    if sys.platform != "linux":
        return True
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return os.fstatvfs(descriptor).f_bsize == mmap.PAGESIZE


def sealed_copy(descriptor: int, size: int) -> int:
    """A descriptor of a sealed copy of the first `size` bytes of a file. Raises OSError if the file has fewer."""
    copy = shared_memory(size)
    done = 0
    while done < size:
        copied = os.sendfile(copy, descriptor, done, min(LARGEST_COPY, size - done))
        if not copied:
            raise OSError(errno.EIO, f"{done} of {size} bytes could be copied")
        done += copied
    seal(copy)
    return copy


def map_shared(descriptor: int, size: int, *, writable: bool) -> mmap.mmap:
    """`size` bytes of shared memory, mapped."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=access)
