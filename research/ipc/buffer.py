"""The buffer that a scorer writes its logits into: memory that the judge owns.

On a CPU it is shared memory; on a GPU it is one raw CUDA allocation, exported to the scorer by its IPC handle (an allocation of
torch's own allocator comes with a reference counter in a file, which a sandbox does not let through).
"""

import mmap
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from research.contract import Contract
from research.gpu_memory import buffer_bytes
from research.ipc.memory import map_shared, shared_memory

SLOTS = 2
"""Batches that the buffers hold: a scorer answers one while the judge reads another."""


class SharedIds:
    """Token ids that the judge writes and a scorer reads: (rows, tokens) int32 in shared memory."""

    def __init__(self, rows: int, tokens: int, descriptor: int | None = None) -> None:
        size = rows * tokens * 4
        self.descriptor = shared_memory(size) if descriptor is None else descriptor
        self._memory = map_shared(self.descriptor, size, writable=True)
        self.tensor: Tensor = torch.frombuffer(self._memory, dtype=torch.int32).view(rows, tokens)


@dataclass(frozen=True, kw_only=True)
class LogitsBuffer:
    """Logits, (rows, tokens, vocabulary) float32, and the descriptor by which another process can map them."""

    tensor: Tensor
    descriptor: int
    memory: Any
    """Keeps the memory alive."""


def rows_per_batch(contract: Contract, device: torch.device, *, gpu_memory: int | None = None) -> int:
    """Rows that are scored at once: as many as fit 2 GiB of logits (MPS: 128 MiB, CPU: 16 MiB), at most 64.

    The buffer holds SLOTS times as much. It is smaller on a GPU whose runs have little memory: `gpu_memory` bytes, None for
    plenty.
    """
    large = 2**31 if gpu_memory is None else buffer_bytes(gpu_memory)
    budget = {"cuda": large, "cpu": 2**24}.get(device.type, 2**27)
    return max(1, min(64, budget // (contract.MAX_SEQ_LEN * contract.VOCAB_SIZE * 4)))


def create_logits_buffer(rows: int, tokens: int, vocabulary: int, device: torch.device) -> LogitsBuffer:
    """The judge's side of the buffer. On a GPU the descriptor holds the IPC handle of the allocation."""
    shape = (rows, tokens, vocabulary)
    size = rows * tokens * vocabulary * 4
    if device.type != "cuda":
        descriptor = shared_memory(size)
        memory = map_shared(descriptor, size, writable=True)
        return LogitsBuffer(tensor=_host_tensor(memory, shape), descriptor=descriptor, memory=memory)
    from cuda.bindings import runtime

    torch.zeros(1, device=device)  # makes the device's context current
    pointer = _checked(runtime.cudaMalloc(size))
    handle = _checked(runtime.cudaIpcGetMemHandle(pointer))
    descriptor = shared_memory(64)
    os.pwrite(descriptor, bytes(handle.reserved)[:64].ljust(64, b"\0"), 0)
    allocation = _Allocation(pointer, size)
    return LogitsBuffer(tensor=_device_tensor(pointer, shape, device), descriptor=descriptor, memory=allocation)


def open_logits_buffer(descriptor: int, rows: int, tokens: int, vocabulary: int, device: torch.device) -> LogitsBuffer:
    """The scorer's side of the buffer."""
    shape = (rows, tokens, vocabulary)
    if device.type != "cuda":
        memory = map_shared(descriptor, rows * tokens * vocabulary * 4, writable=True)
        return LogitsBuffer(tensor=_host_tensor(memory, shape), descriptor=descriptor, memory=memory)
    from cuda.bindings import runtime

    torch.zeros(1, device=device)
    handle = runtime.cudaIpcMemHandle_t()
    handle.reserved = os.pread(descriptor, 64, 0)
    pointer = _checked(runtime.cudaIpcOpenMemHandle(handle, runtime.cudaIpcMemLazyEnablePeerAccess))
    return LogitsBuffer(tensor=_device_tensor(pointer, shape, device), descriptor=descriptor, memory=None)


class _Allocation:
    """Frees a raw CUDA allocation with its last reference."""

    def __init__(self, pointer: int, size: int) -> None:
        self.pointer, self.size = pointer, size

    def __del__(self) -> None:
        from cuda.bindings import runtime

        runtime.cudaFree(self.pointer)


class _ArrayInterface:
    """A device pointer in the form that torch.as_tensor understands."""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {"data": (int(pointer), False), "shape": shape, "typestr": "<f4", "version": 3}


def _device_tensor(pointer: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.as_tensor(_ArrayInterface(pointer, shape), device=device)


def _host_tensor(memory: mmap.mmap, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA runtime call. Raises RuntimeError if the call failed."""
    error, *values = answer
    if int(error):
        raise RuntimeError(f"CUDA: {error.name}")
    return values[0] if values else None
