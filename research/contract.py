"""The contract of a run: the fixed constants of a score, and the fingerprint of everything that a score depends on.

Standard library only, so that every package can use it. Two fingerprints separate what scores depend on from what models
learn from: farms whose `score_fingerprint` is equal can compare their scores, however many training shards each has.
"""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from research.errors import UserError
from research.files import research_folder

CONTRACT_VARIABLE = "AUTORESEARCH_CONTRACT"
"""Environment variable in which the judge gives the contract, as JSON, to the processes of a run."""

CACHE_VARIABLE = "AUTORESEARCH_CACHE"
"""Environment variable that names the folder of prepared data."""

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


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The fixed constants of a run. Upper-case names are the original's. Raises UserError for impossible values."""

    profile: str
    """The profile that these constants come from."""
    MAX_SEQ_LEN: int
    """Context length in tokens; a row holds one token more."""
    TIME_BUDGET: float
    """Seconds of training."""
    EVAL_TOKENS: int
    """Validation tokens that a run is scored on, a multiple of MAX_SEQ_LEN."""
    VOCAB_SIZE: int
    """Size of the vocabulary, special tokens included."""
    source: str
    """The source of text: `climbmix`, `tinystories`, `stdlib` or `files:PATH`."""

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


def cache_folder(override: str | Path | None = None) -> Path:
    """The folder of prepared data: `override`, else $AUTORESEARCH_CACHE, else ~/.cache/autoresearch-farm."""
    chosen = override or os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "autoresearch-farm"


def judge_sha256() -> str:
    """SHA-256 over the judge's own code."""
    digest = hashlib.sha256()
    for name in JUDGE_FILES:
        digest.update(name.encode() + b"\0" + (research_folder() / name).read_bytes() + b"\0")
    return digest.hexdigest()


def score_fingerprint(contract: Contract, *, tokenizer_sha256: str, val_sha256: str, audit_sha256: str) -> str:
    """Sixteen hex digits over everything that a score depends on: constants, tokenizer, evaluation rows and the judge's code.

    The names of profile and source are left out, since a folder of text can lie anywhere; the rows made from it are in.
    """
    constants = {name: value for name, value in asdict(contract).items() if name not in ("profile", "source")}
    parts = [json.dumps(constants, sort_keys=True), tokenizer_sha256, val_sha256, audit_sha256, judge_sha256()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
