"""Tensors as one safetensors payload in shared memory, each copied there once, straight from its device."""

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

from research.ipc.memory import map_shared, shared_memory

TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32",
    torch.uint32: "U32", torch.float32: "F32", torch.int64: "I64", torch.uint64: "U64", torch.float64: "F64",
    torch.complex64: "C64",
}  # fmt: skip
"""The names of types in the safetensors format."""


def memory_with_tensors(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """A descriptor of shared memory that holds these tensors in the safetensors format, and its size in bytes.

    `safetensors.torch.save` would copy them three times: to the host, into one string, and from there into the memory. Raises
    TypeError for a type that the format doesn't have.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned, as the format asks
    header: dict[str, dict[str, str | list[int]]] = {}
    starts, end = dict[str, int](), 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in TYPES:
            raise TypeError(f"{name} has the type {tensor.dtype}, which can't be handed over: convert it first")
        starts[name], end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    descriptor = shared_memory(start + end)
    memory = map_shared(descriptor, start + end, writable=True)
    memory[:start] = struct.pack("<Q", len(text)) + text
    for name in order:
        tensor = tensors[name].detach()
        if tensor.numel():
            place = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start + starts[name])
            place.view(tensor.shape).copy_(tensor)
            del place
    memory.close()  # memory that is mapped for writing can't be sealed
    return descriptor, start + end
