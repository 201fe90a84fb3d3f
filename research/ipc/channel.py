"""How the judge and its children talk: fixed-size messages over a socket pair, and descriptors of shared memory.

Nothing here parses anything of variable length, so a hostile child can at most send wrong numbers.
"""

import contextlib
import fcntl
import mmap
import os
import select
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

_LAYOUT = struct.Struct("<qqqd")
_MAX_DESCRIPTORS = 4


class Kind(IntEnum):
    """Messages, with what their numbers and descriptors mean."""

    READY = 1
    """Child: started (trainer: warmed up, asks for data)."""
    DATA = 2
    """Judge to trainer: a rows of b tokens in descriptor 0; the budget ends at x on the monotonic clock."""
    PROGRESS = 3
    """Trainer: at step a after b tokens the training loss was x."""
    FINISH = 4
    """Trainer: a bytes of safetensors in descriptor 0, b bytes of JSON report in descriptor 1."""
    MODEL = 5
    """Judge to scorer: a bytes of safetensors in descriptor 0; at most b rows a batch; descriptors 1 and 2 are the buffers."""
    SCORE = 6
    """Judge to scorer: a rows of ids lie in the buffer."""
    ANSWERED = 7
    """Scorer: the logits of a rows lie in the buffer."""
    UNFIT = 8
    """Scorer: the logits' shape was wrong; a, b, x are its sizes."""


@dataclass(frozen=True, kw_only=True)
class Message:
    kind: int
    a: int
    b: int
    x: float
    descriptors: tuple[int, ...] = ()

    def drop(self) -> None:
        """Closes the descriptors of a message that nobody wants."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._data = b""
        self._descriptors: list[int] = []

    @staticmethod
    def pair() -> "tuple[Channel, socket.socket]":
        """The judge's channel, which never waits for a child that doesn't read, and the end that the child inherits."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        return Channel(ours), theirs

    def send(self, kind: Kind, a: int = 0, b: int = 0, x: float = 0.0, descriptors: Sequence[int] = ()) -> None:
        """Raises ChannelClosed where nobody listens, or has not for long."""
        packed = _LAYOUT.pack(int(kind), a, b, x)
        try:
            if descriptors:
                socket.send_fds(self._socket, [packed], list(descriptors))
            else:
                self._socket.sendall(packed)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None where it is not there, or not whole, within `timeout` seconds (None: wait for ever)."""
        deadline = None if timeout is None else monotonic() + timeout
        while len(self._data) < _LAYOUT.size:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return None
            try:
                part, descriptors, _, _ = socket.recv_fds(self._socket, _LAYOUT.size - len(self._data), _MAX_DESCRIPTORS)
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not part:
                raise ChannelClosed("closed")
            self._data += part
            self._descriptors += descriptors
        kind, a, b, x = _LAYOUT.unpack(self._data)
        message = Message(kind=kind, a=a, b=b, x=x, descriptors=tuple(self._descriptors))
        self._data, self._descriptors = b"", []
        return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def monotonic() -> float:
    """Seconds on the clock that judge and children share."""
    return time.monotonic()


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


def seal(descriptor: int) -> None:
    """Makes shared memory read-only for everyone, for good. Raises OSError where something can still write to it.

    A read-only descriptor would not do: it can be opened again for writing through /proc/self/fd.
    """
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0x1 | 0x2 | 0x4 | 0x8)  # SEAL, SHRINK, GROW, WRITE


def sealed_memory(content: memoryview) -> int:
    """A descriptor of memory that holds these bytes, sealed."""
    descriptor = shared_memory(len(content))
    with os.fdopen(os.dup(descriptor), "wb") as memory:
        memory.write(content)
    seal(descriptor)
    return descriptor


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
