"""What a trainer hands over is read with care: it can be anything."""

import json
import os

import pytest
import torch
from safetensors.torch import save

from research.judge.handover import MAX_NAMED_TENSORS, Report, count_parameters, printable_shapes, read_report, tensor_shapes


def test_what_the_child_reports_is_kept_only_where_it_is_plain() -> None:
    report = {"steps": 3, "tokens": 10**30, "depth": True, "recompiles": "0", "mfu_percent": 12, "kernel": "a\n\ud800b" * 80,
              "curve": [[0.5, 1, 2.0], [0.5, 1], "abc", [0.5, 1, float("nan")], [1, 2, 3]]}  # fmt: skip
    assert read_report(json.dumps(report).encode()) == Report(
        steps=3, mfu_percent=12, kernel=("a b" * 80)[:80], curve=((0.5, 1, 2.0), (1.0, 2, 3.0))
    )


@pytest.mark.parametrize("encoded", [b"", b"{", b"[1]", b"\xff", b"[" * 200_000, b'{"curve": {"a": 1}}'])
def test_a_report_that_is_none_is_left_out(encoded: bytes) -> None:
    assert read_report(encoded) == Report()


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[" * 100_000,
        b'{"w": {}}',
        b'{"w": {"shape": [-1]}}',
        b'{"w": {"shape": [1e400]}}',
        b'{"w": {"shape": ["a"]}}',
        b'{"w": {"shape": [1000000000000]}}',
        b'{"w": {"shape": [' + b"9999," * 1_000_000 + b"1]}}",
        b'{"w": {"shape": [true]}}',
        b"[]",
    ],
)
def test_a_header_that_is_no_safetensors_is_invalid(header: bytes) -> None:
    payload = len(header).to_bytes(8, "little") + header
    descriptor = os.memfd_create("tensors")
    os.write(descriptor, payload)
    with pytest.raises(ValueError):
        tensor_shapes(descriptor, len(payload))
    os.close(descriptor)


def test_shapes_are_read_from_the_header() -> None:
    payload = save({"b": torch.zeros(2, 3), "a": torch.zeros(()), "c": torch.zeros(0, 5)})
    descriptor = os.memfd_create("tensors")
    os.write(descriptor, payload)
    shapes = tensor_shapes(descriptor, len(payload))
    os.close(descriptor)
    assert shapes == {"a": (), "b": (2, 3), "c": (0, 5)} and count_parameters(shapes) == 7


def test_what_is_recorded_of_shapes_is_bounded_and_printable() -> None:
    shapes = {f"\x1b[2J\ud800{number:04}" + "x" * 500: (number,) for number in range(1000)}
    recorded = printable_shapes(shapes)
    assert len(recorded) == MAX_NAMED_TENSORS and all(len(name) <= 120 and name.isprintable() for name in recorded)
    assert recorded["[2J0001" + "x" * 113] == (1,)
