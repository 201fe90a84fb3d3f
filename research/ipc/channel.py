"""One end of the connection between the judge and a child: messages of fixed size over a socket pair."""

import contextlib
import select
import socket
import time

from research.ipc.messages import SIZE, Message, decode, encode

MAX_DESCRIPTORS = 4
"""Descriptors that one part of a message can bring; the kernel closes the others."""


class ChannelClosed(Exception):
    """The other end is closed."""


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

    def send(self, message: Message) -> None:
        """Sends it. Raises ChannelClosed if the other end is closed or, on the judge's channel, has not read for long."""
        packed = encode(message)
        try:
            if message.descriptors:
                socket.send_fds(self._socket, [packed], list(message.descriptors))
            else:
                self._socket.sendall(packed)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None if it has not arrived completely within `timeout` seconds (None: no limit).

        Raises ChannelClosed.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while len(self._data) < SIZE:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return None
            try:
                part, descriptors, _, _ = socket.recv_fds(self._socket, SIZE - len(self._data), MAX_DESCRIPTORS)
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not part:
                raise ChannelClosed("closed")
            self._data += part
            self._descriptors += descriptors
        message = decode(self._data, tuple(self._descriptors))
        self._data, self._descriptors = b"", []
        return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def monotonic() -> float:
    """Seconds on the clock that judge and children share."""
    return time.monotonic()
