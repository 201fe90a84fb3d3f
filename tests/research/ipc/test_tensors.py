"""Tensors in shared memory are what the safetensors library reads."""

import os

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from research.ipc.memory import map_shared, seal
from research.ipc.tensors import TYPES, memory_with_tensors
from research.judge.handover import BITS, tensor_shapes


def read_back(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the library reads in the memory, after it was sealed as the judge does."""
    descriptor, size = memory_with_tensors(tensors)
    seal(descriptor)
    assert tensor_shapes(descriptor, size) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = load(bytes(map_shared(descriptor, size, writable=False)))
    os.close(descriptor)
    return found


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read_back(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    found = read_back({"one": torch.ones(3, dtype=torch.int8), "other": tensor})["other"]
    assert found.dtype == dtype and torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


def test_the_judge_knows_every_type() -> None:
    assert set(TYPES.values()) <= BITS.keys()


def test_views_scalars_and_empty_tensors_are_written_by_their_values() -> None:
    square = torch.arange(16.0).reshape(4, 4)
    tensors = {"turned": square.T, "part": square[1:3, ::2], "tied": square, "tied too": square, "scalar": torch.tensor(7),
               "empty": torch.empty(0, 5), "expanded": torch.ones(1).expand(3)}  # fmt: skip
    found = read_back(tensors)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_no_tensors_at_all() -> None:
    assert read_back({}) == {}


def test_a_type_that_the_format_lacks_is_named() -> None:
    with pytest.raises(TypeError, match=r"phase.*complex128"):
        memory_with_tensors({"phase": torch.zeros(2, dtype=torch.complex128)})
