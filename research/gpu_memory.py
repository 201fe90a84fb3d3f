"""How the processes of a run share a GPU's memory. Standard library only.

Three at most hold some at the same time. First the trainer and the two scorers, which make one forward pass while the trainer
warms up, and then keep their model; once the trainer is dead the judge, with the buffer of logits, and the scorers. So a run
within `memory` bytes gives each scorer `scorer_bytes`, and the trainer all that is left beside what CUDA itself takes. (A
rehearsal holds some for a while, on a large GPU and in runs without a limit.)

Where a run has a limit (`--gpu-memory`), trainer and scorers each bind torch's allocator to their share, and the sum of
all processes stays below the limit. That bounds what torch allocates for an honest train.py: one that lifts its own limit, or
allocates past torch, is not stopped.
"""

from typing import Final

GB: Final = 2**30

PROCESSES: Final = 3
"""Of a run, that have a CUDA context at the same time."""

CONTEXT_BYTES: Final = GB // 2
"""What CUDA takes in each for itself, compiled kernels included. No limit of torch's counts it."""

SCORERS: Final = 2

SCORER_PART, MOST_SCORER_BYTES = 8, 8 * GB
"""A scorer gets this part of the memory: an eighth, or 8 GB where that is less."""

BUFFER_PART: Final = 4
"""The logits of a scored batch are a quarter of it: a forward pass that isn't compiled holds three copies of them."""

FITTED_PART: Final = 0.95
"""Of the trainer's memory, what a batch is fitted to: torch's allocator can't use the last gaps."""

LEAST_LIMIT: Final = 3 * GB
"""A lower one leaves nothing to train with."""


MEMORY_SIGNS: Final = (
    *("OutOfMemoryError", "out of memory", "can't allocate memory", "MemoryError"),
    *("STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation", "CUDACachingAllocator.cpp"),
)
"""What torch, CUDA's libraries and the allocator's own checks say where memory runs out."""


def says_memory_ran_out(text: str) -> bool:
    """Whether an error's text is about memory that ran out, under any of its names."""
    return any(sign in text for sign in MEMORY_SIGNS)


def child_bytes(limit: int | None, *, trains: bool) -> int | None:
    """What the trainer (`trains`) or a scorer may allocate in a run with this limit in bytes; None where there is no limit."""
    if limit is None:
        return None
    return trainer_bytes(limit) if trains else scorer_bytes(limit)


def scorer_bytes(memory: int) -> int:
    """What a scorer may allocate in a run within `memory` bytes."""
    return min(memory // SCORER_PART, MOST_SCORER_BYTES)


def buffer_bytes(memory: int) -> int:
    """What the float32 logits of a scored batch may take; 2 GiB on a GPU that has 64 or more."""
    return scorer_bytes(memory) // BUFFER_PART


def trainer_bytes(memory: int) -> int:
    """What the trainer may allocate; 0 where nothing is left for it."""
    return max(0, memory - SCORERS * scorer_bytes(memory) - PROCESSES * CONTEXT_BYTES)
