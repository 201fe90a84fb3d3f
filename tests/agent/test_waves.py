"""Waves as records of the store: only one of which every run can be made is begun."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.waves import Waves
from results import policy, waves
from results.experiment import Head
from results.policy_state import FarmState, Work
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.test_policy import tried
from tests.results.test_waves import with_near_misses

HEAD = Head(commit="c0ffee", experiment_id="mar8-0001", scores=(0.98,), expected=0.98, patches=("head",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(with_tables(tmp_path)) as store:
        yield store


def begun(store: Store, state: FarmState, misfit: Callable[[Head, Work], str | None]) -> list[list[str]]:
    """The ideas in each run of the wave that begins; empty if none does."""
    assert Waves(store, "group").start(state, HEAD, misfit=misfit) == bool(store.events("wave", "group"))
    return [run["inside"] for wave in store.events("wave", "group") for run in wave["runs"]]


def test_an_idea_that_does_not_fit_beside_the_others_is_in_no_run(store: Store) -> None:
    state, names = with_near_misses(8)
    inside = begun(store, state, lambda _, work: names[0] if {names[0], names[3]} <= work.patches else None)
    assert {name for run in inside for name in run} == set(names[1:])


def test_an_idea_whose_rival_cannot_be_taken_out_of_the_head_is_in_no_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, names = with_near_misses(4)
    state = tried(state, "rival", 0.9799, slot="in-the-head")
    monkeypatch.setattr(policy, "near_misses", lambda state: (*names, "rival"))
    assert "rival" in waves.members(state, policy.near_misses(state))
    inside = begun(store, state, lambda _, work: "head" if work.left_out else None)
    assert {name for run in inside for name in run} == set(names)


def test_no_wave_begins_that_has_too_few_members_or_ran_before(store: Store) -> None:
    few, _ = with_near_misses(2)
    assert begun(store, few, lambda *_: None) == []
    state, names = with_near_misses(5)
    assert begun(store, state, lambda _, work: min(work.patches - {"head"}, default=None)) == [], "nothing fits"
    begun(store, state, lambda *_: None)
    assert Waves(store, "group").start(state, HEAD, misfit=lambda *_: None), "one is under way"
    assert len(store.events("wave", "group")) == 1
    store.add_event("ruling", {"branch": "group", "group": "group", "ruling": "wave", "patches": list(names)})
    assert not Waves(store, "group").start(state, HEAD, misfit=lambda *_: None), "the same on the same head"
    assert Waves(store, "group").start(state, replace(HEAD, commit="beef"), misfit=lambda *_: None)
