"""What a verdict says: the estimate that decides and the raw score are told apart, and neither seems to contradict it."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from research.result import RunResult
from results import policy
from results.expected_gain import expected_gain
from results.experiment import Experiment, Verdict
from results.group_entries import Entry, Joined, Ran, Ruled
from results.group_state import GroupState, begin, replay
from results.group_verdicts import flips, idea_verdict, measurement_verdict
from results.overfitting import ON_VALIDATION_ALONE
from results.policy_state import Change
from tests.results.result_samples import make_branch, make_experiment, make_run

IDEA = "mar8-0001"
FACTS = re.compile(
    r"P\(helps\) (?P<helps>\S+) (?P<sign>>=|<) (?P<least>\S+?),? .*effect by all runs (?P<effect>\S+) \[.*"
    r"raw score (?P<score>\S+) is (?P<away>\S+) (?P<side>below|above) the (?P<expected>\S+) expected"
)


def told(score: float, *more: Entry, baselines: Sequence[float] = (1.0, 1.0), seed: int = 0) -> tuple[GroupState, Verdict]:
    """The state after an idea's run under a seed, and the verdict; the baseline ran under the first seeds."""
    baseline = make_experiment(0, structure="s", diff="")
    idea = make_experiment(1, structure="s", slots=("DEPTH",), patches=(IDEA,), price=0.00001)
    run = make_run("r", score, seed=seed, peak_memory_mb=None)
    ran: list[tuple[Experiment, RunResult]] = [
        *((baseline, make_run(f"b{at}", one, seed=at, peak_memory_mb=None)) for at, one in enumerate(baselines)),
        (idea, run),
    ]
    entries = [Joined(branch=make_branch()), *(Ran(experiment=one, run=its) for one, its in ran), *more]
    state = replay(begin(make_branch()), entries)
    return state, idea_verdict(state, idea, [run])


@pytest.mark.parametrize(
    ("score", "seed", "decision", "sign", "side"),
    [
        (0.9998, 0, "discard", "<", "below"),  # it scored better, and is not believed
        (0.98, 0, "keep", ">=", "below"),
        (1.0012, 1, "keep", ">=", "below"),  # worse than the baseline's mean, under a seed that is
        (1.1, 0, "discard", "<", "above"),
    ],
)
def test_what_decides_and_the_raw_score_are_told_apart(score: float, seed: int, decision: str, sign: str, side: str) -> None:
    _, verdict = told(score, seed=seed, baselines=(1.0, 1.0018) if seed else (1.0, 1.0))
    found = FACTS.search(verdict.reason)
    assert found is not None, verdict.reason
    assert (verdict.decision, found["sign"], found["least"], found["side"]) == (decision, sign, "0.70", side)
    assert (float(found["helps"]) >= 0.7) == (decision == "keep")
    assert verdict.gain is not None and verdict.effect is not None and abs(verdict.effect) < abs(verdict.gain)
    assert float(found["expected"]) - float(found["score"]) == pytest.approx(verdict.gain, abs=1e-4)


def test_what_is_expected_of_a_head_is_what_is_told_of_it_elsewhere() -> None:
    """The effect of a single idea has the mixture's shape, and so another mean than the sum that predicts runs."""
    again = make_experiment(2, kind="control", commit=make_experiment(1).commit, patches=(IDEA,))
    runs = [make_run(f"c{at}", score, seed=50 + at, peak_memory_mb=None) for at, score in enumerate((0.9951, 0.9939))]
    state, _ = told(0.9972, *(Ran(experiment=again, run=run) for run in runs), baselines=(0.9961, 1.001))
    gain = expected_gain(state, again.commit)
    assert gain is not None and abs(gain.head - policy.expected_score(state.farm, frozenset({IDEA}))[0]) > 1e-4
    verdict = measurement_verdict(state, again, runs)
    assert verdict.gain == pytest.approx(gain.head - 0.9945) and f"all runs expect {gain.head:.4f}" in verdict.reason


def test_an_idea_that_is_kept_for_a_planned_merge_is_not_said_to_be_likely_enough() -> None:
    """A wave plans a merge of all that is expected to gain; the lower bar is for what is in the head."""
    state, verdict = told(0.9998)
    assert verdict.decision == "discard" and verdict.helps is not None and 0.5 < verdict.helps < 0.7
    state = replace(state, farm=replace(state.farm, plan=((Change(add=frozenset({IDEA})),),)))
    [(_, kept)] = flips(state, {IDEA: "discard"})
    assert kept.decision == "keep" and "< 0.70, but" in kept.reason and "merge" in kept.reason and ">=" not in kept.reason


def test_what_keeps_a_likely_idea_out_is_said() -> None:
    state, verdict = told(0.98, Ruled(ruling="bar", patches=(IDEA,), reason="a person dropped it"))
    assert verdict.decision == "discard" and "0.70, but a person dropped it" in verdict.reason
    [(idea, flipped)] = flips(state, {IDEA: "keep"})
    assert idea == IDEA and flipped.reason.startswith("dropped: P(helps)") and "a person dropped it" in flipped.reason


def test_a_gain_is_doubted_only_where_there_is_one() -> None:
    """An idea that lost is discarded for that, whatever the audit rows say of it."""
    doubt = Ruled(ruling="bar", patches=(IDEA,), reason=ON_VALIDATION_ALONE)
    _, lost = told(1.1, doubt)
    assert "P(helps) 0.00 < 0.70 decides" in lost.reason and ON_VALIDATION_ALONE not in lost.reason
    _, gained = told(0.98, doubt)
    assert f"0.70, but {ON_VALIDATION_ALONE}" in gained.reason
