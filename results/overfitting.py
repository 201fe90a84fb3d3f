"""Whether a branch's gain on validation is there on the audit rows too. For people: audit scores go into it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.data.prepared import Split
from research.judge.row_scores import RowScores, load_row_scores
from research.result import RunResult
from results.experiment import ExperimentRecord

ALARM_ERRORS = 3.0
"""Standard errors. Rows of one long document are less than independent, so that fewer would cry wolf."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The baseline's and the head's bits per byte on the same rows."""

    baseline: float
    head: float
    rows: int | None = None
    """None where only the totals are known."""
    error: float | None = None
    """Standard error of `change`."""

    @property
    def change(self) -> float:
        """Negative is better."""
        return self.head - self.baseline


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a branch moved on validation and on audit rows."""

    val: Scores
    audit: Scores

    @property
    def drift(self) -> float:
        """The change on validation less that on audit, bits per byte: negative where validation has improved more."""
        return self.val.change - self.audit.change

    @property
    def error(self) -> float | None:
        """Its standard error; None where the runs left no rows. The two sets of rows are independent."""
        if self.val.error is None or self.audit.error is None:
            return None
        return math.hypot(self.val.error, self.audit.error)

    @property
    def errors(self) -> float | None:
        """By how many standard errors validation has improved more than audit."""
        return None if not self.error else -self.drift / self.error

    @property
    def alarm(self) -> str:
        """What is wrong and what to do, in a sentence; empty where nothing is."""
        if self.errors is None or not self.errors > ALARM_ERRORS:
            return ""
        return (
            f"validation has improved more than audit by {self.errors:.1f} standard errors: don't trust the gain, find the "
            "keep that made it (farm show), and go on under a new --tag from the one before."
        )


def measure_drift(baseline: ExperimentRecord, head: ExperimentRecord, runs_folder: Path) -> Drift | None:
    """From the rows that the runs left, else from the totals in records that hold audit scores; None without either."""
    val, audit = (_from_rows(baseline, head, runs_folder, split) for split in ("val", "audit"))
    if val is None or audit is None:
        val, audit = _from_totals(baseline, head, "val_bpb"), _from_totals(baseline, head, "audit_bpb")
    return None if val is None or audit is None else Drift(val=val, audit=audit)


def compare_rows(baseline: RowScores, head: RowScores) -> Scores:
    """Both on the rows that both have, paired.

    The change in bits per byte is a ratio of sums over rows, so its standard error is by the delta method: from how far each
    row's change in nats is from what its bytes would have it be.
    """
    rows = min(len(baseline.nats), len(head.nats))
    first, second, lengths = (np.asarray(a[:rows], dtype=np.float64) for a in (baseline.nats, head.nats, head.bytes))
    unit = math.log(2) * lengths.sum()
    moved = second - first
    residuals = moved - lengths * (moved.sum() / lengths.sum())
    error = math.sqrt(rows / (rows - 1) * np.square(residuals).sum()) / unit if rows > 1 else None
    return Scores(baseline=float(first.sum() / unit), head=float(second.sum() / unit), rows=rows, error=error)


def _from_rows(baseline: ExperimentRecord, head: ExperimentRecord, runs_folder: Path, split: Split) -> Scores | None:
    pair = [_mean_rows(record, runs_folder, split) for record in (baseline, head)]
    first, second = pair
    if first is None or second is None:
        return None
    rows = min(len(first.nats), len(second.nats))
    if not rows or not np.array_equal(first.bytes[:rows], second.bytes[:rows]):
        return None
    return compare_rows(first, second)


def _mean_rows(record: ExperimentRecord, runs_folder: Path, split: Split) -> RowScores | None:
    """Each row's mean over the record's runs; None where a run with a score left no rows."""
    found = [load_row_scores(runs_folder / run.run_id, split) for run in _scored(record)]
    known = [scores for scores in found if scores is not None]
    if not known or len(known) < len(found):
        return None
    rows = min(len(scores.nats) for scores in known)
    nats = np.stack([scores.nats[:rows] for scores in known]).mean(axis=0, dtype=np.float64)
    return RowScores(nats=np.asarray(nats), bytes=known[0].bytes[:rows])


def _from_totals(baseline: ExperimentRecord, head: ExperimentRecord, name: str) -> Scores | None:
    means = []
    for record in (baseline, head):
        scores = [value for run in _scored(record) if (value := getattr(run, name)) is not None]
        if not scores:
            return None
        means.append(sum(scores) / len(scores))
    return Scores(baseline=means[0], head=means[1])


def _scored(record: ExperimentRecord) -> Sequence[RunResult]:
    return [run for run in record.runs if run.status == "ok" and run.val_bpb is not None]
