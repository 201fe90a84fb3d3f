"""What a trainer hands over, as the judge reads it: tensors and the trainer's own report. Neither is trusted."""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from research.ipc.memory import is_sealable_memory, map_shared, seal, sealed_copy
from research.ipc.messages import Finish
from research.judge.failures import RunEnded
from research.printable import visible

MAX_HEADER_BYTES = 2**24
MAX_REPORT_BYTES = 2**20

BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"I64": 64, "U64": 64, "F64": 64, "C64": 64},
}
"""Bits of an element of each of the types that safetensors knows."""

MAX_DIMENSIONS = 64
MAX_NAMED_TENSORS = 256
"""Maximum number of tensors whose shapes a result holds; the first by name."""

MAX_NAME = 120
MAX_KERNEL = 80
MAX_CURVE_POINTS = 1024


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the trainer reports about itself. None: it was not reported, or not as a plain value."""

    steps: int | None = None
    tokens: int | None = None
    depth: int | None = None
    recompiles: int | None = None
    mfu_percent: float | None = None
    peak_memory_mb: float | None = None
    kernel: str | None = None
    curve: tuple[tuple[float, int, float], ...] = ()
    """(seconds, step, loss)"""


@dataclass(frozen=True, kw_only=True)
class SubmittedModel:
    """A model that was handed over: its tensors as safetensors in sealed memory."""

    descriptor: int
    size: int
    """Bytes."""
    shapes: Mapping[str, tuple[int, ...]]
    report: Report

    def copy(self) -> int:
        """A descriptor of a sealed copy for one scorer: two scorers could exchange data by the attributes of one memory."""
        return sealed_copy(self.descriptor, self.size)

    def tensors(self) -> memoryview:
        """The safetensors payload."""
        return memoryview(map_shared(self.descriptor, self.size, writable=False))


def seal_submission(message: Finish, *, most_bytes: int) -> None:
    """Makes what a trainer handed over read-only for all, the trainer included, which may live on and try to improve it.

    Raises RunEnded unless that is sealable memory of at most `most_bytes` for the model, to which nothing else can write.
    """
    if len(message.descriptors) != 2:
        raise RunEnded("invalid", "the model was not handed over by session.finish(model)")
    if message.model_bytes > most_bytes:
        words = f"{message.model_bytes / 2**30:.1f} GiB (limit {most_bytes / 2**30:.1f} GiB)"
        raise RunEnded("oom", f"the model's tensors are too large to be scored here: {words}; make the model smaller")
    for descriptor, size in zip(message.descriptors, (message.model_bytes, message.report_bytes), strict=True):
        if not is_sealable_memory(descriptor) or not 0 < size <= os.fstat(descriptor).st_size:
            raise RunEnded("invalid", "the model was not handed over as tensors in memory: call session.finish(model)")
        try:
            seal(descriptor)
        except OSError:
            raise RunEnded("invalid", "the model's tensors can still be written to: call session.finish(model)") from None


def read_submission(message: Finish) -> SubmittedModel:
    """The model that was handed over and sealed. Raises RunEnded unless it is one."""
    tensors, report = message.descriptors
    try:
        shapes = tensor_shapes(tensors, message.model_bytes)
    except ValueError:
        raise RunEnded("invalid", "the model was not handed over as safetensors: call session.finish(model)") from None
    reported = Report()
    if message.report_bytes <= MAX_REPORT_BYTES:
        reported = read_report(os.pread(report, message.report_bytes, 0))
    os.close(report)
    return SubmittedModel(descriptor=tensors, size=message.model_bytes, shapes=shapes, report=reported)


def tensor_shapes(descriptor: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors payload of `size` bytes, by its header.

    Raises ValueError if the header is invalid, or if the payload has more bytes than its tensors.
    """
    try:
        (length,) = struct.unpack("<Q", os.pread(descriptor, 8, 0))
        if length > min(size, MAX_HEADER_BYTES):
            raise ValueError("header too long")
        header = json.loads(os.pread(descriptor, length, 8))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        if not all(map(_is_shape, shapes.values())):
            raise ValueError("invalid shape")
        if sum(-(-math.prod(shapes[name]) * BITS[entry["dtype"]] // 8) for name, entry in tensors.items()) != size - 8 - length:
            raise ValueError("the tensors are not all that there is")
        return shapes
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise ValueError("not a safetensors header") from error


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of elements of all tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())


def printable_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The first MAX_NAMED_TENSORS by name, with names that any terminal, database and log can take."""
    return {_printable(name, MAX_NAME): shapes[name] for name in sorted(shapes)[:MAX_NAMED_TENSORS]}


def read_report(encoded: bytes) -> Report:
    """The trainer's report, from JSON; values of a wrong type are left out."""
    try:
        values = json.loads(encoded)
    except (ValueError, RecursionError):
        return Report()
    if not isinstance(values, dict):
        return Report()
    curve = values.get("curve")
    points = [point for point in curve[:MAX_CURVE_POINTS] if is_curve_point(point)] if isinstance(curve, list) else []
    kernel = values.get("kernel")
    return Report(
        steps=_integer(values.get("steps")),
        tokens=_integer(values.get("tokens")),
        depth=_integer(values.get("depth")),
        recompiles=_integer(values.get("recompiles")),
        mfu_percent=_number(values.get("mfu_percent")),
        peak_memory_mb=_number(values.get("peak_memory_mb")),
        kernel=_printable(kernel, MAX_KERNEL) if isinstance(kernel, str) else None,
        curve=tuple((float(seconds), int(step), float(loss)) for seconds, step, loss in points),
    )


def is_curve_point(value: object) -> bool:
    """Whether a JSON value is a list of three plain numbers."""
    return isinstance(value, list) and len(value) == 3 and all(_number(number) is not None for number in value)


def _number(value: object) -> float | None:
    """A JSON value if it is a number that a database and another JSON parser can take, else None."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53
    return value if plain and isinstance(value, (int, float)) else None


def _integer(value: object) -> int | None:
    """A JSON value if it is a plain integer, else None."""
    return value if isinstance(value, int) and _number(value) is not None else None


def _is_shape(shape: tuple[object, ...]) -> bool:
    """Whether these are sizes whose product is quick to compute."""
    return len(shape) <= MAX_DIMENSIONS and all(type(length) is int and 0 <= length < 2**53 for length in shape)


def _printable(text: str, length: int) -> str:
    return visible(text[: 4 * length])[:length]
