"""Messages of fixed size, and memory that can be sealed."""

import os
import random
import socket
import struct
import threading

import pytest

from research.ipc.channel import Channel, ChannelClosed, monotonic
from research.ipc.memory import is_sealable_memory, map_shared, memory_with, seal, shared_memory
from research.ipc.messages import (
    SIZE,
    Answered,
    Begun,
    Data,
    DataRequested,
    Finish,
    Message,
    Model,
    ModelBuilt,
    ModelLoaded,
    Progress,
    Score,
    Unfit,
    Unknown,
    decode,
    encode,
)

MESSAGES = [
    ModelBuilt(seedless=0),
    Begun(),
    DataRequested(),
    Data(rows=7, width=65, deadline=12.5),
    Progress(step=3, tokens=2**40, loss=2.25),
    Finish(model_bytes=2**40, report_bytes=-1),
    Model(model_bytes=9, batch_rows=64),
    ModelLoaded(),
    Score(rows=64, batch=5),
    Answered(rows=64, batch=5),
    Unfit(rows=1, tokens=2, vocabulary=3),
]


@pytest.fixture
def ends() -> tuple[Channel, Channel]:
    ours, theirs = Channel.pair()
    return ours, Channel(theirs)


def test_a_message_arrives_with_its_descriptors(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    memory = memory_with(b"abcdefgh")
    theirs.send(Finish(model_bytes=8, report_bytes=4, descriptors=(memory, memory)))
    message = ours.receive(1)
    assert isinstance(message, Finish) and (message.model_bytes, message.report_bytes) == (8, 4)
    assert [os.pread(descriptor, 8, 0) for descriptor in message.descriptors] == [b"abcdefgh"] * 2
    message.drop()
    with pytest.raises(OSError):
        os.fstat(message.descriptors[0])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_has_the_same_size_and_arrives_as_it_was(message: Message, ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(message)
    assert ours.receive(1) == message and len(encode(message)) == SIZE


def test_every_kind_has_a_number_of_its_own() -> None:
    assert len({message.KIND for message in MESSAGES} | {Unknown.KIND}) == len(MESSAGES) + 1


def test_whatever_a_child_sends_is_a_message() -> None:
    """It can send wrong numbers, and nothing else."""
    chance = random.Random(1)
    for kind in (*range(-2, 20), 2**63 - 1):
        packed = struct.pack("<q", kind) + chance.randbytes(SIZE - 8)
        message = decode(packed, (1, 2))
        expected = kind if 1 <= kind <= len(MESSAGES) else Unknown.KIND
        assert (message.KIND, message.descriptors) == (expected, (1, 2))


def test_messages_keep_their_order(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    for n in range(20):
        theirs.send(Progress(step=n, tokens=0, loss=0.0))
    assert [message.step for _ in range(20) if isinstance(message := ours.receive(0), Progress)] == list(range(20))
    assert ours.receive(0) is None


def test_a_part_of_a_message_is_waited_for_no_longer_than_asked(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(Answered(rows=7, batch=1))
    whole = ours._socket.recv(64)
    theirs._socket.send(whole[:5])
    began = monotonic()
    assert ours.receive(0.05) is None and monotonic() - began < 5
    theirs._socket.send(whole[5:])
    assert ours.receive(1) == Answered(rows=7, batch=1)


def test_the_other_ends_end_is_noticed(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    theirs.send(ModelBuilt(seedless=0))
    theirs.close()
    assert ours.receive(1) is not None
    with pytest.raises(ChannelClosed):
        ours.receive(1)
    with pytest.raises(ChannelClosed):
        ours.send(Score(rows=1, batch=0))


def test_the_judge_never_waits_for_a_child_that_does_not_read(ends: tuple[Channel, Channel]) -> None:
    ours, _ = ends

    def flood() -> None:
        with pytest.raises(ChannelClosed):
            while True:
                ours.send(Score(rows=1, batch=0))

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
