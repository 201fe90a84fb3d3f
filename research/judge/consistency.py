"""Whether two processes answer alike: the cross-entropy of shared prefixes, and how far it may differ.

Process B answers spliced rows, a real prefix with a suffix of training text. If its cross-entropy on the prefix differs from
that of process A, which answered the real rows, the model looked ahead or answered from memory.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

CONSISTENCY_SHARE = 0.05
"""Share of the validation rows that process B answers for every run; it answers all of them for a run that would be kept."""

MIN_CONSISTENCY_ROWS = 64
"""Minimum number of rows that process B answers: on small data that takes a second."""

SECTIONS = 8
"""Equal parts of a row's positions, each compared separately: cheating in only one part would be diluted by the others."""

BIAS_ERRORS = 5.0
"""Limit on the distance of a mean difference from 0, in standard errors: honest rounding exceeds it once in a million runs."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far two honest processes' cross-entropies on the same prefix may differ, in nats per token.

    The limits are fixed. A limit in standard errors alone would be set by whoever is tested, since a model whose rows differ
    wildly has a large standard error. So the paired tests (`bias` and `look`) only add to the fixed limits: with many rows they
    find a small shift that all rows share, which the fixed limit would let through.
    """

    mean: float
    """Limit on the mean over rows of a row's mean difference, however noisy the rows are."""
    bias: float
    """Limit on `mean` if that is more than BIAS_ERRORS standard errors from 0: rounding has no direction."""
    row_rms: float
    """Limit on the root mean square of the rows' mean differences, which do not cancel: it shows a model that learns from
    the rows."""
    boundary: float
    """Limit on the mean over the last token before each splice, which shows a look at the next token."""
    look: float
    """Limit on `boundary` if that is more than BIAS_ERRORS standard errors from 0."""
    boundary_rms: float
    """Limit on the root mean square over the last token before each splice: without one, a model that knows where a row is
    spliced could answer there with so much noise of both signs that its mean says nothing."""
    largest: float
    """Limit on a single token, which shows a single look ahead."""

    @property
    def section_rms(self) -> float:
        """Limit on the root mean square within one section. Independent noise is sqrt(SECTIONS) larger there."""
        return self.row_rms * math.sqrt(SECTIONS)


def tolerance_for(device: torch.device) -> Tolerance:
    """The effect of rounding alone on a device, with a margin; benchmarks/numerical_floor.py measures it."""
    if device.type == "cpu":
        # On an x86-64 CPU every kind of model agreed with itself to the last bit, however it was batched: the margin is for
        # CPUs whose kernels depend on the shape. It is about twice the distance of bfloat16 models from float64 (float32 models
        # are a thousand times closer), and 1e-4 nats per token is 1/500 of the cpu profile's noise.
        return Tolerance(mean=1e-4, bias=1e-5, row_rms=2e-3, boundary=5e-4, look=1e-4, boundary_rms=0.01, largest=0.05)
    # The same holds on an H200. The margin is wider than for a CPU because other GPUs were not measured: `mean` and `bias` are
    # 1/4 and 1/40 of a score's noise under the standard profile.
    return Tolerance(mean=5e-4, bias=5e-5, row_rms=5e-3, boundary=0.0125, look=5e-4, boundary_rms=0.03, largest=0.5)


@dataclass(frozen=True, kw_only=True)
class Splices:
    """Rows with a real prefix and the suffix of another text."""

    rows: np.ndarray
    """(m,) indices of the rows that the prefixes come from."""
    lengths: np.ndarray
    """(m,) lengths of the prefixes in tokens."""
    ids: np.ndarray
    """(m, T + 1) ids of the spliced rows."""


def splice_rows(rows: np.ndarray, count: int, rng: np.random.Generator, *, donors: np.ndarray) -> Splices:
    """`count` different rows of `rows` (n, T + 1), each spliced at a random position with the suffix of one of `donors`
    (d, T + 1), if there are as many a different one each.

    No donor may be a row that process B is asked about: it would read there how other rows go on. The length of the prefix is
    uniform, from one token to the whole input, so that a model that looks ahead in only one part of the rows is caught there.
    The last position has nothing after it; there a model is asked for the same answer again.
    """
    width = rows.shape[1]
    chosen = rng.choice(len(rows), size=count, replace=False)
    suffixes = donors[np.sort(rng.choice(len(donors), size=count, replace=count > len(donors)))]
    lengths = rng.integers(1, width, size=count)
    from_prefix = np.arange(width)[None, :] < lengths[:, None]
    return Splices(rows=chosen, lengths=lengths, ids=np.where(from_prefix, rows[chosen], suffixes))


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Differences in cross-entropy on shared prefixes, process B's minus process A's, in nats per token.

    The unit is the row: the tokens of one row are not independent, but rows are.
    """

    rows: int
    mean: float
    """Mean over rows of the row's mean difference."""
    error: float
    """Standard error of `mean`, from the rows' own spread."""
    row_rms: float
    """Root mean square over rows of the row's mean difference: it shows differences in both directions, which cancel in the
    mean."""
    section_rms: float
    """Root mean square within one of SECTIONS parts of the positions, rows weighted by their tokens: the largest of them."""
    boundary: float
    """Mean over rows of the difference at the last token before the splice."""
    boundary_error: float
    """Standard error of `boundary`."""
    boundary_rms: float
    """Root mean square over rows of the difference at the last token before the splice."""
    largest: float
    """Largest absolute difference on a token of a prefix."""

    def broken_rule(self, allowed: Tolerance) -> str | None:
        """The rule that is broken, as a reason; None if A and B agree.

        The reason has no numbers: a model that has seen evaluation rows chooses them, and researchers read reasons.
        """
        look = min(allowed.boundary, max(allowed.look, BIAS_ERRORS * self.boundary_error))
        if not abs(self.boundary) <= look:
            return "the model looks ahead: its logits change with later tokens"
        steady = max(allowed.bias, BIAS_ERRORS * self.error)
        rules = [
            ("on average", abs(self.mean), allowed.mean),
            ("in one direction", abs(self.mean), steady),
            ("between rows", self.row_rms, allowed.row_rms),
            ("between rows in a part of the positions", self.section_rms, allowed.section_rms),
            ("before the splice", self.boundary_rms, allowed.boundary_rms),
            ("on one token", self.largest, allowed.largest),
        ]
        for where, found, limit in rules:
            if not found <= limit:
                return f"a fresh process scores the same prefix differently {where}"
        return None


def compare_prefixes(nats_a: np.ndarray, nats_b: np.ndarray, splices: Splices, *, counts: np.ndarray) -> Consistency:
    """Compares B's nats on spliced rows, (m, T), with A's on the real rows, (n, T), where `counts` (n, T) is true.

    That leaves out targets that no score counts: a model could be worse there to make up for a look ahead elsewhere.

    Position p predicts token p + 1 from tokens 0 to p, so a prefix of k tokens fixes the logits at positions 0 to k - 1. The
    last of them predicts the first token after the splice: scored against the real row's token, it shows a model that read it.
    """
    difference = nats_b.astype(np.float64) - nats_a[splices.rows].astype(np.float64)
    prefix = np.arange(nats_b.shape[1])[None, :] < splices.lengths[:, None]
    scored = prefix & counts[splices.rows]
    of_row = (difference * scored).sum(axis=1) / np.maximum(1, scored.sum(axis=1))
    last = np.arange(len(splices.rows)), splices.lengths - 1
    boundary = difference[last][scored[last]]
    return Consistency(
        rows=len(of_row),
        mean=float(of_row.mean()),
        error=_standard_error(of_row),
        row_rms=float(np.sqrt(np.square(of_row).mean())),
        section_rms=_largest_section_rms(difference * scored, scored),
        boundary=float(boundary.mean()) if len(boundary) else 0.0,
        boundary_error=_standard_error(boundary),
        boundary_rms=float(np.sqrt(np.square(boundary).mean())) if len(boundary) else 0.0,
        largest=float(np.abs(difference[prefix]).max()),
    )


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _largest_section_rms(difference: np.ndarray, shared: np.ndarray) -> float:
    """The largest root mean square, over sections, of rows' mean differences; `difference` (m, T) is 0 if not `shared`."""
    starts = np.unique(np.linspace(0, difference.shape[1], SECTIONS, endpoint=False).astype(int))  # fewer in very short rows
    sums = np.add.reduceat(difference, starts, axis=1)
    weights = np.square(np.add.reduceat(shared.astype(np.int64), starts, axis=1)).sum(axis=0)
    return float(np.sqrt(np.square(sums).sum(axis=0)[weights > 0] / weights[weights > 0]).max(initial=0.0))
