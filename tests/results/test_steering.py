"""What people tell a group's loops is on record, and the store and the journal tell the same of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from results.group_history import GroupHistory
from results.history import read_history
from results.report import morning_report
from results.steering import (
    PLATEAU,
    add_suggestion,
    close_suggestion,
    ideas_since_keep,
    is_paused,
    note_policy,
    set_paused,
    suggestions_of,
)
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, make_branch


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(with_tables(tmp_path / "home")) as opened:
        opened.add_branch(make_branch())
        yield opened


def group_of(store: Store) -> GroupHistory:
    (history,) = read_history(store.home / "journal.jsonl")
    return history.group


def test_suggestions_are_numbered_and_closed_once(store: Store) -> None:
    assert [add_suggestion(store, NAME, text).number for text in ("try X", "try Y", "try Z")] == [1, 2, 3]
    assert close_suggestion(store, NAME, 1, experiment="mar8-0001") and close_suggestion(store, NAME, 3)
    assert not close_suggestion(store, NAME, 1)
    known = suggestions_of(store, NAME)
    assert tuple(known) == group_of(store).steering.suggestions
    assert [(one.text, one.is_open) for one in known] == [("try X", False), ("try Y", True), ("try Z", False)]
    assert "mar8-0001" in known[0].outcome and "withdrawn" in known[2].outcome
    assert [one.text for one in group_of(store).steering.open_suggestions] == ["try Y"]
    assert suggestions_of(store, "autoresearch/other") == []


def test_a_pause_lasts_until_it_is_taken_back(store: Store) -> None:
    assert not is_paused(store, NAME) and group_of(store).steering.paused == frozenset()
    set_paused(store, NAME, True)
    home = store.home
    store.close()
    with Store.open(home) as again:
        assert is_paused(again, NAME) and group_of(again).steering.paused == {NAME}
        set_paused(again, NAME, False)
        assert not is_paused(again, NAME) and group_of(again).steering.paused == frozenset()


def test_a_version_of_the_policy_is_recorded_when_it_is_another_one(store: Store) -> None:
    assert [note_policy(store, NAME, digest) for digest in ("a", "a", "b", "b", "a")] == [True, False, True, False, True]
    assert [version.digest for version in group_of(store).steering.policies] == ["a", "b", "a"]
    assert all(version.time.startswith("20") for version in group_of(store).steering.policies)


def test_ideas_are_counted_back_to_the_last_keep() -> None:
    outcomes = [("e", ""), ("d", "crash"), ("c", "lost"), ("b", "discard"), ("a", "keep"), ("z", "discard")]
    assert ideas_since_keep(outcomes) == (2, "a")
    assert ideas_since_keep(outcomes[:4]) == (2, "")


def test_a_plateau_without_any_idea_is_none(store: Store) -> None:
    assert group_of(store).plateau == 0
    store.add_event(PLATEAU, {"branch": NAME, "ideas": 20, "after": "mar8-0001"})
    assert group_of(store).plateau == 0, "of another keep than the last"


def test_the_report_says_when_the_policy_changed(store: Store) -> None:
    note_policy(store, NAME, "aaaa")
    assert "program.md" not in morning_report(read_history(store.home / "journal.jsonl"))
    note_policy(store, NAME, "bbbb")
    told = morning_report(read_history(store.home / "journal.jsonl"))
    assert "program.md changed 1 time" in told and "bbbb" in told and "aaaa" not in told
