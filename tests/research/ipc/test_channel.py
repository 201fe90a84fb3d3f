"""Messages of fixed size, and memory that can be sealed."""

import os
import socket
import threading

import pytest

from research.ipc.channel import (
    Channel,
    ChannelClosed,
    Kind,
    Message,
    is_sealable_memory,
    map_shared,
    monotonic,
    seal,
    shared_memory,
)


@pytest.fixture
def ends() -> tuple[Channel, Channel]:
    ours, theirs = Channel.pair()
    return ours, Channel(theirs)


def test_a_message_arrives_with_its_descriptors(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    memory = shared_memory(8)
    os.pwrite(memory, b"abcdefgh", 0)
    theirs.send(Kind.FINISH, 2**40, -1, 0.5, [memory, memory])
    message = ours.receive(1)
    assert message is not None
    assert (message.kind, message.a, message.b, message.x) == (Kind.FINISH, 2**40, -1, 0.5)
    assert [os.pread(descriptor, 8, 0) for descriptor in message.descriptors] == [b"abcdefgh"] * 2
    message.drop()
    with pytest.raises(OSError):
        os.fstat(message.descriptors[0])


def test_messages_keep_their_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    for n in range(20):
        theirs.send(Kind.PROGRESS, n)
    assert [message.a for _ in range(20) if (message := ours.receive(0))] == list(range(20))
    assert ours.receive(0) is None


def test_a_part_of_a_message_is_waited_for_no_longer_than_asked(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(Kind.READY, 7)
    whole = ours._socket.recv(64)
    theirs._socket.send(whole[:5])
    began = monotonic()
    assert ours.receive(0.05) is None and monotonic() - began < 5
    theirs._socket.send(whole[5:])
    assert ours.receive(1) == Message(kind=Kind.READY, a=7, b=0, x=0.0)


def test_the_other_ends_end_is_noticed(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(Kind.READY)
    theirs.close()
    assert ours.receive(1) is not None
    with pytest.raises(ChannelClosed):
        ours.receive(1)
    with pytest.raises(ChannelClosed):
        ours.send(Kind.SCORE)


def test_the_judge_never_waits_for_a_child_that_does_not_read(ends: tuple[Channel, Channel]) -> None:
    ours, _ = ends

    def flood() -> None:
        with pytest.raises(ChannelClosed):
            while True:
                ours.send(Kind.SCORE)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_sealed_memory_cannot_be_written_by_any_descriptor() -> None:
    memory = shared_memory(4096)
    os.pwrite(memory, b"rows", 0)
    seal(memory)
    for act in (
        lambda: os.pwrite(memory, b"x", 0),
        lambda: os.pwrite(os.open(f"/proc/self/fd/{memory}", os.O_RDWR), b"x", 0),
        lambda: os.ftruncate(memory, 8192),
        lambda: map_shared(memory, 4096, writable=True),
    ):
        with pytest.raises(OSError):
            act()
    assert map_shared(memory, 4096, writable=False)[:4] == b"rows"


def test_memory_that_is_mapped_for_writing_cannot_be_sealed() -> None:
    memory = shared_memory(4096)
    mapped = map_shared(memory, 4096, writable=True)
    with pytest.raises(OSError):
        seal(memory)
    mapped.close()
    seal(memory)


def test_only_memory_counts_as_memory() -> None:
    read, write = os.pipe()
    one, other = socket.socketpair()
    null = os.open(os.devnull, os.O_RDONLY)
    assert is_sealable_memory(shared_memory(8))
    assert not any(map(is_sealable_memory, (read, write, one.fileno(), other.fileno(), null)))
