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
from research.files import research_folder, user_path

CACHE_VARIABLES = ("FARM_CACHE", "AUTORESEARCH_CACHE")
"""Environment variables that override the folder of prepared data; the second is the older name."""

JUDGE_PARTS = ("child", "ipc", "judge", "feed.py", "session.py")
"""Folders and files of `research` that a score can depend on: an edit of any of them changes the score fingerprint."""

ONLY_PROCESSES = frozenset(
    {"judge/confinement.py", "judge/conversation.py", "judge/failures.py", "judge/log.py", "judge/processes.py"}
)
"""Files among them that only start, end and watch processes, so that no score depends on them."""


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
    """The source of text: `climbmix`, `tinystories`, `packages`, `stdlib` or `files:PATH`."""

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
    """The folder of prepared data: `override`, else $FARM_CACHE, else `autoresearch-farm` in $XDG_CACHE_HOME or ~/.cache.

    Raises UserError if it depends on a home folder of the user, and there is none.
    """
    chosen = override or next(filter(None, map(os.environ.get, CACHE_VARIABLES)), None)
    if chosen:
        return user_path(chosen, instead="an absolute path for the cache")
    caches = os.environ.get("XDG_CACHE_HOME", "")  # the specification ignores a relative one
    folder = caches if Path(caches).is_absolute() else "~/.cache"
    return user_path(folder, instead="--cache FOLDER (or set FARM_CACHE)") / "autoresearch-farm"


def judge_files(research: Path | None = None) -> list[str]:
    """The files that the judge's fingerprint covers, by their names in the `research` folder, sorted."""
    folder = research or research_folder()
    parts = [folder / name for name in JUDGE_PARTS]
    paths = [path for part in parts for path in (part.rglob("*.py") if part.is_dir() else [part])]
    return sorted({path.relative_to(folder).as_posix() for path in paths} - ONLY_PROCESSES)


def judge_sha256(research: Path | None = None) -> str:
    """SHA-256 over the code that a score depends on; `research` is the folder of the package, normally this one."""
    folder = research or research_folder()
    digest = hashlib.sha256()
    for name in judge_files(folder):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return digest.hexdigest()


def score_fingerprint(contract: Contract, *, tokenizer_sha256: str, val_sha256: str, audit_sha256: str) -> str:
    """Sixteen hex digits over everything that a score depends on: constants, tokenizer, evaluation rows and the judge's code.

    The names of profile and source are left out, since a folder of text can lie anywhere; the rows made from it are in.
    """
    constants = {name: value for name, value in asdict(contract).items() if name not in ("profile", "source")}
    parts = [json.dumps(constants, sort_keys=True), tokenizer_sha256, val_sha256, audit_sha256, judge_sha256()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
