"""Scoring by the judge: cross-entropy from full logits, bits per byte, and the consistency of two processes' answers."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CONSISTENCY_SHARE = 0.05
"""Share of the rows that process B answers for every run; a run that would be kept has all of them answered."""

MIN_CONSISTENCY_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far two honest processes' cross-entropies on the same prefix may differ, in nats."""

    mean: float
    """Of the mean over all prefix tokens."""
    boundary: float
    """Of the mean over the last token before each splice, where a look at the next token shows."""
    largest: float
    """Of a single token."""


def tolerance_for(device: torch.device) -> Tolerance:
    """float32 on a CPU differs by the order of sums alone; bf16 on a GPU by rounding and by which kernel a shape gets."""
    if device.type == "cpu":
        return Tolerance(mean=1e-4, boundary=1e-3, largest=0.05)
    return Tolerance(mean=2e-3, boundary=0.05, largest=2.0)


def cross_entropy(logits: Tensor, targets: Tensor, *, chunk_tokens: int = 8192) -> Tensor:
    """Nats a token: logits (n, T, V) float32 and targets (n, T) int64 -> (n, T) float32 on the CPU.

    Normalised here, whatever the logits are; computed in chunks of `chunk_tokens` to bound memory.
    """
    flat, wanted = logits.flatten(0, 1), targets.flatten().to(logits.device)
    parts = [
        F.cross_entropy(flat[start : start + chunk_tokens].float(), wanted[start : start + chunk_tokens], reduction="none")
        for start in range(0, len(flat), chunk_tokens)
    ]
    return torch.cat(parts).view(targets.shape).cpu()


def bits_per_byte(nats: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> float:
    """Total nats over total bytes of the targets, in bits. Special tokens (no bytes) count in neither sum.

    nats: (n, T) float; targets: (n, T) integer ids; token_bytes: (V,) bytes of each token.
    """
    lengths = token_bytes[targets].astype(np.int64)
    total = np.sum(nats.astype(np.float64) * (lengths > 0))
    return float(total / (math.log(2) * lengths.sum()))


@dataclass(frozen=True, kw_only=True)
class Splices:
    """Rows made of a real prefix and another row's suffix."""

    rows: np.ndarray
    """(m,) indices of the rows that gave the prefix."""
    lengths: np.ndarray
    """(m,) tokens of prefix."""
    ids: np.ndarray
    """(m, T + 1) the spliced rows."""


def splice_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> Splices:
    """`count` different rows of `rows` (n, T + 1), each spliced at a random place with another row's suffix.

    Prefixes are at least an eighth of the row long, and so are suffixes.
    """
    n, width = rows.shape
    chosen = rng.choice(n, size=count, replace=False)
    donors = (chosen + rng.integers(1, n, size=count)) % n
    lengths = rng.integers(width // 8, width - width // 8, size=count)
    from_prefix = np.arange(width)[None, :] < lengths[:, None]
    return Splices(rows=chosen, lengths=lengths, ids=np.where(from_prefix, rows[chosen], rows[donors]))


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Differences between process B's cross-entropy on prefixes and process A's, in nats: B less A."""

    rows: int
    mean: float
    boundary: float
    largest: float

    def broken_rule(self, allowed: Tolerance) -> str | None:
        """What is wrong, in words; None where A and B agree."""
        evidence = f"mean {self.mean:+.2g}, before the splice {self.boundary:+.2g}, largest {self.largest:.2g} nats"
        if not (abs(self.boundary) <= allowed.boundary):
            return f"the model looks ahead: its answers change with tokens to come ({evidence})"
        if not (abs(self.mean) <= allowed.mean and self.largest <= allowed.largest):
            return f"the same prefix got other answers in a fresh process ({evidence})"
        return None


def compare_prefixes(nats_a: np.ndarray, nats_b: np.ndarray, splices: Splices) -> Consistency:
    """Holds B's answers on spliced rows, (m, T), against A's on the real ones, (n, T).

    Position p predicts token p + 1 from tokens 0 to p, so a prefix of k tokens fixes the logits at positions 0 to k - 1. The
    last of them predicts the first token behind the splice: scored against the real row's token, it shows a model that read it.
    """
    width = nats_b.shape[1]
    difference = nats_b.astype(np.float64) - nats_a[splices.rows].astype(np.float64)
    shared = np.arange(width)[None, :] < splices.lengths[:, None]
    boundary = difference[np.arange(len(splices.rows)), splices.lengths - 1]
    return Consistency(
        rows=len(splices.rows),
        mean=float(difference[shared].mean()),
        boundary=float(boundary.mean()),
        largest=float(np.abs(difference[shared]).max()),
    )
