"""Controls beside what all runs expect of them."""

import re

from results.control_residuals import residuals
from results.report import morning_report
from tests.results.history_samples import history_of
from tests.results.test_report import SIGMA, night_of, record


def told(*controls: float) -> str:
    """The report on a night with a gain whose baseline ran again with these scores, as one line."""
    records = night_of(0.99, *[1.0 + SIGMA / 2] * 6)
    baseline = records[0].experiment.commit
    again = [record(20 + at, "discard", score, kind="control", commit=baseline) for at, score in enumerate(controls)]
    return " ".join(morning_report([history_of([*records, *again])]).split())


def test_a_control_far_off_is_warned_of_though_the_gain_stands() -> None:
    text = told(1.0, 1.0 + 8 * SIGMA)
    assert "gain +" in text and "WARNING: 1 of 2 controls" in text
    off = re.search(r"\[mar8-0021\] (\S+) worse", text)
    assert off and float(off[1]) > 3 and "mar8-0020" not in text
    assert "mar8-0020] " in told(1.0 - 8 * SIGMA, 1.0) and "better" in told(1.0 - 8 * SIGMA, 1.0)


def test_controls_as_expected_are_told_without_a_warning() -> None:
    text = told(1.0, 1.0 + SIGMA / 2)
    assert re.search(r"Controls, a known train.py again: [-+]\d\.\d to [-+]\d\.\d standard deviations", text)
    assert "WARNING" not in text and "Controls" not in told()


def test_the_residual_is_the_one_of_the_verdict_and_needs_a_score() -> None:
    records = night_of(0.99)
    commit = records[0].experiment.commit
    worse, crashed = (
        record(20 + at, "discard", score, kind="control", commit=commit) for at, score in enumerate((1.002, None))
    )
    history = history_of([*records, worse, crashed])
    assert history.group.state is not None
    (found,) = residuals(history.group.state, history.records)
    assert found.experiment_id == "mar8-0020" and found.sds > 0.5
