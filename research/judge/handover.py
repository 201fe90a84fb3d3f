"""What a trainer hands over, as the judge reads it: a header of tensors and the trainer's own words. None of it is trusted."""

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any

MAX_HEADER_BYTES = 2**24

MAX_DIMENSIONS = 64
MAX_NAMED_TENSORS = 256
"""A result holds the shapes of at most this many tensors, in the order of their names."""

MAX_NAME = 120


def tensor_shapes(descriptor: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors payload of `size` bytes, by its header. Raises ValueError where it has none."""
    try:
        (length,) = struct.unpack("<Q", os.pread(descriptor, 8, 0))
        if length > min(size, MAX_HEADER_BYTES):
            raise ValueError("header too long")
        header = json.loads(os.pread(descriptor, length, 8))
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        if not all(map(_is_shape, shapes.values())):
            raise ValueError("a shape that is none")
        if count_parameters(shapes) > 8 * size:
            raise ValueError("more numbers than bits")
        return shapes
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise ValueError("no safetensors") from error


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers in all tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())


def printable_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The first MAX_NAMED_TENSORS by name, with names that any terminal, database and log can take."""
    return {_printable(name, MAX_NAME): shapes[name] for name in sorted(shapes)[:MAX_NAMED_TENSORS]}


def reported_fields(encoded: bytes) -> dict[str, Any]:
    """The child's own words as `reported_*` fields; what has the wrong type is left out."""
    try:
        report = json.loads(encoded)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(report, Mapping):
        return {}
    fields: dict[str, Any] = {}
    for name, kind in (("steps", int), ("tokens", int), ("depth", int), ("recompiles", int), ("mfu_percent", float),
                       ("peak_memory_mb", float), ("kernel", str)):  # fmt: skip
        value = report.get(name)
        if kind is str and isinstance(value, str):
            fields[f"reported_{name}"] = _printable(value, 80)
        elif kind is not str and is_plain_number(value) and (kind is float or isinstance(value, int)):
            fields[f"reported_{name}"] = value
    curve = report.get("curve")
    points = [point for point in curve[:1024] if is_curve_point(point)] if isinstance(curve, list) else []
    fields["reported_curve"] = tuple((float(seconds), int(step), float(loss)) for seconds, step, loss in points)
    return fields


def is_plain_number(value: object) -> bool:
    """Whether a value of JSON is a number that a database and another JSON parser can take, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53


def is_curve_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(is_plain_number, value))


def _is_shape(shape: tuple[object, ...]) -> bool:
    """Whether these are lengths that can be multiplied without taking all day."""
    return len(shape) <= MAX_DIMENSIONS and all(type(length) is int and 0 <= length < 2**53 for length in shape)


def _printable(text: str, length: int) -> str:
    return "".join(filter(str.isprintable, text))[:length]
