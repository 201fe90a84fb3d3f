"""Buffers that judge and scorer share."""

import pytest
import torch

from research.child.scorer import write_logits
from research.ipc.buffer import SharedIds, create_logits_buffer, open_logits_buffer

CPU = torch.device("cpu")


def test_ids_are_seen_at_the_other_end() -> None:
    ours = SharedIds(3, 5)
    theirs = SharedIds(3, 5, ours.descriptor)
    ours.tensor[1, 2] = 40_000
    assert theirs.tensor.shape == (3, 5) and theirs.tensor[1, 2] == 40_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_logits_of_any_float_arrive_as_float32(dtype: torch.dtype) -> None:
    ours = create_logits_buffer(4, 3, 7, CPU)
    theirs = open_logits_buffer(ours.descriptor, 4, 3, 7, CPU)
    logits = torch.randn(2, 3, 7).to(dtype)
    write_logits(theirs.tensor, logits)
    assert ours.tensor.dtype == torch.float32 and torch.equal(ours.tensor[:2], logits.float())
    assert not ours.tensor[2:].any()
