"""The device batch (rows per forward pass) that fits a GPU's memory."""

from typing import Final

from research.gpu_memory import trainer_bytes
from research.profiles import profile_named

FITTED_PART: Final = 0.95
"""Share of the trainer's memory that a batch is fitted to: torch's allocator can't use the last gaps."""


def fitted_device_batch(profile: str, wanted: int, free_bytes: int | None, *, depth: int | None = None) -> int:
    """`wanted` rows, halved until a run with that device batch fits `free_bytes` of device memory (None: unknown).

    `depth` is the model's DEPTH if it isn't the profile's own. The width grows with it, so that activations grow by its square
    and the model, at most, by its cube.
    """
    if free_bytes is None:
        return wanted
    chosen = profile_named(profile)
    usual = chosen.hyperparameters["DEPTH"]
    assert isinstance(usual, int)
    scale = (depth or usual) / usual
    row_bytes = chosen.device_bytes_per_token * chosen.contract.MAX_SEQ_LEN * scale**2
    room = FITTED_PART * trainer_bytes(free_bytes) - chosen.model_bytes * max(1.0, scale) ** 3
    while wanted > 1 and wanted * row_bytes > room:
        wanted //= 2
    return wanted
