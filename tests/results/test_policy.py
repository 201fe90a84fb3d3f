"""Which ideas are in the head, and which run comes next: the promises of the policy, on runs made by hand."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from results import policy
from results.effect_estimate import effect
from results.observations import NoiseModel
from results.policy_state import Change, FarmState, Finished, Patch, Rules, RunKind

SIGMA = 0.001


def run(kind: RunKind, score: float | None, *patches: str) -> Finished:
    return Finished(kind=kind, score=score, patches=frozenset(patches))


def tried(state: FarmState, name: str, score: float | None, *, slot: str | None = None, price: float = 0.0) -> FarmState:
    """The state after an exploration of a new idea on the head."""
    idea = Patch(name=name, slots=frozenset({slot or name}), price=price)
    work = policy.explored(state, idea)
    run = Finished(kind="explore", score=score, patches=work.patches, left_out=work.left_out, idea=idea)
    return policy.observe(state, run)


def tried_on(before: FarmState, state: FarmState, name: str, score: float | None, *, slot: str | None = None) -> FarmState:
    """The state after an exploration that began on an earlier head, as another loop's does that was under way meanwhile."""
    idea = Patch(name=name, slots=frozenset({slot or name}))
    work = policy.explored(before, idea)
    return policy.observe(state, replace(run("explore", score, *work.patches), left_out=work.left_out, idea=idea))


def stacked(**scores: float) -> FarmState:
    """The state after ideas that were all tried on the untouched train.py: the first is in the head, a merge is planned."""
    state = before = started()
    for name, score in scores.items():
        state = tried_on(before, state, name, score)
    return state


def started(*, devices: int = 4, scores: Iterable[float] = (1.0, 1.0)) -> FarmState:
    state = policy.begin(NoiseModel(sigma=SIGMA, refit_every=1000), devices=devices)
    return policy.replay(state, [run("baseline", score) for score in scores])


def merged(state: FarmState, score: float | None = None) -> FarmState:
    """The state after the planned merge, whose score is as its parts promise if none is given."""
    mean, _, _ = policy.head_gain(replace(state, head=state.planned))
    return policy.observe(state, run("merge", 1.0 - mean if score is None else score, *state.planned))


def kind_of(state: FarmState, under_way: Iterable[RunKind] = ()) -> str | None:
    work = policy.next_work(state, list(under_way))
    return work.kind if work else None


def test_a_score_that_nobody_has_confirmed_makes_no_head() -> None:
    """It is kept by the estimate, so that a merge, which is checked in full, verifies it."""
    before = started()
    idea = Patch(name="idea")
    work = policy.explored(before, idea)
    finished = Finished(kind="explore", score=0.98, patches=work.patches, idea=idea, checked=False)
    state = policy.observe(before, finished)
    assert state.head == frozenset() and policy.kept(state) == {"idea"} and kind_of(state) == "merge"
    assert merged(state).head == {"idea"}
    assert policy.observe(before, replace(finished, checked=True)).head == {"idea"}


def test_the_order_is_baselines_then_merge_then_control_then_explore() -> None:
    empty = policy.begin(NoiseModel(sigma=SIGMA), devices=4)
    assert kind_of(empty) == kind_of(empty, ["baseline"]) == "baseline" and kind_of(empty, ["baseline"] * 2) is None
    state = started()
    assert kind_of(state) is None
    late = replace(state, runs=40)
    assert kind_of(late) == "control" and kind_of(late, ["control"]) is None
    passing = replace(stacked(a=0.99, b=0.98), runs=40)
    assert kind_of(passing) == "merge" and kind_of(passing, ["merge"]) == "control"


def test_a_clear_gain_is_in_the_head_of_all_at_once() -> None:
    state = tried(started(), "a", 0.99)
    assert state.head == {"a"} and not state.plan
    assert policy.explored(state, Patch(name="b")).patches == {"a", "b"}


def again(state: FarmState, head: frozenset[str], name: str, score: float, *, checked: bool = True) -> FarmState:
    """The state after one more run of an idea that was tried on a head."""
    finished = replace(run("explore", score, *head, name), idea=Patch(name=name, slots=frozenset({name})), checked=checked)
    return policy.observe(state, finished)


def test_an_idea_whose_second_run_takes_back_its_first_is_not_in_the_head() -> None:
    """Without a merge, whether that run was checked or not: the head before it was verified. A good second run leaves it in."""
    before = tried(started(devices=1), "first", 0.96)
    state = tried(before, "idea", 0.958)
    assert state.head == {"first", "idea"}
    for checked in (True, False):
        back = again(state, before.head, "idea", 0.963, checked=checked)
        assert back.head == {"first"} == policy.kept(back) and not back.plan
    assert again(state, before.head, "idea", 0.957).head == {"first", "idea"}


def test_a_gain_on_an_earlier_head_is_merged_with_what_came_in_meanwhile() -> None:
    state = stacked(a=0.99, b=0.98)
    assert state.head == {"a"} and state.planned == {"a", "b"}
    state = merged(state)
    assert state.head == {"a", "b"} and not state.plan


def test_the_head_rises_by_less_than_the_score_that_was_selected() -> None:
    state = tried(started(), "a", 0.997)
    mean, low, high = policy.head_gain(state)
    assert low < mean < 0.003 and mean > 0.0005 and high > 0.003


def test_a_small_gain_is_a_near_miss_and_a_loss_is_forgotten() -> None:
    state = tried(tried(started(), "small", 0.9995), "bad", 1.01)
    assert policy.near_misses(state) == ("small",) and not state.plan
    assert "bad" not in state.patches and state.posterior.knows("bad")


def test_a_keep_must_gain_more_than_its_price() -> None:
    assert tried(started(), "a", 0.996).head
    assert not tried(started(), "a", 0.996, price=0.004).head


def test_simpler_code_may_lose_a_little() -> None:
    assert tried(started(), "a", 1.0, price=-0.001).head


def test_a_crash_is_not_tried_in_the_head() -> None:
    state = tried(started(), "a", None)
    assert "a" in state.barred and not state.patches and not state.plan


def test_the_larger_of_two_rivals_comes_in_and_the_other_only_if_it_is_better() -> None:
    before = started()
    state = tried_on(before, tried_on(before, before, "a", 0.996, slot="LR"), "b", 0.990, slot="LR")
    assert state.head == {"b"} and not state.plan
    assert tried(state, "c", 0.9901, slot="LR").head == {"b"}, "as good as the rival is no gain"


def test_an_idea_that_builds_on_another_is_no_rival_and_keeps_it_in() -> None:
    state = tried(started(), "a", 0.99, slot="LR")
    onto = Patch(name="b", slots=frozenset({"LR"}), needs=frozenset({"a"}))
    assert policy.explored(state, onto).left_out == frozenset()
    state = policy.observe(state, replace(run("explore", 0.98, "a", "b"), idea=onto))
    assert state.head == {"a", "b"}
    for _ in range(14):
        state = policy.observe(state, run("control", 1.001, "a"))
    assert "a" in state.head, "it can't leave before what is built on it"


def test_several_passed_ideas_are_stacked_in_one_merge_largest_first() -> None:
    before = tried(started(), "first", 0.99)
    state = tried(before, "a", 0.985)
    planned = tried_on(before, state, "b", 0.98)
    state = tried_on(before, tried_on(before, planned, "c", 0.981), "d", 0.979)
    assert [sorted(change.add) for change in state.plan[0]] == [["b"]]
    assert [sorted(change.add) for change in merged(state).plan[0]] == [["d"], ["c"]]


def test_a_merge_that_fails_is_taken_apart_until_the_culprit_is_found() -> None:
    state = merged(stacked(first=0.99, other=0.98, a=0.98, b=0.98, c=0.98, d=0.98))
    culprit, merges = "c", 0
    while state.plan and merges < 20:
        merges += 1
        state = merged(state, None if culprit not in state.planned else 1.0)
    assert culprit in state.barred and state.head == {"first", "other", "a", "b", "d"}
    assert merges <= 8, "those that are far from what they promised run twice"


def test_a_merge_far_from_what_it_promised_runs_once_more_before_it_is_taken_apart() -> None:
    """The estimate takes most of such a run for a fault."""
    state = stacked(a=0.99, b=0.98)
    once = merged(state, 0.99)
    assert once.doubted == once.planned == {"a", "b"} and once.head == {"a"} and kind_of(once) == "merge"
    assert merged(once).head == {"a", "b"} and not merged(once).barred
    twice = merged(once, 0.99)
    assert twice.head == {"a"} and "b" in twice.barred and not twice.plan
    mean, sd = policy.expected_score(state, state.planned)
    near = merged(state, mean + 5 * sd)
    assert "b" in near.barred, "what is no more than a failure is one at once"


def test_a_merge_that_failed_is_no_head_whatever_is_planned_by_then() -> None:
    state = replace(stacked(a=0.99, b=0.98), plan=(), devices=1)
    failed = policy.observe(policy.observe(state, run("merge", 1.0, "a", "b")), run("merge", 1.0, "a", "b"))
    assert failed.head == {"a"} and "b" in failed.barred


def test_what_a_person_or_a_misfit_rules_holds_whatever_the_scores_say() -> None:
    state = policy.barred(stacked(a=0.99, b=0.98), "a")
    assert state.head == frozenset() and state.planned == {"b"}
    state = tried(started(), "bad", 1.05)
    assert "bad" not in state.patches
    state = policy.pinned(state, Patch(name="bad", slots=frozenset({"bad"})))
    assert state.head == {"bad"} and tried(state, "a", 1.03).head == {"bad", "a"}
    assert policy.barred(state, "bad").head == frozenset()


def test_the_greedy_rule_goes_by_the_heads_own_score() -> None:
    state = policy.begin(NoiseModel(sigma=SIGMA), devices=1, rules=Rules(greedy=True))
    state = policy.replay(state, [run("baseline", 1.0), run("baseline", 0.998)])
    assert tried(state, "lucky", 0.9989).head == {"lucky"} and tried(state, "same", 0.999).head == frozenset()
    state = tried(tried(state, "lucky", 0.9989), "other", 0.9988, price=1.0)
    assert state.head == {"lucky", "other"} and not state.plan and kind_of(state) is None


def test_a_merge_that_crashes_is_no_head() -> None:
    state = policy.observe(stacked(a=0.99, b=0.98), run("merge", None, "a", "b"))
    assert state.head == {"a"} and "b" in state.barred and not state.plan


def test_what_does_not_help_any_more_is_dropped() -> None:
    state = tried(started(), "a", 0.9965)
    for _ in range(12):
        state = policy.observe(state, run("control", 1.001, "a"))
    dropped = Change(remove=frozenset({"a"}))
    assert any(dropped in group for group in state.plan) or state.head == frozenset()


def test_what_can_not_be_dropped_stays_and_is_not_asked_for_again() -> None:
    state = tried(started(), "a", 0.9965)
    while not state.plan:
        state = policy.observe(state, run("control", 1.001, "a"))
    state = policy.observe(state, run("merge", None))
    assert state.head == {"a"} and "a" in state.pinned and not state.plan


def test_at_most_so_many_candidates_are_remembered() -> None:
    state = policy.begin(NoiseModel(sigma=SIGMA), devices=4, rules=Rules(candidates=3))
    state = policy.replay(state, [run("baseline", 1.0), run("baseline", 1.0)])
    for number in range(6):
        state = tried(state, f"idea-{number}", 1.0 - 0.0001 * number)
    assert set(state.candidates) == {"idea-3", "idea-4", "idea-5"}


def test_runs_that_end_before_the_first_baseline_are_taken_up_after_it() -> None:
    empty = policy.begin(NoiseModel(sigma=SIGMA), devices=4)
    early = tried(empty, "a", 0.99)
    assert not early.patches and early.runs == 1
    after = policy.observe(early, run("baseline", 1.0))
    assert after.planned == {"a"} and after.runs == 2


@pytest.mark.parametrize("seed", range(4))
def test_the_state_is_a_function_of_the_finished_runs(seed: int) -> None:
    """Whatever runs come, the replay decides the same; rivals are never together; the head is made of what is remembered."""
    rng = np.random.default_rng(seed)
    state = begun = policy.begin(NoiseModel(sigma=SIGMA, refit_every=20), devices=4)
    runs: list[Finished] = []
    for number in range(120):
        work = policy.next_work(state, [])
        if work is not None:
            score = None if rng.random() < 0.05 else 1.0 + 0.003 * rng.standard_normal()
            runs.append(Finished(kind=work.kind, score=score, patches=work.patches))
        else:
            idea = Patch(name=f"{number}", slots=frozenset({str(rng.integers(8))}))
            score = None if rng.random() < 0.1 else 1.0 + 0.005 * rng.standard_normal()
            work = policy.explored(state, idea)
            runs.append(Finished(kind="explore", score=score, patches=work.patches, left_out=work.left_out, idea=idea))
        state = policy.observe(state, runs[-1])
        slots = [slot for name in state.planned for slot in state.patches[name].slots]
        assert len(slots) == len(set(slots)) and state.head | state.planned <= set(state.patches)
        assert len(state.candidates) <= state.rules.candidates + len(state.planned)
    again = policy.replay(begun, runs)
    assert again.head == state.head and again.plan == state.plan and set(again.patches) == set(state.patches)
    assert policy.head_gain(again) == pytest.approx(policy.head_gain(state))


def test_on_one_device_a_merge_waits_for_two_changes_or_for_the_end() -> None:
    """A run costs an idea there."""
    state = tried(tried(started(devices=1), "a", 0.99), "b", 0.986)
    assert state.head == {"a", "b"}, "what has just run needs no merge"
    for score in (0.9915, 0.9905) * 3:
        state = policy.observe(state, run("control", score, "a", "b"))
    assert kind_of(state) is None and state.head == {"a", "b"}
    assert kind_of(policy.settled(replace(state, devices=2))) == "merge"
    work = policy.last_merge(state)
    assert work is not None and work.patches == {"a"} and work.left_out == {"b"}
    after = policy.observe(state, run("merge", 0.99, *work.patches))
    assert after.head == {"a"} and policy.last_merge(after) is None


def test_the_gain_of_a_head_of_one_idea_is_what_is_said_of_the_idea() -> None:
    state = tried(started(), "a", 0.98)
    found = effect(state.posterior, "a")
    assert state.head == {"a"} and policy.head_gain(state) == (found.mean, found.low, found.high)


def test_a_disturbed_merge_decides_nothing_until_it_has_run_once_more() -> None:
    state = stacked(a=0.99, b=0.98)
    merge = replace(run("merge", 1.5, "a", "b"), disturbed=True, doubt=0.4)
    once = policy.observe(state, merge)
    assert once.head == {"a"} and once.planned == {"a", "b"} and kind_of(once) == "merge"
    again = policy.observe(once, replace(merge, disturbed=False, doubt=0.0))
    assert again.head == {"a"}, "an undisturbed run does"
    assert policy.observe(state, replace(merge, disturbed=False, doubt=0.0)).head == {"a"}


def test_a_merge_is_verified_only_by_runs_that_say_something() -> None:
    """Two that had less of the machine than usual and score much worse postpone it, whichever path it was planned on."""
    alone = replace(stacked(a=0.99, b=0.98), devices=1, plan=())
    for state in (stacked(a=0.99, b=0.98), alone):
        worse = replace(run("merge", 1.46, "a", "b"), disturbed=True, doubt=0.4)
        once = policy.observe(state, worse)
        twice = policy.observe(once, worse)
        assert once.doubted == {"a", "b"} and twice.postponed == {"a", "b"}
        assert once.head == twice.head == {"a"} and kind_of(once) == "merge" and kind_of(twice) is None
        assert policy.last_merge(twice) is None and policy.kept(twice) == {"a", "b"}, "it waits, and is not lost"
        later = replace(twice, runs=twice.merges_from)
        work = policy.last_merge(later)
        assert work is not None and work.patches == {"a", "b"} and kind_of(policy.settled(replace(later, devices=2))) == "merge"
        assert policy.observe(later, run("merge", 0.97, "a", "b")).head == {"a", "b"}
        as_good = replace(worse, score=0.97)
        assert policy.observe(once, as_good).head == {"a", "b"}, "as good as promised, with less of the machine"
        assert policy.observe(once, replace(as_good, share_gain=0.4)).head == {"a"}, "with more of it that says nothing"
        assert "b" in policy.observe(once, replace(worse, score=3.0)).barred, "more than the machine can explain"


def test_a_merge_whose_share_explains_all_runs_again_even_if_it_is_not_known_what_is_usual() -> None:
    once = policy.observe(stacked(a=0.99, b=0.98), replace(run("merge", 1.46, "a", "b"), doubt=0.4))
    assert once.head == {"a"} and once.doubted == {"a", "b"} and kind_of(once) == "merge"
