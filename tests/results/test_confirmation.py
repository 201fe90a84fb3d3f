"""What fresh seeds say, and that nothing is selected by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.status_text import refuted_lines
from results.confirmation import (
    Difference,
    baseline_again_verdict,
    conclusion,
    confirmation_lines,
    confirmation_of,
    difference,
    tried_verdict,
)
from results.experiment import ExperimentRecord, Verdict
from results.group_history import GroupHistory
from results.store import Store
from results.verdict import abandoned_by_a_person, too_different
from tests.results.history_samples import history_of
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, add, make_branch, make_experiment, make_run

MEASURED = Verdict(decision="discard", reason="confirm: as it is")

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


def ran(number: int, *scores: float, seeds: int = 0, verdict: Verdict | None = MEASURED, **changes: Any) -> ExperimentRecord:
    """An experiment whose runs had the seeds from `seeds` on."""
    experiment = make_experiment(number, **changes)
    runs = tuple(make_run(f"{experiment.id}-{n}", score, seed=seeds + n) for n, score in enumerate(scores))
    return ExperimentRecord(experiment=experiment, runs=runs, verdict=verdict)


def night(*later: ExperimentRecord, head: int) -> GroupHistory:
    """A baseline, an idea and its program again as another commit, and what ran later; the head's number is given."""
    kept = Verdict(decision="keep", reason="it helps")
    first = [ran(n, score, program=f"p{min(n, 1)}", verdict=kept) for n, score in enumerate((1.0, 0.99, 0.99))]
    now = first[head].experiment
    event = {"commit": now.commit, "experiment": now.id, "expected": 0.99, "patches": ["mar8-0001"]}
    return history_of([*first, *later], heads=[event]).group


def sides(
    tried: Sequence[float], verdicts: tuple[Verdict | None, Verdict | None] = (MEASURED, MEASURED)
) -> list[ExperimentRecord]:
    """A confirmation of the idea at its first commit, with a baseline of 1.0 to 1.001."""
    commits = [make_experiment(number).commit for number in (1, 0)]
    scores = (tried, (1.0, 1.001, 1.0005))
    return [ran(3 + at, *scores[at], seeds=50, kind="confirm", commit=commits[at], verdict=verdicts[at]) for at in range(2)]


@pytest.mark.parametrize("head", [1, 2])
def test_a_confirmation_counts_for_the_program_whatever_commit_it_is(head: int) -> None:
    group = night(*sides((0.991, 0.992, 0.9915)), head=head)
    assert group.head is not None
    found = confirmation_of(group, group.head.commit)
    assert found is not None and found.found.gain == pytest.approx(0.009) and found.seeds == 3
    assert confirmation_of(group, make_experiment(0).commit) is None
    assert refuted_lines(group) == []


@pytest.mark.parametrize("last", [None, abandoned_by_a_person()])
@pytest.mark.parametrize("cut_off", [(0,), (1,), (0, 1)])
def test_a_confirmation_that_was_not_finished_says_nothing(last: Verdict | None, cut_off: tuple[int, ...]) -> None:
    """Of one under way, too, the seeds so far are not quoted: who stops at a good moment would select."""
    first, second = (last if at in cut_off else MEASURED for at in range(2))
    group = night(*sides((0.991, 0.992, 0.9915), (first, second)), head=1)
    assert group.head is not None and confirmation_of(group, group.head.commit) is None


@pytest.mark.parametrize(("tried", "words"), [((1.0, 1.001, 1.0004), "no gain"), ((1.2, 1.201, 1.202), "a loss")])
def test_status_mentions_a_head_that_fresh_seeds_refute(tried: tuple[float, ...], words: str) -> None:
    [line] = refuted_lines(night(*sides(tried), head=2))
    assert line.startswith("not confirmed") and words in line and "3 fresh seeds" in line
    assert refuted_lines(night(head=2)) == []
