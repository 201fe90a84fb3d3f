"""Prepared data on disk: a folder with a manifest, a tokenizer and memory-mapped rows. Imports no torch."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from research import contract as contracts
from research.command_hints import to_type
from research.contract import Contract
from research.data.packing import Tokens
from research.data.tokenizer import Tokenizer
from research.errors import UserError

Split = Literal["train", "val", "audit"]
SPLITS: tuple[Split, ...] = get_args(Split)

FORMAT = 2
"""Version of the format: increase it when data prepared earlier is no longer valid."""

ROW_DTYPE = np.dtype("<u2")
MANIFEST = "manifest.json"
OLD_HIDDEN_PATHS = "evaluation_paths"
"""The name of `hidden_paths` in manifests of earlier versions."""
TOKENIZER = "tokenizer.json"
TOKEN_BYTES = "token_bytes.npy"


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A prepared folder: the fields of its manifest, and its arrays."""

    folder: Path
    source: str
    """The contract's source; the path of `files:PATH` is absolute."""
    revision: str
    """The dataset's commit; for a source without commits, another identifier."""
    requested_revision: str
    """The branch, tag or commit that `revision` was resolved from."""
    num_shards: int | None
    """Number of training shards; None for a source without shards."""
    vocab_size: int
    seq_len: int
    """Context length in tokens; a row holds one token more."""
    eval_rows: int
    """Validation rows that were requested."""
    train_rows: int
    val_rows: int
    audit_rows: int
    train_documents: int
    val_documents: int
    audit_documents: int
    """Documents that were read for the rows of each split."""
    dropped_held_out: int
    """Training documents left out because they are also in the validation or audit text."""
    dropped_repeats: int
    """Training documents left out because they repeat an earlier one."""
    train_bytes: int
    """UTF-8 bytes of the training documents."""
    tokenizer_sha256: str
    val_sha256: str
    audit_sha256: str
    data_fingerprint: str
    """Sixteen hex digits over the training rows."""
    hidden_paths: tuple[str, ...] = field(default=())
    """Where the machine that prepared it has the text of the evaluation rows, or all text: no run may read it."""
    text_field: str | None = field(default=None)
    """The field of records that holds the text of `files:PATH`; None for other sources."""
    created: float
    """Unix time in seconds at which `prepare` made this data, or chose it again after the files had changed back."""
    format: int = FORMAT

    @staticmethod
    def load(folder: str | Path) -> "PreparedData":
        """The data in `folder`. Raises UserError if it is missing, damaged or of another version."""
        folder = Path(folder)
        try:
            values = json.loads((folder / MANIFEST).read_text())
        except (OSError, ValueError):
            raise UserError(f"{folder} holds no prepared data: run `{to_type('farm prepare')}`.") from None
        if OLD_HIDDEN_PATHS in values:
            values["hidden_paths"] = values.pop(OLD_HIDDEN_PATHS)
        known = {f.name for f in fields(PreparedData)}
        if values.get("format") != FORMAT or not set(values) < known:
            raise UserError(f"{folder} was prepared by another version: run `{to_type('farm prepare')}`.")
        values["hidden_paths"] = tuple(values["hidden_paths"])
        data = PreparedData(folder=folder, **values)
        data._check_sizes()
        return data

    def save_manifest(self) -> None:
        """Writes the manifest into the folder."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / MANIFEST).write_text(json.dumps(values, indent=1) + "\n")

    def rows_of(self, split: Split) -> int:
        """Number of rows of a split."""
        return {"train": self.train_rows, "val": self.val_rows, "audit": self.audit_rows}[split]

    def load_rows(self, split: Split) -> np.memmap:
        """A split's rows, memory-mapped for reading: little-endian uint16 of shape (rows, seq_len + 1)."""
        shape = (self.rows_of(split), self.seq_len + 1)
        return np.memmap(rows_path(self.folder, split), dtype=ROW_DTYPE, mode="r", shape=shape)

    def token_bytes(self) -> NDArray[np.int32]:
        """UTF-8 bytes per token, int32 of shape (vocab_size,); 0 for special tokens."""
        array: NDArray[np.int32] = np.load(self.folder / TOKEN_BYTES, allow_pickle=False)
        return array

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the rows were made with."""
        return Tokenizer.load(self.folder / TOKENIZER)

    def score_fingerprint(self, contract: Contract) -> str:
        """Sixteen hex digits over everything that scores on this data under `contract` depend on."""
        return contracts.score_fingerprint(
            contract,
            tokenizer_sha256=self.tokenizer_sha256,
            val_sha256=self.val_sha256,
            audit_sha256=self.audit_sha256,
        )

    def _check_sizes(self) -> None:
        row_bytes = (self.seq_len + 1) * ROW_DTYPE.itemsize
        sizes = {rows_path(self.folder, split): self.rows_of(split) * row_bytes for split in SPLITS}
        for path, size in sizes.items():
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(f"{path} is damaged: run `{to_type('farm prepare')}` to make it again.")
        for path in (self.folder / TOKENIZER, self.folder / TOKEN_BYTES):
            if not path.is_file():
                raise UserError(f"{path} is missing: run `{to_type('farm prepare')}` to make it again.")


def rows_path(folder: Path, split: Split) -> Path:
    """The file of a split's rows."""
    return folder / f"{split}.rows"


def write_rows(path: Path, rows: Iterable[Tokens], *, limit: int | None = None) -> tuple[int, str]:
    """Writes rows (uint16, all of one length), at most `limit`. Returns their number and the file's SHA-256."""
    digest = hashlib.sha256()
    count = 0
    with path.open("wb", buffering=2**20) as file:
        for row in islice(rows, limit):
            raw = row.astype(ROW_DTYPE, copy=False).tobytes()
            digest.update(raw)
            file.write(raw)
            count += 1
    return count, digest.hexdigest()
