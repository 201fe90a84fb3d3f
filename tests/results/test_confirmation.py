"""What fresh seeds say, and that nothing is selected by them."""

from pathlib import Path

import pytest

from results.confirmation import (
    Difference,
    baseline_again_verdict,
    conclusion,
    confirmation_lines,
    difference,
    tried_verdict,
)
from results.store import Store
from results.verdict import too_different
from tests.results.new_home import with_tables
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
    ("low", "high", "words"),
    [
        (0.001, 0.005, "not confirmed as estimated: fresh seeds show a gain, which the estimate overstates by 0.0070"),
        (0.02, 0.03, "not confirmed as estimated: fresh seeds show a gain, which the estimate understates by 0.0150"),
        (0.001, 0.02, "confirmed: fresh seeds show a gain, and the estimate agrees with them"),
        (-1.2054, 1.1307, "too few seeds to tell"),
        (0.0, 0.02, "too few seeds to tell"),
        (-0.001, 0.002, "not confirmed: fresh seeds show no gain"),
        (-0.2, -0.1, "not confirmed: fresh seeds show a loss"),
    ],
)
def test_a_gain_is_confirmed_only_if_fresh_seeds_certainly_show_it(low: float, high: float, words: str) -> None:
    assert conclusion(Difference(gain=(low + high) / 2, low=low, high=high), EXPECTED.gain) == words


def test_the_result_names_both_means_and_what_failed() -> None:
    lines = confirmation_lines([1.0, 1.02], [1.1, 1.12], EXPECTED, name="mar8-0001", sigma=0.02)
    assert "1.010000" in lines[0] and "1.110000" in lines[1] and "+0.1000" in lines[2] and "understates" in lines[-1]
    assert "no score" in confirmation_lines([], [1.1, 1.2], EXPECTED, name="mar8-0001", sigma=0.02)[0]


def test_scores_that_differ_far_more_than_chance_ask_whether_the_machine_is_busy() -> None:
    """Both sides of a confirmation, in its result and in the verdicts."""
    equal, busy = [2.71, 2.75], [2.99, 2.61]
    lines = confirmation_lines(equal, busy, EXPECTED, name="two-0005", sigma=0.0409)
    assert ["is the machine busy?" in line for line in lines[:2]] == [False, True] and "0.3800" in lines[1]
    runs, again = ([make_run(f"{n}", score, seed=n) for n, score in enumerate(scores)] for scores in (busy, equal))
    tried = tried_verdict(runs, again, expected=0.26, sigma=0.0409)
    assert "is the machine busy?" in tried.reason and "too few seeds to tell" in tried.reason
    assert "is the machine busy?" in baseline_again_verdict(runs, sigma=0.0409).reason
    assert "is the machine busy?" not in baseline_again_verdict(again, sigma=0.0409).reason


def test_the_largest_of_many_differences_may_be_larger() -> None:
    assert too_different([0.0, 4.3], 1.0) and not too_different([0.0, 4.2], 1.0) and not too_different([1.0], 1.0)
    assert not too_different([0.0, 5.0, *[2.5] * 8], 1.0) and too_different([0.0, 6.5, *[2.5] * 8], 1.0)


def test_fresh_seeds_decide_nothing(tmp_path: Path) -> None:
    with Store.open(with_tables(tmp_path)) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 1.0)
        before = store.head(NAME)
        again = make_experiment(1, kind="confirm", commit=make_experiment(0).commit)
        store.add_experiment(again)
        assert store.unfinished(NAME) == []
        runs = [make_run("again-1", 0.5, seed=7), make_run("again-2", None, seed=8)]
        for run in runs:
            store.add_run(again.id, run)
        store.add_verdict(again.id, tried_verdict(runs, runs, expected=0.01, sigma=0.01))
        assert store.head(NAME) == before and before is not None and before.scores == (1.0,)
        assert store.groups.state(NAME).farm.runs == 1
    assert tried_verdict(runs, runs, expected=0.01, sigma=0.01).decision == "discard"
    assert baseline_again_verdict(runs, sigma=0.01).decision == "discard"
    assert tried_verdict(runs[1:], runs, expected=0.01, sigma=0.01).decision == "crash"
