"""Shared memory: anonymous, sent to other processes by its descriptor, and sealed against writing."""

import fcntl
import mmap
import os
import sys
import tempfile


def shared_memory(size: int) -> int:
    """A descriptor of `size` bytes of anonymous memory that can be sealed and sent (macOS: an unlinked file)."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    if size:
        os.ftruncate(descriptor, size)
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
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0x1 | 0x2 | 0x4 | 0x8)  # SEAL, SHRINK, GROW, WRITE


def is_sealable_memory(descriptor: int) -> bool:
    """Whether a descriptor that a child sent is memory whose reads can neither block nor change after sealing."""
    if sys.platform != "linux":
        return True
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def map_shared(descriptor: int, size: int, *, writable: bool) -> mmap.mmap:
    """`size` bytes of shared memory, mapped."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=access)
