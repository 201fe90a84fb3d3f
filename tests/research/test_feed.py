"""Rows on the device and rows on the host are the same batches."""

import numpy as np
import pytest
import torch

from research import feed
from research.feed import RowFeed, row_order

ROWS = np.random.default_rng(1).integers(2**16, size=(50, 9), dtype=np.uint16)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 120])
def test_batches_are_the_rows_in_the_judges_order(
    resident: bool, batch_size: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "UPLOAD_ROWS", 16)
    rows = RowFeed(ROWS, device, 3, resident=resident)
    batches = [rows.take(batch_size) for _ in range(-(-150 // batch_size))]
    order = np.concatenate([row_order(50, 3, epoch) for epoch in range(1, 9)])[: batch_size * len(batches)]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert np.array_equal(x.cpu().numpy(), ROWS[order][:, :-1]) and np.array_equal(y.cpu().numpy(), ROWS[order][:, 1:])
    assert x.dtype == torch.int64 and x.device.type == device.type and x.is_contiguous() and y.is_contiguous()
    assert rows.epoch == -(-len(order) // 50)


@pytest.mark.gpu
@needs_gpu
def test_rows_lie_on_a_gpu_where_they_fit() -> None:
    gpu = torch.device("cuda:0")
    free = torch.cuda.mem_get_info(gpu)[0]
    assert feed.fits(ROWS.nbytes, gpu) and not feed.fits(free, gpu)
    assert RowFeed(ROWS, gpu, 1).resident


def test_rows_stay_on_the_host_where_a_device_has_no_memory_of_its_own() -> None:
    assert not RowFeed(ROWS, torch.device("cpu"), 1).resident
