"""Overfitting to the validation rows: whether a gain holds on the audit rows.

It reads audit scores, so its figures are for people. Researchers learn of it only that a gain does not hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.data.prepared import Split
from research.judge.row_scores import RowScores, load_row_scores
from research.result import RunResult
from results.experiment import ExperimentRecord

ALARM_STANDARD_ERRORS = 3.0
"""Standard errors beyond which the gap is an alarm. A lower limit would cry wolf: rows of one document are not independent."""


ON_VALIDATION_ALONE = "the gain on the validation rows does not show on rows that no researcher sees"
"""Why an idea is kept out of the head whose gain is on validation alone."""


@dataclass(frozen=True, kw_only=True)
class SplitScores:
    """Bits per byte of the baseline and the head on the same rows of one split."""

    baseline: float
    head: float
    rows: int | None = None
    """Number of rows; None if only the totals are known."""
    most_rows: int | None = None
    """Number of rows that one of the two was scored on; the other may have fewer."""
    standard_error: float | None = None
    """Standard error of `change`; None if only the totals are known."""

    @property
    def change(self) -> float:
        """The head's bits per byte minus the baseline's: negative is better."""
        return self.head - self.baseline


@dataclass(frozen=True, kw_only=True)
class Overfitting:
    """How a branch's scores moved from baseline to head, on validation and on audit rows."""

    val: SplitScores
    audit: SplitScores

    @property
    def gap(self) -> float:
        """The change on validation minus that on audit, bits per byte: negative where validation improved more."""
        return self.val.change - self.audit.change

    @property
    def standard_error(self) -> float | None:
        """Standard error of the gap, since both sets of rows are independent; None if runs left no scores of rows."""
        if self.val.standard_error is None or self.audit.standard_error is None:
            return None
        return math.hypot(self.val.standard_error, self.audit.standard_error)

    @property
    def standard_errors(self) -> float | None:
        """The number of standard errors by which validation improved more than audit; None if they are unknown or 0."""
        return None if not self.standard_error else -self.gap / self.standard_error

    @property
    def is_certain(self) -> bool:
        """Whether validation improved, and certainly more than audit: by ALARM_STANDARD_ERRORS."""
        improved = self.val.change < 0
        return improved and self.standard_errors is not None and self.standard_errors > ALARM_STANDARD_ERRORS

    @property
    def is_on_validation_alone(self) -> bool:
        """Whether validation certainly improved more than audit, with less than half of it there."""
        return self.is_certain and self.audit.change > self.val.change / 2

    @property
    def alarm(self) -> str:
        """What is wrong and what to do, in one sentence; empty if nothing is wrong."""
        if self.standard_errors is None or not self.is_certain:
            return ""
        return (
            f"validation improved more than audit by {self.standard_errors:.1f} standard errors: don't trust the gain, find "
            "the keep that made it (farm show), and start a new --tag from the one before."
        )


def measure_overfitting(baseline: ExperimentRecord, head: ExperimentRecord, runs_folder: Path) -> Overfitting | None:
    """Measured on the row scores that the runs left, else on totals in records that hold audit scores; None without either."""
    val, audit = (_from_rows(baseline, head, runs_folder, split) for split in ("val", "audit"))
    if val is None or audit is None:
        val, audit = _from_totals(baseline, head, "val_bpb"), _from_totals(baseline, head, "audit_bpb")
    return None if val is None or audit is None else Overfitting(val=val, audit=audit)


def compare_rows(baseline: RowScores, head: RowScores) -> SplitScores:
    """Paired scores on the rows that both have.

    The change in bits per byte is a ratio of sums over rows, so its standard error comes from the delta method: the residual of
    a row is its change in nats minus the mean change per byte times its bytes.
    """
    rows = min(len(baseline.nats), len(head.nats))
    first, second, lengths = (np.asarray(a[:rows], dtype=np.float64) for a in (baseline.nats, head.nats, head.bytes))
    unit = math.log(2) * lengths.sum()
    moved = second - first
    residuals = moved - lengths * (moved.sum() / lengths.sum())
    error = math.sqrt(rows / (rows - 1) * np.square(residuals).sum()) / unit if rows > 1 else None
    most = max(len(baseline.nats), len(head.nats))
    scores = float(first.sum() / unit), float(second.sum() / unit)
    return SplitScores(baseline=scores[0], head=scores[1], rows=rows, most_rows=most, standard_error=error)


def _from_rows(baseline: ExperimentRecord, head: ExperimentRecord, runs_folder: Path, split: Split) -> SplitScores | None:
    pair = [_mean_rows(record, runs_folder, split) for record in (baseline, head)]
    first, second = pair
    if first is None or second is None:
        return None
    rows = min(len(first.nats), len(second.nats))
    if not rows or not np.array_equal(first.bytes[:rows], second.bytes[:rows]):
        return None
    return compare_rows(first, second)


def _mean_rows(record: ExperimentRecord, runs_folder: Path, split: Split) -> RowScores | None:
    """The mean score of each row over the record's runs; None if a run with a score left no scores of rows."""
    found = [load_row_scores(runs_folder / run.run_id, split) for run in _scored(record)]
    known = [scores for scores in found if scores is not None]
    if not known or len(known) < len(found):
        return None
    rows = min(len(scores.nats) for scores in known)
    nats = np.stack([scores.nats[:rows] for scores in known]).mean(axis=0, dtype=np.float64)
    return RowScores(nats=np.asarray(nats), bytes=known[0].bytes[:rows])


def _from_totals(baseline: ExperimentRecord, head: ExperimentRecord, name: str) -> SplitScores | None:
    means = []
    for record in (baseline, head):
        scores = [value for run in _scored(record) if (value := getattr(run, name)) is not None]
        if not scores:
            return None
        means.append(sum(scores) / len(scores))
    return SplitScores(baseline=means[0], head=means[1])


def _scored(record: ExperimentRecord) -> Sequence[RunResult]:
    return [run for run in record.runs if run.status == "ok" and run.val_bpb is not None]
