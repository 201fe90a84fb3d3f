"""What fresh seeds say, and that nothing is selected by them."""

from pathlib import Path

import pytest

from results.confirmation import (
    Difference,
    baseline_again_verdict,
    compared,
    confirmation_lines,
    difference,
    tried_verdict,
)
from results.store import Store
from tests.results.result_samples import NAME, add, make_branch, make_experiment, make_run

EXPECTED = Difference(gain=0.01, low=0.008, high=0.012)


def test_welchs_interval_of_a_textbook_example() -> None:
    """Welch, with variances 7.9 and 16.7 on 5 scores each: the difference of 4 with 7.12 degrees of freedom."""
    found = difference([16.0, 20.0, 14.0, 15.0, 20.0], [18.0, 25.0, 19.0, 24.0, 19.0])
    assert found is not None and found.gain == pytest.approx(4.0)
    half = found.high - found.gain
    assert half == pytest.approx(found.gain - found.low)
    standard_error = (8.0 / 5 + 10.5 / 5) ** 0.5
    assert 2.30 < half / standard_error < 2.32  # Student's t for 7.9 degrees of freedom


def test_without_noise_to_be_seen_there_is_no_interval() -> None:
    assert difference([1.0], [1.1, 1.2]) is None
    assert difference([1.0, 1.0], [1.1, 1.2]) is None


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.001, 0.005, "overstates"), (0.02, 0.03, "understates"), (0.0, 0.02, "agrees")]
)
def test_an_estimate_is_compared_with_the_interval(low: float, high: float, word: str) -> None:
    found = Difference(gain=(low + high) / 2, low=low, high=high)
    assert word in compared(found, EXPECTED)


def test_the_result_names_both_means_and_what_failed() -> None:
    lines = confirmation_lines([1.0, 1.02], [1.1, 1.12], EXPECTED, name="mar8-0001")
    assert "1.010000" in lines[0] and "1.110000" in lines[1] and "+0.1000" in lines[2] and "understates" in lines[3]
    assert "no score" in confirmation_lines([], [1.1, 1.2], EXPECTED, name="mar8-0001")[0]


def test_fresh_seeds_decide_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 1.0)
        before = store.head(NAME)
        again = make_experiment(1, kind="confirm", commit=make_experiment(0).commit)
        store.add_experiment(again)
        assert store.unfinished(NAME) == []
        runs = [make_run("again-1", 0.5, seed=7), make_run("again-2", None, seed=8)]
        for run in runs:
            store.add_run(again.id, run)
        store.add_verdict(again.id, tried_verdict(runs, runs))
        assert store.head(NAME) == before and before is not None and before.scores == (1.0,)
        assert store.groups.state(NAME).farm.runs == 1
    assert tried_verdict(runs, runs).decision == baseline_again_verdict(runs).decision == "discard"
    assert tried_verdict(runs[1:], runs).decision == "crash"
