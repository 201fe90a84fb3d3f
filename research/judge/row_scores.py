"""The scores of each evaluation row, kept next to a run's result so that two runs can be compared row by row. Imports no torch.

Audit rows are among them, so the file is for people only, like audit scores.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from research.data.prepared import Split

FILE_NAME = "rows.npz"


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """Sums over the targets of each of n rows, in the order of the prepared rows."""

    nats: np.ndarray
    """(n,) float, cross-entropy in nats."""
    bytes: np.ndarray
    """(n,) integer, bytes of text."""

    @property
    def bits_per_byte(self) -> float:
        """Total nats divided by total bytes, in bits."""
        return float(np.sum(self.nats, dtype=np.float64) / (math.log(2) * np.sum(self.bytes, dtype=np.int64)))


def save_row_scores(run_folder: Path, of_split: Mapping[Split, RowScores]) -> None:
    """Writes rows.npz into a run folder: float32 nats and int32 bytes of each split."""
    arrays = {f"{split}_nats": scores.nats.astype(np.float32) for split, scores in of_split.items()}
    arrays |= {f"{split}_bytes": scores.bytes.astype(np.int32) for split, scores in of_split.items()}
    np.savez(run_folder / FILE_NAME, **arrays)  # type: ignore[arg-type]  # its stub takes any keyword for allow_pickle


def load_row_scores(run_folder: Path, split: Split) -> RowScores | None:
    """The scores of a split that `save_row_scores` wrote; None if there is no readable file."""
    try:
        with np.load(run_folder / FILE_NAME, allow_pickle=False) as arrays:
            return RowScores(nats=arrays[f"{split}_nats"], bytes=arrays[f"{split}_bytes"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
