"""The messages between the judge and its children: one record per kind, all packed into the same fixed struct.

Nothing of variable length is parsed, so the worst that a hostile child can send is a wrong number.
"""

import os
import struct
from dataclasses import dataclass, fields
from typing import ClassVar

_INTEGERS = 3
_LAYOUT = struct.Struct(f"<q{_INTEGERS}qd")
"""The kind, integers and one float; a record uses as many of them as it has fields, and the rest are 0."""

SIZE = _LAYOUT.size
"""Bytes of every message."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What all messages have in common. The descriptors are sent alongside the struct."""

    KIND: ClassVar[int]

    descriptors: tuple[int, ...] = ()
    """A child can send any, and any number up to channel.MAX_DESCRIPTORS: whoever receives them checks them."""

    def drop(self) -> None:
        """Closes the descriptors of a message that nobody wants."""
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class ModelBuilt(Message):
    """Scorer: the model is built, and compiled on a GPU."""

    KIND = 1

    seedless: int
    """1 if another seed gives the same initial parameters."""


@dataclass(frozen=True, kw_only=True)
class DataRequested(Message):
    """Trainer: warmed up, waiting for the training rows."""

    KIND = 2


@dataclass(frozen=True, kw_only=True)
class Data(Message):
    """Judge to trainer: the training rows; the clock is running. Descriptor: the rows, (rows, width) uint16, sealed."""

    KIND = 3

    rows: int
    width: int
    """Tokens per row."""
    deadline: float
    """End of the time budget, in seconds on the monotonic clock."""


@dataclass(frozen=True, kw_only=True)
class Progress(Message):
    """Trainer: the loss at a step."""

    KIND = 4

    step: int
    tokens: int
    """Training tokens so far."""
    loss: float
    """Nats per token."""


@dataclass(frozen=True, kw_only=True)
class Finish(Message):
    """Trainer: the trained model. Descriptors: its tensors as safetensors, and a report as JSON."""

    KIND = 5

    model_bytes: int
    report_bytes: int


@dataclass(frozen=True, kw_only=True)
class Model(Message):
    """Judge to scorer: the model to score. Descriptors: its tensors as safetensors, the ids' buffer and the logits' buffer."""

    KIND = 6

    model_bytes: int
    batch_rows: int
    """Rows per batch, at most: each slot of the buffers holds as many."""


@dataclass(frozen=True, kw_only=True)
class ModelLoaded(Message):
    """Scorer: the model's tensors are loaded, and the buffers are mapped."""

    KIND = 7


@dataclass(frozen=True, kw_only=True)
class Score(Message):
    """Judge to scorer: the ids of a batch lie in the buffer."""

    KIND = 8

    rows: int
    batch: int
    """Number of the batch, from 0; its slot is `batch` modulo buffer.SLOTS."""


@dataclass(frozen=True, kw_only=True)
class Answered(Message):
    """Scorer: the logits of a batch lie in the buffer."""

    KIND = 9

    rows: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Begun(Message):
    """Child: it is in its sandbox, can use its device, and begins with train.py: what happens now is train.py's doing."""

    KIND = 11


@dataclass(frozen=True, kw_only=True)
class Unfit(Message):
    """Scorer: the logits have the wrong shape. The fields are its first three sizes, 0 if there are fewer."""

    KIND = 10

    rows: int
    tokens: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Unknown(Message):
    """A message of an unknown kind, which no honest child sends."""

    KIND = 0


_RECORDS: dict[int, type[Message]] = {
    record.KIND: record
    for record in (ModelBuilt, DataRequested, Data, Progress, Finish, Model, ModelLoaded, Score, Answered, Unfit, Begun)
}


def encode(message: Message) -> bytes:
    """The SIZE bytes of a message. Raises struct.error if a number doesn't fit."""
    integers = [getattr(message, name) for name in _names(type(message), int)]
    floats = [getattr(message, name) for name in _names(type(message), float)] or [0.0]
    return _LAYOUT.pack(message.KIND, *integers, *[0] * (_INTEGERS - len(integers)), *floats)


def decode(packed: bytes, descriptors: tuple[int, ...]) -> Message:
    """The record of SIZE bytes that came with these descriptors. Any bytes can be decoded."""
    kind, *integers, number = _LAYOUT.unpack(packed)
    record = _RECORDS.get(kind, Unknown)
    values = dict(zip(_names(record, int), integers, strict=False))
    values |= dict.fromkeys(_names(record, float), number)
    return record(descriptors=descriptors, **values)


def _names(record: type[Message], kind: type) -> list[str]:
    """The record's fields of this type, in their order."""
    return [field.name for field in fields(record) if field.type is kind]
