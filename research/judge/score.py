"""Scoring by the judge: cross-entropy from full logits, bits per byte, and the consistency of two processes' answers."""

import math
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from research.judge.row_scores import RowScores

CONSISTENCY_SHARE = 0.05
"""Share of the rows that process B answers for every run; a run that would be kept has all of them answered."""

MIN_CONSISTENCY_ROWS = 64
"""However few rows there are to score: where they are few this takes a second."""


SECTIONS = 8
"""Equal parts of a row's positions, each looked at by itself: a cheat in one part alone would be diluted by the others."""

BIAS_ERRORS = 5.0
"""Standard errors that the mean difference may be from 0: honest rounding goes there once in a million runs."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far two honest processes' cross-entropies on the same prefix may differ, in nats.

    All limits are fixed but one. A limit of so many standard errors alone would be set by the one who is tested: a model whose
    rows differ wildly has a large standard error. So a paired test (`bias`) only ever adds to the fixed limits: with many
    rows it finds a small shift that all rows share and the fixed limit on the mean would let through.
    """

    mean: float
    """Of the mean over rows of a row's mean difference, however noisy the rows are."""
    bias: float
    """Of the same mean where it lies more than BIAS_ERRORS standard errors from 0: rounding has no direction, knowledge has."""
    row_rms: float
    """Of the root mean square of the rows' mean differences, which do not cancel: learning while it is scored shows here."""
    boundary: float
    """Of the mean over the last token before each splice, where a look at the next token shows."""
    look: float
    """Of the same mean where it lies more than BIAS_ERRORS standard errors from 0."""
    largest: float
    """Of a single token: a single peek shows here."""

    @property
    def section_rms(self) -> float:
        """Of the same in one of SECTIONS parts of the positions: that much larger it is when tokens differ independently."""
        return self.row_rms * math.sqrt(SECTIONS)


def tolerance_for(device: torch.device) -> Tolerance:
    """What rounding alone can do on a device, with a margin; benchmarks/numerical_floor.py measures it."""
    if device.type == "cpu":
        # On an x86-64 CPU every kind of model agreed with itself to the last bit, whatever the batches: the margin is for CPUs
        # whose kernels depend on the shape. It is about twice the distance of bfloat16 models from float64 (float32 ones are a
        # thousandfold closer), and 1e-4 nats a token are a five-hundredth of the cpu profile's noise.
        return Tolerance(mean=1e-4, bias=1e-5, row_rms=2e-3, boundary=5e-4, look=1e-4, largest=0.05)
    # On an H200 every kind of model agreed with itself to the last bit, too. The margin is wider than a CPU has, for GPUs that
    # were not measured: `mean` and `bias` are a quarter and a fortieth of the noise of a score under the standard profile.
    return Tolerance(mean=5e-4, bias=5e-5, row_rms=5e-3, boundary=0.0125, look=5e-4, largest=0.5)


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


def copied(logits: Tensor) -> Tensor:
    """A copy, whole when this returns: of logits that may change once their process is asked for more."""
    copy = logits.clone()
    if copy.is_cuda:
        torch.cuda.synchronize(copy.device)
    return copy


def cross_entropy_read_once(logits: Tensor, targets: Tensor) -> Tensor:
    """The same where `can_read_once`, of contiguous logits that may change meanwhile: the judge's kernel reads each once."""
    from research.judge.cross_entropy_kernel import cross_entropy_rows

    return cross_entropy_rows(logits.view(-1, logits.size(-1)), targets.flatten().to(logits.device)).view(targets.shape).cpu()


def can_read_once(device: torch.device, vocabulary: int) -> bool:
    """Whether the judge's own kernel serves `device`, an NVIDIA GPU where Triton works: it is tried."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    try:
        from research.judge.cross_entropy_kernel import MAX_VOCABULARY, cross_entropy_rows

        if vocabulary > MAX_VOCABULARY:
            return False
        cross_entropy_rows(torch.zeros(1, vocabulary, device=device), torch.zeros(1, dtype=torch.int64, device=device)).cpu()
    except Exception:  # no compiler, a GPU that Triton doesn't know: torch serves there, from a copy
        return False
    return True


def row_scores(nats: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> RowScores:
    """Nats and bytes of each row's targets. Special tokens (no bytes) count in neither sum.

    nats: (n, T) float; targets: (n, T) integer ids; token_bytes: (V,) bytes of each token.
    """
    lengths = token_bytes[targets].astype(np.int64)
    return RowScores(nats=np.sum(nats.astype(np.float64) * (lengths > 0), axis=1), bytes=lengths.sum(axis=1))


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

    Every length of prefix is as likely, from one token to all but the last two: a model that looks ahead in one part of
    the rows alone is caught there.
    """
    n, width = rows.shape
    chosen = rng.choice(n, size=count, replace=False)
    donors = (chosen + rng.integers(1, n, size=count)) % n
    lengths = rng.integers(1, width - 1, size=count)
    from_prefix = np.arange(width)[None, :] < lengths[:, None]
    return Splices(rows=chosen, lengths=lengths, ids=np.where(from_prefix, rows[chosen], rows[donors]))


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Differences between process B's cross-entropy on prefixes and process A's, in nats a token: B less A.

    The unit is the row: the tokens of one row are not independent, rows are.
    """

    rows: int
    mean: float
    """Mean over rows of the row's mean difference."""
    error: float
    """Standard error of `mean`, from the rows' own spread."""
    row_rms: float
    """Root mean square over rows of the row's mean difference: where rows differ in both directions it shows what cancels in
    the mean."""
    section_rms: float
    """The same where it is the largest: within one of SECTIONS parts of the positions, rows weighted by their tokens."""
    boundary: float
    """Mean over rows of the difference at the last token before the splice."""
    boundary_error: float
    """Standard error of `boundary`."""
    largest: float

    def broken_rule(self, allowed: Tolerance) -> str | None:
        """Which rule is broken, by how much and the evidence, in words; None where A and B agree."""
        evidence = (
            f"mean {self.mean:+.2g} +- {self.error:.2g}, rows {self.row_rms:.2g}, in a section {self.section_rms:.2g}, "
            f"before the splice {self.boundary:+.2g} +- {self.boundary_error:.2g}, "
            f"largest {self.largest:.2g} nats on {self.rows} rows"
        )
        look = min(allowed.boundary, max(allowed.look, BIAS_ERRORS * self.boundary_error))
        if not abs(self.boundary) <= look:
            return f"the model looks ahead: its answers change with tokens to come (at most {look:.2g}; {evidence})"
        steady = max(allowed.bias, BIAS_ERRORS * self.error)
        rules = [
            ("on average", abs(self.mean), allowed.mean),
            ("one way, row after row", abs(self.mean), steady),
            ("from row to row", self.row_rms, allowed.row_rms),
            ("from row to row in a part of the positions", self.section_rms, allowed.section_rms),
            ("for a token", self.largest, allowed.largest),
        ]
        for where, found, limit in rules:
            if not found <= limit:
                return f"the same prefix got other answers in a fresh process, {where} (at most {limit:.2g}; {evidence})"
        return None


def compare_prefixes(nats_a: np.ndarray, nats_b: np.ndarray, splices: Splices) -> Consistency:
    """Holds B's answers on spliced rows, (m, T), against A's on the real ones, (n, T).

    Position p predicts token p + 1 from tokens 0 to p, so a prefix of k tokens fixes the logits at positions 0 to k - 1. The
    last of them predicts the first token behind the splice: scored against the real row's token, it shows a model that read it.
    """
    width = nats_b.shape[1]
    difference = nats_b.astype(np.float64) - nats_a[splices.rows].astype(np.float64)
    shared = np.arange(width)[None, :] < splices.lengths[:, None]
    of_row = (difference * shared).sum(axis=1) / splices.lengths
    boundary = difference[np.arange(len(splices.rows)), splices.lengths - 1]
    count = len(splices.rows)
    return Consistency(
        rows=count,
        mean=float(of_row.mean()),
        error=float(of_row.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        row_rms=float(np.sqrt(np.square(of_row).mean())),
        section_rms=_largest_section_rms(difference * shared, shared),
        boundary=float(boundary.mean()),
        boundary_error=float(boundary.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        largest=float(np.abs(difference[shared]).max()),
    )


def _largest_section_rms(difference: np.ndarray, shared: np.ndarray) -> float:
    """Of differences (m, T), 0 where no prefix is shared: the largest root mean square, over sections, of the rows' means."""
    starts = np.unique(np.linspace(0, difference.shape[1], SECTIONS, endpoint=False).astype(int))  # fewer in very short rows
    sums = np.add.reduceat(difference, starts, axis=1)
    weights = np.square(np.add.reduceat(shared.astype(np.int64), starts, axis=1)).sum(axis=0)
    return float(np.sqrt(np.square(sums).sum(axis=0)[weights > 0] / weights[weights > 0]).max())
