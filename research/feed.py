"""Training rows as batches on the device, in the judge's order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

RESIDENT_SHARE = 0.5
"""Share of the GPU memory left free by the warm-up: the rows are kept on the GPU if they take no more than that."""

UPLOAD_ROWS = 16_384
"""Rows per copy to the GPU."""


class RowFeed:
    """The training rows as batches, in the same order for every batch size.

    Rows that fit are kept on the device: they are copied all at once, under the clock, and a batch is one gather. Otherwise
    rows are copied batch by batch through pinned memory while the device computes. Neither way waits for the device, except at
    the start of an epoch.
    """

    def __init__(self, rows: np.ndarray, device: torch.device, seed: int, *, resident: bool | None = None) -> None:
        """`rows` are (n, T + 1) uint16. With `resident` None they are kept on the device if it is a GPU and they fit."""
        self.epoch = 1
        """The epoch of the last row that was taken, from 1."""
        self.resident = fits(rows.nbytes, device) if resident is None else resident
        self._rows, self._device, self._seed = rows, device, seed
        self._on_device = uploaded(rows, device) if self.resident else None
        self._begin_epoch()

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` rows: x and y, each (count, T) int64."""
        parts = list(self._next_indices(count))
        indices = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._on_device is not None:
            return inputs_and_targets(self._on_device[indices])
        return inputs_and_targets(to_device(self._rows[indices.numpy()], self._device))

    def _next_indices(self, count: int) -> Iterator[Tensor]:
        while count > 0:
            if self._position == len(self._order):
                self.epoch += 1
                self._begin_epoch()
            part = self._order[self._position : self._position + count]
            self._position += len(part)
            count -= len(part)
            yield part

    def _begin_epoch(self) -> None:
        order = torch.from_numpy(row_order(len(self._rows), self._seed, self.epoch))
        self._order = order.to(self._device) if self.resident else order
        self._position = 0


def row_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of training rows in an epoch (the first is 1): a permutation, (rows,) int64."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of rows may be kept on the device: only on a GPU with enough free memory."""
    return device.type == "cuda" and size <= RESIDENT_SHARE * free_bytes(device)


def free_bytes(device: torch.device) -> float:
    """Bytes of GPU memory that are free and, if the run has a limit, that this process may still allocate."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    return min(free, allowed - torch.cuda.memory_reserved(device))


def uploaded(rows: np.ndarray, device: torch.device) -> Tensor:
    """The rows' bits on the device, (n, T + 1) int16."""
    there = torch.empty(rows.shape, dtype=torch.int16, device=device)
    for start in range(0, len(rows), UPLOAD_ROWS):
        part = rows[start : start + UPLOAD_ROWS].copy()
        there[start : start + len(part)] = torch.from_numpy(part.view(np.int16))
    return there


def to_device(rows: np.ndarray, device: torch.device) -> Tensor:
    """A batch's bits, (B, T + 1) uint16 on the host -> int16 on the device."""
    host = torch.from_numpy(rows.view(np.int16))
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def inputs_and_targets(bits: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T + 1) int16 -> x, y (B, T) int64: each position's token and the next."""
    ids = bits.long() & 0xFFFF
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
