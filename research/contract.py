"""The contract of a run: the constants that every score depends on, and the profiles that name them.

Standard library only, so that every package can use it. Two fingerprints separate what scores depend on from what models
learn from: farms whose `score_fingerprint` is equal can compare their scores, however many training shards each has.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from research.files import research_folder
from research.gpu_memory import FITTED_PART, GB, LEAST_LIMIT, trainer_bytes
from research.profiles import CPU, ORIGINAL, SMALL, STANDARD, Literal, Recipe

CONTRACT_VARIABLE = "AUTORESEARCH_CONTRACT"
"""The judge hands the contract to the run's processes in this environment variable."""

CACHE_VARIABLE = "AUTORESEARCH_CACHE"
"""Overrides where prepared data lies."""

JUDGE_FILES = (
    "ipc/buffer.py",
    "judge/clock.py",
    "child/setup.py",
    "feed.py",
    "judge/handover.py",
    "judge/judge.py",
    "judge/cross_entropy_kernel.py",
    "judge/row_scores.py",
    "judge/score.py",
    "child/scorer.py",
    "judge/seeds.py",
    "session.py",
    "child/trainer.py",
)
"""The judge's own code: an edit of any of these changes the score fingerprint."""


class UserError(Exception):
    """A mistake that the user can mend. The text is one line that says what to do; commands print it without a traceback."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The fixed constants of a run. The upper-case names are the original's."""

    profile: str
    """The profile that these constants come from."""
    MAX_SEQ_LEN: int
    """Tokens of context: a row holds one more."""
    TIME_BUDGET: float
    """Seconds of training."""
    EVAL_TOKENS: int
    """Tokens that a run is scored on: a multiple of MAX_SEQ_LEN."""
    VOCAB_SIZE: int
    """Tokens in the vocabulary, special tokens included."""
    source: str
    """Where text comes from: `climbmix`, `tinystories`, `stdlib` or `files:PATH`."""

    def __post_init__(self) -> None:
        if self.EVAL_TOKENS % self.MAX_SEQ_LEN:
            raise UserError(f"EVAL_TOKENS ({self.EVAL_TOKENS}) must be a multiple of MAX_SEQ_LEN ({self.MAX_SEQ_LEN}).")
        if not 0 < self.TIME_BUDGET < math.inf:
            raise UserError(f"The time budget must be positive, not {self.TIME_BUDGET:g} s.")

    @property
    def eval_rows(self) -> int:
        """Validation rows that a run is scored on."""
        return self.EVAL_TOKENS // self.MAX_SEQ_LEN

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Contract":
        return Contract(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A named contract with the starting hyperparameters that fit it."""

    contract: Contract
    hyperparameters: Mapping[str, Literal]
    """Overlaid on train.py as literal constants in a branch's first commit."""
    sizes: tuple[str, ...] = ()
    """Those of them that fit the hardware: the original's recipe leaves them as they are."""
    sigma: float
    """Prior standard deviation of val_bpb between seeds."""
    model_bytes: int
    """GPU memory that training takes whatever its batch: weights, gradients, the optimizer's state and work."""
    device_bytes_per_token: int
    """GPU memory that a token of the device batch takes beside that. Rows lie on the GPU only where they fit beside all."""
    what_for: str
    """One line for people who choose."""


SIZES = ("DEPTH", "ASPECT_RATIO", "HEAD_DIM", "WINDOW_PATTERN", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE")

PROFILES: dict[str, Profile] = {
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
            source="stdlib",
        ),
        hyperparameters=CPU,
        sizes=SIZES,
        sigma=0.020,
        model_bytes=50_000_000,
        device_bytes_per_token=60_000,
        what_for="no GPU: a tiny model on the Python library's own sources",
    ),
}


def profile_named(name: str) -> Profile:
    """The profile called `name`; a UserError lists the others."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UserError(f"No profile is called {name!r}: choose one of {', '.join(PROFILES)}.") from None


def choose_profile(device: str, memory_bytes: int) -> str:
    """The profile for a device (`cuda`, `mps` or `cpu`, an index is ignored) with `memory_bytes` of its own memory."""
    kind = device.partition(":")[0]
    if kind == "cuda" and memory_bytes >= 19 * 10**9:
        return "standard"
    return "small" if kind in ("cuda", "mps") else "cpu"


def contract_for(profile: str, *, budget: float | None = None, source: str | None = None) -> Contract:
    """A profile's contract, with the time budget (seconds) and the data source overridden where they are given."""
    contract = profile_named(profile).contract
    if budget is not None:
        contract = replace(contract, TIME_BUDGET=float(budget))
    if source is not None:
        contract = replace(contract, source=source)
    return contract


def starting_hyperparameters(profile: str, *, free_bytes: int | None = None, recipe: Recipe = "best") -> dict[str, Literal]:
    """A profile's overlay; its DEVICE_BATCH_SIZE fits `free_bytes` of device memory (None: unknown)."""
    chosen = profile_named(profile)
    values = {"PROFILE": profile, **chosen.hyperparameters}
    if recipe == "original":
        values |= {name: value for name, value in ORIGINAL.items() if name not in chosen.sizes}
    batch = values["DEVICE_BATCH_SIZE"]
    assert isinstance(batch, int)
    return values | {"DEVICE_BATCH_SIZE": fitted_device_batch(profile, batch, free_bytes)}


def fitted_device_batch(profile: str, wanted: int, free_bytes: int | None) -> int:
    """`wanted` rows, halved until a run of them fits `free_bytes` of device memory (None: unknown)."""
    if free_bytes is None:
        return wanted
    chosen = profile_named(profile)
    row_bytes = chosen.device_bytes_per_token * chosen.contract.MAX_SEQ_LEN
    room = FITTED_PART * trainer_bytes(free_bytes) - chosen.model_bytes
    while wanted > 1 and wanted * row_bytes > room:
        wanted //= 2
    return wanted


def memory_limit(gigabytes: float | None, device: str) -> int | None:
    """`--gpu-memory` in bytes, for runs on `device`. Raises UserError where it can't be kept, or is too little."""
    if gigabytes is None:
        return None
    require_cuda_for_limit(device)
    if not LEAST_LIMIT <= gigabytes * GB < math.inf:
        raise UserError(f"--gpu-memory {gigabytes:g} is too little: a run needs {LEAST_LIMIT // GB} GB, or more.")
    return int(gigabytes * GB)


def require_cuda_for_limit(device: str) -> None:
    """Raises UserError where runs on `device` can't be held to a limit of GPU memory."""
    if not device.startswith("cuda"):
        raise UserError(f"--gpu-memory limits runs on a GPU with CUDA, and these are on {device}: leave it out.")


def active_contract() -> Contract:
    """The contract that the judge handed to this process; the `standard` one where there is no judge."""
    text = os.environ.get(CONTRACT_VARIABLE)
    return Contract.from_json(text) if text else PROFILES["standard"].contract


def cache_folder(override: str | Path | None = None) -> Path:
    """Where prepared data lies: `override`, else $AUTORESEARCH_CACHE, else ~/.cache/autoresearch-farm."""
    chosen = override or os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "autoresearch-farm"


def judge_sha256() -> str:
    """SHA-256 over the judge's own code."""
    digest = hashlib.sha256()
    for name in JUDGE_FILES:
        digest.update(name.encode() + b"\0" + (research_folder() / name).read_bytes() + b"\0")
    return digest.hexdigest()


def score_fingerprint(contract: Contract, *, tokenizer_sha256: str, val_sha256: str, audit_sha256: str) -> str:
    """Sixteen hex digits over all that a score depends on: constants, tokenizer, evaluation rows and the judge's code.

    The source's name is left out, since a folder can lie anywhere; the rows made of it are in.
    """
    constants = {name: value for name, value in asdict(contract).items() if name not in ("profile", "source")}
    parts = [json.dumps(constants, sort_keys=True), tokenizer_sha256, val_sha256, audit_sha256, judge_sha256()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
