"""Predicted scores beside what all runs expected of them, by control and by device."""

import re
from dataclasses import replace

import pytest

from results.experiment import ExperimentRecord
from results.group_verdicts import measurement_verdict
from results.report import morning_report
from results.residuals import by_device, residuals
from tests.results.history_samples import history_of
from tests.results.test_report import SIGMA, night_of, record


def controls(*scores: float) -> list[ExperimentRecord]:
    """A night with a gain whose baseline ran again with these scores, each with the verdict that a loop gives it."""
    records = night_of(0.99, *[1.0 + SIGMA / 2] * 6)
    for at, score in enumerate(scores):
        control = record(20 + at, "discard", score, kind="control", commit=records[0].experiment.commit)
        state = history_of([*records, control]).group.state
        assert state is not None
        records.append(replace(control, verdict=measurement_verdict(state, control.experiment, control.runs)))
    return records


def told(*scores: float) -> str:
    """The report on such a night, as one line."""
    return " ".join(morning_report([history_of(controls(*scores))]).split())


def test_a_control_far_off_is_warned_of_though_the_gain_stands() -> None:
    text = told(1.0, 1.0 + 8 * SIGMA)
    assert "gain +" in text and "WARNING: 1 of 2 controls" in text
    off = re.search(r"\[mar8-0021\] (\S+) worse", text)
    assert off and float(off[1]) > 3 and "mar8-0020" not in text
    assert "mar8-0020] " in (better := told(1.0 - 8 * SIGMA, 1.0)) and "better" in better


def test_controls_as_expected_are_told_without_a_warning() -> None:
    text = told(1.0, 1.0 + SIGMA / 2)
    assert re.search(r"Controls, a known train.py again: [-+]\d\.\d to [-+]\d\.\d standard deviations", text)
    assert "WARNING" not in text and "Controls" not in told()


def test_the_residual_is_the_one_of_the_verdict_and_needs_a_score() -> None:
    (*_, control) = records = controls(1.0 + 2 * SIGMA)
    (found,) = residuals([*records, record(21, "crash", None, kind="control")])
    assert control.verdict is not None and found.experiment_id == "mar8-0020"
    assert f"({found.sds:+.1f} standard deviations)" in control.verdict.reason
    old = replace(control, verdict=replace(control.verdict, expected_sd=None))
    assert residuals([old])[0].sds > found.sds > 0.5, "of an old record only the noise between seeds is known"


def test_the_residual_of_a_device_is_that_of_the_controls_waves_and_merges_on_it() -> None:
    worse, better = controls(1.0 + 2 * SIGMA, 1.0 - SIGMA)[-2:]
    merge = replace(better, experiment=replace(better.experiment, kind="merge"),
                    runs=tuple(replace(run, device="cuda:1") for run in better.runs))  # fmt: skip
    idea = replace(worse, experiment=replace(worse.experiment, kind="explore"))
    of_all = residuals([worse, merge, idea])
    found = by_device(of_all)
    assert {device: one.scores for device, one in found.items()} == {worse.runs[0].device: 1, "cuda:1": 1}
    assert found["cuda:1"].sds == pytest.approx(of_all[1].sds) and found["cuda:1"].sds < 0 < found[worse.runs[0].device].sds
