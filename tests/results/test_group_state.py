"""What stored runs mean to the policy: which ideas are in a train.py, under which seed, at which price."""

import math
from dataclasses import replace
from typing import Any

import pytest

from research.profiles import profile_named
from results import policy
from results.experiment import Experiment
from results.group_entries import Joined, Ran, Ruled
from results.group_state import (
    MEMORY_PRICE,
    GroupState,
    advance,
    begin,
    common_seed,
    estimate_of,
    estimates,
    replay,
    time_price,
)
from results.machine_shares import USUAL_OF, usual_spread
from tests.results.result_samples import make_branch, make_experiment, make_run

SIGMA = 0.0007


def started(*, loops: int = 2, baseline: float = 1.0) -> GroupState:
    """A group whose baseline has run twice."""
    branches = [Joined(branch=make_branch(f"autoresearch/mar8-gpu{number}")) for number in range(loops)]
    state = replay(begin(make_branch()), branches)
    first = make_experiment(0, commit="base", program="p0", diff="")
    return replay(state, [Ran(experiment=first, run=make_run(f"b{run}", baseline)) for run in range(2)])


def idea(number: int, on: str = "base", *, edit: str | None = None, **changes: Any) -> Experiment:
    text = f"-X{number} = 0\n+X{number} = 1\n" if edit is None else edit
    return make_experiment(number, commit=f"c{number}", parent_commit=on, program=f"p{number}-{on}", diff=text, **changes)


def ran(state: GroupState, experiment: Experiment, score: float | None, **changes: Any) -> GroupState:
    return advance(state, Ran(experiment=experiment, run=make_run(f"{experiment.id}-r", score, **changes)))


def test_each_branch_is_a_loop_and_its_runs_make_the_state() -> None:
    state = started(loops=3)
    assert state.farm.devices == 3 and state.farm.baselines == 2
    state = ran(state, idea(1), 0.99)
    assert state.farm.head == {"mar8-0001"} and state.patches_at["c1"] == {"mar8-0001"}
    found = estimate_of(state, "mar8-0001")
    assert found is not None and found.in_head and found.low < found.effect < found.high and estimates(state) == (found,)


def test_lost_runs_and_confirmations_say_nothing() -> None:
    state = started()
    assert ran(state, idea(1), None, status="lost").farm is state.farm
    assert ran(state, idea(1, kind="confirm"), 0.9).farm is state.farm


def test_the_same_edit_on_another_head_is_the_same_idea() -> None:
    state = ran(ran(started(), idea(1), 0.9999), idea(2), 0.98)
    assert state.farm.head == {"mar8-0002"}
    again = ran(state, idea(3, on="c2", edit="-X1 = 0\n+X1 = 1\n"), 0.979)
    assert again.patches_at["c3"] == {"mar8-0002", "mar8-0001"} and "mar8-0003" not in again.ideas
    assert len(again.farm.posterior.observations) == len(state.farm.posterior.observations) + 1
    merge = make_experiment(
        4, kind="merge", commit="c4", parent_commit="c2", patches=("mar8-0002", "mar8-0001"), program="p3-c2"
    )
    assert ran(again, merge, 0.979).patches_at["c4"] == again.patches_at["c3"]


def test_a_program_that_ran_is_another_observation_of_it() -> None:
    state = ran(started(), idea(1), 0.99)
    again = ran(state, replace(idea(2), program="p1-base", commit="other"), 0.991)
    assert again.patches_at["other"] == {"mar8-0001"} and list(again.ideas) == ["mar8-0001"]
    nothing = ran(state, replace(idea(3), program="p0", commit="same"), 1.0)
    assert nothing.patches_at["same"] == frozenset() and list(nothing.ideas) == ["mar8-0001"]


def test_an_idea_builds_on_what_shares_its_slots() -> None:
    state = ran(started(), idea(1, slots=("LR",)), 0.99)
    state = ran(state, idea(2, on="c1", slots=("LR", "norm"), edit="-X = 1\n+X = 2\n"), 0.98)
    assert state.ideas["mar8-0002"].needs == {"mar8-0001"} and state.farm.head == {"mar8-0001", "mar8-0002"}


def test_lines_and_memory_have_a_price_and_simpler_code_may_lose_a_little() -> None:
    def price(**changes: Any) -> float:
        peak = changes.pop("peak", 45_000.0)
        return ran(started(), idea(1, **changes), 0.99, peak_memory_mb=peak).ideas["mar8-0001"].price

    assert price(price=0.001) == pytest.approx(0.001)
    assert price(price=0.001, peak=90_000.0) == pytest.approx(0.001 + MEMORY_PRICE)
    assert price(price=-0.1) == pytest.approx(-SIGMA / 2), "however many lines go"
    assert price(peak=20_000.0) == 0.0


def test_computing_more_outside_the_clock_costs_what_as_much_training_would_gain() -> None:
    control = replace(make_experiment(9, kind="control", commit="base", program="p0"), patches=())
    usual = {"startup_seconds": 4.0, "training_seconds": 300.0, "answer_seconds": 10.0}
    before = ran(started(), control, 1.0, **usual)
    slope, budget = profile_named("standard").time_slope, before.budget

    def price(state: GroupState = before, number: int = 1, on: str = "base", **changes: Any) -> float:
        run = ran(state, idea(number, on), 0.99, **{**usual, **changes})
        return run.ideas[f"mar8-000{number}"].price

    cost = slope * math.log1p(30.0 / budget)
    assert price() == price(answer_seconds=16.4) == price(startup_seconds=None, answer_seconds=99.0) == 0.0
    assert price(answer_seconds=46.5) == price(answer_seconds=46.5, startup_seconds=90.0) == pytest.approx(cost)
    assert price(startup_seconds=37.5, device="node-1/cpu") == pytest.approx(cost), "there is little to compile on a CPU"
    assert price(training_seconds=331.5) == pytest.approx(cost)
    assert price(answer_seconds=46.5, undisturbed_answer_seconds=11.0) == 0.0, "others made it wait"
    assert price(answer_seconds=99.0, undisturbed_answer_seconds=46.5) == pytest.approx(cost)
    later = ran(before, idea(1), 0.98, **{**usual, "answer_seconds": 16.4})
    assert price(later, 2, "c1", answer_seconds=24.0) > 0, "what is free does not grow with each step"
    paid = ran(before, idea(1), 0.9, **{**usual, "answer_seconds": 46.5})
    assert price(paid, 2, "c1", answer_seconds=46.5) == 0.0, "what the parent has paid for is paid"


def test_the_price_of_time_is_what_most_of_an_ideas_runs_took_and_a_step_is_free() -> None:
    """On a slow machine the end of training varies by a step."""
    usual = {"startup_seconds": 4.0, "training_seconds": 300.0, "answer_seconds": 10.0}
    control = replace(make_experiment(9, kind="control", commit="base", program="p0"), patches=())
    before = ran(started(), control, 1.0, **usual, reported_steps=60)
    assert ran(before, idea(1), 0.99, **{**usual, "training_seconds": 304.9}).ideas["mar8-0001"].price == 0.0
    slow = {**usual, "answer_seconds": 46.5}
    once = ran(before, idea(1), 0.99, **slow)
    price = once.ideas["mar8-0001"].price
    assert time_price(once, "mar8-0001") == price > 0
    twice = ran(once, idea(1), 0.99, **usual)
    assert time_price(twice, "mar8-0001") == twice.ideas["mar8-0001"].price == 0.0, "others may have slowed the first one"
    often = ran(ran(ran(before, idea(1), 0.99, **usual), idea(1), 0.99, **slow), idea(1), 0.99, **slow)
    assert time_price(often, "mar8-0001") == pytest.approx(price)


def test_a_run_with_less_of_its_machine_than_usual_has_more_time_at_no_price() -> None:
    """Two cores that are one core's threads slow each other down without taking time from each other."""
    usual = {"startup_seconds": 4.0, "training_seconds": 300.0, "answer_seconds": 10.0, "device": "cpu", "cpu_share": 0.9}
    state = ran(started(), replace(make_experiment(9, kind="control", commit="base", program="p0"), patches=()), 1.0, **usual)
    for number in (1, 2, 3, 4):
        state = ran(state, idea(number), 1.0, **usual)

    def price(share: float, seconds: float) -> float:
        return ran(state, idea(5), 0.99, **{**usual, "cpu_share": share, "answer_seconds": seconds}).ideas["mar8-0005"].price

    assert price(0.9, 25.0) > 0 == price(0.5, 25.0)
    assert price(0.5, 60.0) > 0, "and not any time"
    assert price(0.9, 40.0) > 0 == price(0.5, 40.0)
    for number in range(6, 6 + USUAL_OF):
        state = ran(state, idea(number), 1.0, **{**usual, "cpu_share": 0.5})
    assert price(0.5, 40.0) == 0 < price(0.5, 60.0), "although that is the usual share by now: the machine stays busy"


def test_an_older_home_has_the_ideas_of_its_chain_of_keeps() -> None:
    """It recorded neither patches nor programs nor slots."""
    old = [replace(idea(number, on=on), program="") for number, on in ((1, "base"), (2, "c1"), (3, "c2"))]
    state = ran(ran(ran(started(), old[0], 0.99), old[1], 0.98), old[2], 0.975)
    assert state.patches_at["c3"] == {"mar8-0001", "mar8-0002", "mar8-0003"} == state.farm.head


def test_rulings_hold() -> None:
    state = ran(ran(started(), idea(1), 0.99), idea(2, on="c1"), 1.2)
    assert advance(state, Ruled(ruling="bar", patches=("mar8-0001",))).farm.head == frozenset()
    kept = advance(state, Ruled(ruling="pin", patches=("mar8-0002",)))
    assert kept.farm.head == {"mar8-0001", "mar8-0002"} == policy.kept(kept.farm)
    assert advance(state, Ruled(ruling="pin", patches=("unknown",))).farm.head == state.farm.head


def test_a_run_with_an_unusual_share_of_the_machine_is_less_certain() -> None:
    usual = started()
    for number in (1, 2):
        usual = ran(usual, idea(number), 1.0, device="cpu", cpu_share=0.9)

    def helps(share: float) -> float:
        found = estimate_of(ran(usual, idea(3), 0.995, device="cpu", cpu_share=share), "mar8-0003")
        assert found is not None
        return found.helps

    assert helps(0.9) > 0.9 > helps(0.99)


@pytest.mark.parametrize("loop", range(4))
def test_seeds_are_a_few_that_all_loops_share_and_an_experiments_runs_differ(loop: int) -> None:
    every = {common_seed("g", loop, number, 0) for number in range(100)}
    assert 2 <= len({common_seed("g", loop, number, 0) for number in range(8)}) <= len(every) == 8
    for number in (0, 1, 17, 90):
        seeds = [common_seed("g", loop, number, index) for index in range(10)]
        assert len(set(seeds)) == 10
    assert every == {common_seed("g", 7, number, 0) for number in range(8)} and every.isdisjoint({common_seed("h", 0, 0, 0)})


def test_another_structure_draws_something_else_from_a_seed() -> None:
    """A lucky seed of the untouched train.py is no excuse for, and no proof of, an edit of the model."""
    state = started()
    for number in range(1, 7):
        state = ran(state, idea(number, structure="plain"), 1.0, seed=number % 2, num_params=7)
    rows = [term for term in state.farm.posterior.terms if isinstance(term, tuple)]
    assert len(rows) == 2
    state = ran(state, idea(9, structure="other"), 1.0, seed=1, num_params=7)
    assert len([term for term in state.farm.posterior.terms if isinstance(term, tuple)]) == 3


def test_an_edit_that_crashes_elsewhere_stays_what_it_was() -> None:
    """And one that crashed at first has its chance on another head."""
    state = ran(started(), idea(1), 0.99)
    crashed = ran(state, idea(2, on="elsewhere", edit="-X1 = 0\n+X1 = 1\n"), None)
    assert crashed.farm.head == {"mar8-0001"} and "mar8-0001" not in crashed.farm.barred
    state = ran(ran(started(), idea(1), None), idea(2), 0.98)
    again = ran(state, idea(3, on="c2", edit="-X1 = 0\n+X1 = 1\n"), 0.97)
    assert again.farm.head == {"mar8-0002", "mar8-0003"}


def test_how_much_shares_differ_anyway_is_known_after_a_few_runs() -> None:
    state = started()
    spreads = []
    for number, share in enumerate((0.9, 0.91, 0.92, 0.9, 0.905), start=1):
        spreads.append(usual_spread(state.shares))
        state = ran(state, idea(number), 1.0, device="cpu", cpu_share=share)
    assert set(spreads) == {math.inf} and 0 < usual_spread(state.shares) < 0.05
