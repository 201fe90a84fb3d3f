"""Profiles: named contracts, each with the hyperparameters that train.py starts from. Standard library only.

A profile fits a kind of hardware (`choose_profile`). Its contract fixes what scores depend on; its hyperparameters go into
train.py as literal constants in a branch's first commit, and are the researcher's from then on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from research.child_settings import ChildSettings
from research.contract import Contract
from research.errors import UserError
from research.gpu_memory import GIB, LEAST_LIMIT
from research.recipes import CPU, SMALL, STANDARD, Constant

SIZES: Final = ("DEPTH", "ASPECT_RATIO", "HEAD_DIM", "WINDOW_PATTERN", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE")
"""The constants that fit a model to its hardware."""

STANDARD_GPU_BYTES: Final = 19 * 10**9
"""Minimum GPU memory of the standard profile: a GPU that is sold as 20 GB has a little less."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A named contract with the starting hyperparameters that fit it."""

    contract: Contract
    hyperparameters: Mapping[str, Constant]
    """The constants of train.py that a branch starts from."""
    sizes: tuple[str, ...] = ()
    """Names of hyperparameters that fit the hardware, which the recipe `original` leaves as they are."""
    sigma: float
    """Prior standard deviation of val_bpb between seeds."""
    time_slope: float
    """Loss of val_bpb per unit of the logarithm of the training time that is missing. `cpu`: 11 runs of 4, 8 and 16 s;
    `standard`: two seeds at 60 and at 240 s on an H200; `small` was not measured, and has the same."""
    model_bytes: int
    """GPU memory of training that does not depend on the batch, in bytes: weights, gradients, optimizer state and workspace."""
    device_bytes_per_token: int
    """Activation memory per token of the device batch, in bytes."""
    what_for: str
    """The hardware that it is for, in one line for people."""


PROFILES: Final[Mapping[str, Profile]] = {
    "standard": Profile(
        contract=Contract(
            profile="standard",
            MAX_SEQ_LEN=2048,
            TIME_BUDGET=300.0,
            EVAL_TOKENS=40 * 524_288,
            VOCAB_SIZE=8192,
            source="climbmix",
        ),
        hyperparameters=STANDARD,
        sigma=0.0007,
        time_slope=0.07,
        model_bytes=1_500_000_000,
        device_bytes_per_token=200_000,
        what_for="a GPU with 20 GB or more: the original's constants",
    ),
    "small": Profile(
        contract=Contract(
            profile="small",
            MAX_SEQ_LEN=512,
            TIME_BUDGET=300.0,
            EVAL_TOKENS=4 * 524_288,
            VOCAB_SIZE=8192,
            source="tinystories",
        ),
        hyperparameters=SMALL,
        sizes=SIZES,
        sigma=0.002,
        time_slope=0.07,
        model_bytes=250_000_000,
        device_bytes_per_token=90_000,
        what_for="a smaller GPU, or a Mac",
    ),
    "cpu": Profile(
        contract=Contract(
            profile="cpu",
            MAX_SEQ_LEN=256,
            TIME_BUDGET=15.0,
            EVAL_TOKENS=2**16,
            VOCAB_SIZE=2048,
            source="packages",
        ),
        hyperparameters=CPU,
        sizes=SIZES,
        sigma=0.020,
        time_slope=0.36,
        model_bytes=50_000_000,
        device_bytes_per_token=60_000,
        what_for="no GPU: a tiny model on the Python files of installed packages",
    ),
}


def profile_named(name: str) -> Profile:
    """The profile called `name`. Raises UserError, which lists them all."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UserError(f"No profile is called {name!r}: choose one of {', '.join(PROFILES)}.") from None


def choose_profile(device: str, memory_bytes: int) -> str:
    """Name of the profile for a device (`cuda`, `mps` or `cpu`; an index is ignored) with `memory_bytes` of its own memory."""
    kind = device.partition(":")[0]
    if kind == "cuda" and memory_bytes >= STANDARD_GPU_BYTES:
        return "standard"
    return "small" if kind in ("cuda", "mps") else "cpu"


def contract_for(profile: str, *, budget: float | None = None, source: str | None = None) -> Contract:
    """A profile's contract with the time budget in seconds and the data source overridden if given. Raises UserError."""
    contract = profile_named(profile).contract
    if budget is not None:
        contract = replace(contract, TIME_BUDGET=float(budget))
    if source is not None:
        contract = replace(contract, source=source)
    return contract


def memory_limit(gigabytes: float | None, device: str) -> int | None:
    """`--gpu-memory` (GiB) in bytes, for runs on `device`. Raises UserError if the device can't obey it or it is too little."""
    if gigabytes is None:
        return None
    require_cuda_for_limit(device)
    if not LEAST_LIMIT <= gigabytes * GIB < math.inf:
        raise UserError(f"--gpu-memory {gigabytes:g} is too little: a run needs {LEAST_LIMIT // GIB} GB or more.")
    return int(gigabytes * GIB)


def require_cuda_for_limit(device: str) -> None:
    """Raises UserError for a device on which runs can't be held to a limit of GPU memory."""
    if not device.startswith("cuda"):
        raise UserError(f"--gpu-memory limits runs on CUDA GPUs only, and these are on {device}: leave it out.")


def active_contract() -> Contract:
    """The contract in this process's settings, which come from the judge; the `standard` one if it has none."""
    settings = ChildSettings.from_environment()
    return settings.contract if settings else PROFILES["standard"].contract
