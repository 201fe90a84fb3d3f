"""Runs that had unequal shares of the machine: none makes an idea certain, none is charged with what it lacked."""

from dataclasses import replace

import pytest

from research.profiles import PROFILES
from research.result import RunResult
from results import policy
from results.experiment import Branch
from results.group_entries import Joined, Ran
from results.group_state import GroupState, advance, begin, estimate_of, replay
from results.group_verdicts import idea_verdict, measurement_verdict
from results.repetition import repetition
from tests.results.result_samples import make_branch, make_experiment, make_run
from tests.results.test_group_state import idea


def on_cpu() -> Branch:
    return replace(make_branch(), profile="cpu", contract_json=PROFILES["cpu"].contract.to_json())


def measured(name: str, score: float, share: float, **changes: float) -> RunResult:
    return make_run(name, score, device="node-1/cpu", cpu_share=share, **changes)


def baseline(*shares: float) -> GroupState:
    """A baseline with a run for each share of the machine, whose scores don't say what that was worth."""
    first = make_experiment(0, commit="base", program="p0", diff="")
    runs = [Ran(experiment=first, run=measured(f"b{number}", 2.0, share)) for number, share in enumerate(shares)]
    return replay(begin(on_cpu()), [Joined(branch=on_cpu()), *runs])


def tried(state: GroupState, number: int, score: float, share: float, **changes: float) -> GroupState:
    run = measured(f"r{number}-{len(state.farm.posterior.observations)}", score, share, **changes)
    return advance(state, Ran(experiment=idea(number), run=run))


def helps(state: GroupState, number: int) -> float:
    found = estimate_of(state, f"mar8-000{number}")
    assert found is not None
    return found.helps


@pytest.mark.parametrize("shares", [(0.38,), (0.38, 0.38)])
def test_a_baseline_on_a_busy_machine_makes_no_idea_certain(shares: tuple[float, ...]) -> None:
    """0.17 bpb is what 58% more of a CPU is worth, and nine sigmas."""
    state = tried(baseline(*shares), 1, 1.83, 0.6)
    assert helps(state, 1) < 0.7 < helps(tried(baseline(*shares), 1, 1.83, 0.38), 1)
    run = measured("r1-1", 1.83, 0.6)
    why = repetition(tried_as(baseline(*shares), run), idea(1), run)
    assert why is not None and "37% less of the machine" in why.share
    for number in (2, 3, 4):  # as good with as much of the machine: it was the machine
        state = tried(state, number, 1.83, 0.6)
    assert all(helps(state, number) < 0.7 for number in range(1, 5)) and state.farm.head == frozenset()
    assert tried(state, 5, 1.7, 0.6).farm.head == {"mar8-0005"}, "beside its equals an idea is measured as ever"


def tried_as(state: GroupState, run: RunResult) -> GroupState:
    return advance(state, Ran(experiment=idea(1), run=run))


def test_ideas_beside_a_baseline_on_a_quieter_machine_are_not_out_for_certain() -> None:
    run = measured("r1-1", 2.19, 0.26)
    state = tried_as(baseline(0.49, 0.49), run)
    assert helps(state, 1) > 0.05 and helps(tried(baseline(0.49, 0.49), 1, 2.19, 0.49), 1) < 0.01
    why = repetition(state, idea(1), run)
    assert why is not None and "47% less of the machine" in why.share
    verdict = idea_verdict(state, idea(1), [run])
    assert verdict.decision == "discard" and "47% less of the machine" in verdict.reason
    state = tried(tried(state, 2, 2.2, 0.26), 3, 2.21, 0.26)
    assert tried(state, 4, 2.05, 0.26).farm.head == {"mar8-0004"}, "and what is better than its equals is found"


def test_a_gain_well_beyond_what_the_machine_is_worth_is_kept_at_once() -> None:
    state = tried(baseline(0.49), 1, 1.2, 0.9)
    assert helps(state, 1) > 0.99 and state.farm.head == {"mar8-0001"}
    assert repetition(state, idea(1), measured("r1-1", 1.2, 0.9)) is None


def test_a_control_is_compared_with_what_is_expected_of_it_with_its_share() -> None:
    state = baseline(0.9, 0.9)
    for number, share in ((1, 0.9), (2, 0.45), (3, 0.45)):
        state = tried(state, number, 2.0 if share == 0.9 else 2.22, share)
    control = replace(make_experiment(9, kind="control", commit="base", program="p0"), patches=())
    run = measured("c", 2.22, 0.45)
    state = advance(state, Ran(experiment=control, run=run))
    verdict = measurement_verdict(state, control, [run])
    assert verdict.gain is not None and abs(verdict.gain) < 0.02 and "50% less of the machine" in verdict.reason


def test_where_shares_are_equal_nothing_is_different_from_where_they_are_not_known() -> None:
    def effects(share: float | None) -> list[float]:
        state = baseline(*([share] * 2)) if share else baseline(0.0, 0.0)
        for number in range(1, 6):
            state = tried(state, number, 2.0 - 0.01 * number, share or 0.0, seed=number % 2)
        return [estimate_of(state, f"mar8-000{number}").effect for number in range(1, 6)]  # type: ignore[union-attr]

    assert effects(0.5) == effects(None)


def test_time_outside_the_clock_costs_only_what_the_untouched_train_py_never_took_with_as_much_of_the_machine() -> None:
    usual = {"startup_seconds": 4.0, "training_seconds": 15.0, "answer_seconds": 2.0}
    first = make_experiment(0, commit="base", program="p0", diff="")
    state = replay(begin(on_cpu()), [Joined(branch=on_cpu()), Ran(experiment=first, run=measured("b0", 2.0, 0.8, **usual))])

    def price(at: GroupState, share: float = 0.8, **changes: float) -> float:
        return tried(at, 1, 1.9, share, **{**usual, **changes}).ideas["mar8-0001"].price

    slow = {"startup_seconds": 14.0}
    assert price(state, **slow) > 0.1 > 0.0 == price(state, 0.3, **slow), "with less than half of the machine"
    control = replace(make_experiment(9, kind="control", commit="base", program="p0"), patches=())
    seen = advance(state, Ran(experiment=control, run=measured("b1", 2.0, 0.8, **{**usual, **slow})))
    assert price(seen, **slow) == 0.0, "an untouched train.py takes as long at times"
    ideas = tried(state, 2, 2.0, 0.8, **{**usual, **slow})
    assert price(ideas, **slow) > 0.1, "and what an idea takes makes nothing free"


def test_an_idea_that_only_the_price_of_time_keeps_out_is_tried_once_more() -> None:
    usual = {"startup_seconds": 4.0, "training_seconds": 15.0, "answer_seconds": 2.0}
    first = make_experiment(0, commit="base", program="p0", diff="")
    state = replay(begin(on_cpu()), [Joined(branch=on_cpu()), Ran(experiment=first, run=measured("b0", 2.0, 0.8, **usual))])
    run = measured("r1-1", 1.9, 0.8, **{**usual, "startup_seconds": 14.0})
    once = tried_as(state, run)
    why = repetition(once, idea(1), run)
    assert why is not None and why.time_price > 0.1 and policy.kept(once.farm) == frozenset()
    assert tried(once, 1, 1.9, 0.8, **usual).farm.head == {"mar8-0001"}, "the other run took no longer than usual"
    assert repetition(tried(state, 1, 2.1, 0.8, startup_seconds=14.0), idea(1), run) is None, "it is worse anyway"
    quick, slow = (tried(state, 1, 1.97, 0.8, **{**usual, "startup_seconds": seconds}) for seconds in (4.0, 14.0))
    near, out = (estimate_of(state, "mar8-0001") for state in (quick, slow))
    assert near is not None and out is not None and near.is_near_miss and not out.is_near_miss
    assert repetition(slow, idea(1), run) is not None and repetition(quick, idea(1), run) is None, "nor are near-misses lost"
