"""The judge's own Triton kernel: cross-entropy of logits that another process can write to while they are read.

Import this module only where Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_VOCABULARY = 2**15
"""Largest vocabulary: a row of logits is held in registers, and a longer one would be read twice."""

COLUMNS_PER_WARP = 1024
"""Logits of a row per warp."""


@triton.jit
def cross_entropy_kernel(logits, targets, losses, VOCABULARY: tl.constexpr, COLUMNS: tl.constexpr):
    """The loss of one row of float32 logits (n, VOCABULARY) per program.

    Maximum, sum and the target's logit come from one read (`volatile`: the compiler may not add a second one). A NaN logit
    gives a NaN loss; a target logit of -inf an infinite one.
    """
    row = tl.program_id(0).to(tl.int64)  # n * VOCABULARY can exceed 2^31
    column = tl.arange(0, COLUMNS)
    inside = column < VOCABULARY
    values = tl.load(logits + row * VOCABULARY + column, mask=inside, other=float("-inf"), volatile=True)
    highest = tl.max(values, axis=0)
    total = tl.sum(tl.where(inside, tl.exp(values - highest), 0.0), axis=0)
    of_target = tl.sum(tl.where(column == tl.load(targets + row), values, 0.0), axis=0)
    tl.store(losses + row, tl.log(total) + (highest - of_target))


def cross_entropy_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses (n,) of contiguous float32 logits (n, V), V up to MAX_VOCABULARY, and int64 targets (n,) with values in 0..V-1."""
    rows, vocabulary = logits.shape
    columns = triton.next_power_of_2(vocabulary)
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    cross_entropy_kernel[(rows,)](logits, targets, losses, VOCABULARY=vocabulary, COLUMNS=columns, num_warps=warps_for(columns))
    return losses


def warps_for(columns: int) -> int:
    """Warps of the program that computes a row of `columns` logits."""
    return min(max(columns // COLUMNS_PER_WARP, 1), 32)
