"""How the processes of a run share a GPU's memory. Standard library only.

At first these are the trainer and scorer A, which makes one forward pass while the trainer warms up, and keeps its model from
then on; once the trainer is dead, they are the judge, with the buffer of logits, and one scorer after the other. The figures
below leave room for a second scorer beside the trainer, which there no longer is. So in a run within `memory` bytes each scorer
gets `scorer_bytes`, and the trainer all that is left after CUDA's own overhead. (A rehearsal also holds some for a while, on a
large GPU and in runs without a limit.)

Under a limit (`--gpu-memory`) trainer and scorers each cap torch's allocator at their share, so that all processes together
stay below the limit. That bounds what torch allocates for an honest train.py: one that lifts its own limit, or bypasses torch's
allocator, is not stopped.
"""

from typing import Final

GIB: Final = 2**30
"""Bytes in a GiB, which is what people, nvidia-smi and `--gpu-memory` call a GB of GPU memory."""

PROCESSES: Final = 3
"""Processes of a run that hold a CUDA context at once."""

CONTEXT_BYTES: Final = GIB // 2
"""CUDA's own overhead in each process, compiled kernels included. torch's limits don't count it."""

SCORERS: Final = 2

SCORER_PART, MOST_SCORER_BYTES = 8, 8 * GIB
"""A scorer gets one eighth of the memory, and at most 8 GiB."""

BUFFER_PART: Final = 4
"""The logits of a scored batch get one quarter of a scorer's share: an uncompiled forward pass holds three copies of them."""

LEAST_LIMIT: Final = 3 * GIB
"""The lowest `--gpu-memory`: less leaves nothing to train with."""

MEMORY_SIGNS: Final = (
    *("OutOfMemoryError", "out of memory", "can't allocate memory", "MemoryError"),
    *("STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation", "CUDACachingAllocator.cpp"),
)
"""What torch, CUDA's libraries and the allocator's own checks say when memory runs out."""


def says_memory_ran_out(text: str) -> bool:
    """Whether an error's text says, under any of its names, that memory ran out."""
    return any(sign in text for sign in MEMORY_SIGNS)


def child_bytes(limit: int | None, *, trains: bool) -> int | None:
    """What the trainer (`trains`) or a scorer may allocate in a run with this limit in bytes; None if there is no limit."""
    if limit is None:
        return None
    return trainer_bytes(limit) if trains else scorer_bytes(limit)


def scorer_bytes(memory: int) -> int:
    """Bytes that a scorer may allocate in a run within `memory` bytes."""
    return min(memory // SCORER_PART, MOST_SCORER_BYTES)


def buffer_bytes(memory: int) -> int:
    """Bytes that the float32 logits of a scored batch may take; 2 GiB on a GPU with 64 GiB or more."""
    return scorer_bytes(memory) // BUFFER_PART


def trainer_bytes(memory: int) -> int:
    """Bytes that the trainer may allocate; 0 if nothing is left for it."""
    return max(0, memory - SCORERS * scorer_bytes(memory) - PROCESSES * CONTEXT_BYTES)
