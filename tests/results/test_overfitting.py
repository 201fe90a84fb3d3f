"""A gain on validation that the audit rows don't show is an alarm; one that they show is not."""

from pathlib import Path

import numpy as np
import pytest

from research.judge.row_scores import FILE_NAME, RowScores, load_row_scores, save_row_scores
from results.experiment import ExperimentRecord, Verdict
from results.overfitting import Overfitting, SplitScores, compare_rows, measure_overfitting
from results.report import morning_report
from tests.results.history_samples import history_of
from tests.results.result_samples import make_experiment, make_run

NATS_PER_BYTE = 0.7


def record(number: int, *run_ids: str) -> ExperimentRecord:
    runs = tuple(make_run(name, 1.0 - 0.1 * number) for name in run_ids or (f"r{number}",))
    return ExperimentRecord(experiment=make_experiment(number), runs=runs, verdict=Verdict(decision="keep", reason=""))


def rows(rng: np.random.Generator, lengths: np.ndarray, gain: float, spread: float = 0.02) -> RowScores:
    """Rows that all gain a share of their nats, give or take."""
    nats = NATS_PER_BYTE * lengths * (1 - gain + spread * rng.standard_normal(len(lengths)))
    return RowScores(nats=nats, bytes=lengths)


def leave_rows(folder: Path, name: str, *, seed: int, val_gain: float, audit_gain: float, audit_rows: int = 300) -> None:
    lengths = np.random.default_rng(0).integers(500, 1500, size=400)
    rng = np.random.default_rng(seed)
    (folder / name).mkdir()
    of_split = {"val": rows(rng, lengths, val_gain), "audit": rows(rng, lengths[:audit_rows], audit_gain)}
    save_row_scores(folder / name, of_split)  # type: ignore[arg-type]


def test_the_standard_error_is_that_of_repeated_samples() -> None:
    """Against the spread of the change itself over many samples of rows."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        lengths = rng.integers(500, 1500, size=100)
        found.append(compare_rows(rows(rng, lengths, 0.0), rows(rng, lengths, 0.05)))
    spread = np.std([one.change for one in found])
    assert np.mean([one.standard_error for one in found if one.standard_error]) == pytest.approx(spread, rel=0.1)
    assert np.mean([one.change for one in found]) == pytest.approx(-0.05 * NATS_PER_BYTE / np.log(2), rel=0.02)


def test_a_gain_on_validation_alone_is_an_alarm(tmp_path: Path) -> None:
    leave_rows(tmp_path, "r0", seed=1, val_gain=0.0, audit_gain=0.0)
    leave_rows(tmp_path, "r1", seed=2, val_gain=0.05, audit_gain=0.0)
    found = measure_overfitting(record(0), record(1), tmp_path)
    assert found is not None and found.standard_errors is not None and found.standard_errors > 10
    assert found.gap == pytest.approx(-0.05 * NATS_PER_BYTE / np.log(2), rel=0.1)
    assert "more than audit by" in found.alarm and "--tag" in found.alarm


@pytest.mark.parametrize(
    ("val_gain", "audit_gain", "alone"),
    [(0.05, 0.0, True), (0.05, 0.02, True), (0.05, 0.04, False), (0.001, 0.0, False), (-0.05, -0.2, False)],
)
def test_a_gain_counts_as_validations_alone_if_audit_shows_less_than_half_of_it(
    val_gain: float, audit_gain: float, alone: bool, tmp_path: Path
) -> None:
    leave_rows(tmp_path, "r0", seed=1, val_gain=0.0, audit_gain=0.0)
    leave_rows(tmp_path, "r1", seed=2, val_gain=val_gain, audit_gain=audit_gain)
    found = measure_overfitting(record(0), record(1), tmp_path)
    assert found is not None and found.is_on_validation_alone == alone


def test_the_report_has_the_alarm(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    leave_rows(tmp_path / "runs", "r0", seed=1, val_gain=0.0, audit_gain=0.0)
    leave_rows(tmp_path / "runs", "r1", seed=2, val_gain=0.05, audit_gain=0.0)
    history = [history_of([record(0), record(1)])]
    assert "\nALARM: validation improved more" in morning_report(history, home=tmp_path)
    assert "ALARM" not in morning_report(history)


@pytest.mark.parametrize(("val_gain", "audit_gain"), [(0.05, 0.05), (0.0, 0.05), (0.0, 0.0), (-0.05, -0.2)])
def test_a_gain_on_both_or_on_audit_alone_is_none(tmp_path: Path, val_gain: float, audit_gain: float) -> None:
    leave_rows(tmp_path, "r0", seed=1, val_gain=0.0, audit_gain=0.0, audit_rows=30)  # only a part was scored
    leave_rows(tmp_path, "r1", seed=2, val_gain=val_gain, audit_gain=audit_gain)
    found = measure_overfitting(record(0), record(1), tmp_path)
    assert found is not None and found.standard_error and found.alarm == ""
    assert (found.val.rows, found.audit.rows) == (400, 30)


def test_rows_are_means_over_a_records_runs(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.1), ("r1", 0.05)):
        leave_rows(tmp_path, name, seed=1, val_gain=gain, audit_gain=gain)
    found = measure_overfitting(record(0, "a", "b"), record(1), tmp_path)
    assert found is not None and found.val.change == pytest.approx(0.0, abs=1e-6)


def test_without_rows_the_totals_are_compared_and_nothing_is_sure(tmp_path: Path) -> None:
    found = measure_overfitting(record(0), record(1), tmp_path)
    assert found is not None and found.gap == pytest.approx(0.0) and found.standard_error is None and found.alarm == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_file_is_no_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert load_row_scores(tmp_path, "val") is None


def test_equal_rows_are_no_alarm() -> None:
    same = SplitScores(baseline=1.0, head=1.0, rows=9, standard_error=0.0)
    assert Overfitting(val=same, audit=same).alarm == ""


def test_it_is_known_that_one_side_has_more_rows() -> None:
    """A run whose score would not be kept is scored on a part of the audit rows."""
    few, many = (rows(np.random.default_rng(0), np.full(count, 1000), 0.0) for count in (26, 260))
    assert compare_rows(few, many).rows == 26 and compare_rows(few, many).most_rows == 260
