"""Waves of near-misses: a balanced design, members that can be in one train.py, and a composite of what helps."""

from itertools import combinations

import numpy as np
import pytest

from benchmarks.combining import combined
from results import policy, waves
from results.policy_state import FarmState, Patch
from tests.results.test_policy import merged, run, started, tried


def with_near_misses(count: int) -> tuple[FarmState, tuple[str, ...]]:
    """A state whose head has one patch, and candidates that gained a little."""
    state = merged(tried(started(), "head", 0.98, slot="in-the-head"))
    for number in range(count):
        state = tried(state, f"idea-{number}", 0.9799 - 0.0001 * (number % 3))
    return state, waves.members(state, policy.near_misses(state))


@pytest.mark.parametrize(("members", "runs"), [(11, 12), (7, 8), (5, 8), (3, 4), (1, 4)])
def test_every_member_is_in_half_of_the_runs_and_every_pair_in_a_quarter(members: int, runs: int) -> None:
    state, names = with_near_misses(members)
    assert len(names) == members
    wave = waves.wave(state, names)
    assert len(wave) == runs and all(work.kind == "wave" and "head" in work.patches for work in wave)
    for name in names:
        assert sum(name in work.patches for work in wave) == runs / 2
    for pair in combinations(names, 2):
        assert sum(work.patches.issuperset(pair) for work in wave) == runs / 4


def test_members_are_no_rivals_and_at_most_eleven() -> None:
    state, names = with_near_misses(15)
    assert len(names) == waves.MOST
    state = tried(state, "rival", 0.9799, slot="idea-0")
    assert "rival" not in waves.members(state, ["idea-0", "rival"])
    with pytest.raises(ValueError, match="12"):
        waves.wave(state, [f"idea-{number}" for number in range(12)])


def test_a_rival_in_the_head_is_left_out_where_its_candidate_is_in() -> None:
    state, _ = with_near_misses(3)
    state = tried(state, "rival", 0.9795, slot="in-the-head")
    for work in waves.wave(state, ["idea-0", "rival"]):
        assert ("head" in work.patches) != ("rival" in work.patches)
        assert work.left_out == ({"head"} if "rival" in work.patches else set())


def test_what_a_wave_finds_is_merged() -> None:
    """Three of seven help; scores without noise say which."""
    state, names = with_near_misses(7)
    good = set(names[:3])
    for work in waves.wave(state, names):
        state = policy.observe(
            state, run("wave", 0.98 - sum(0.0015 if n in good else -0.001 for n in work.patches - {"head"}), *work.patches)
        )
        assert not state.plan, "a wave is judged as a whole"
    state = merged(waves.concluded(state, names))
    assert state.head == good | {"head"}


def test_a_wave_of_nothing_plans_no_merge() -> None:
    state, names = with_near_misses(4)
    for work in waves.wave(state, names):
        state = policy.observe(state, run("wave", 0.98 + 0.004 * len(work.patches - {"head"}), *work.patches))
    assert not waves.concluded(state, names).plan


def test_a_wave_finds_more_than_one_after_another() -> None:
    found = combined(12)
    assert found["times"] > 1.1 and found["gains"]["wave"] < found["gains"]["oracle"]


def test_a_patch_without_slots_is_nobodys_rival() -> None:
    state, names = with_near_misses(2)
    assert policy.rivals(state, Patch(name="new"), names) == frozenset() and np.isfinite(policy.head_gain(state)).all()
