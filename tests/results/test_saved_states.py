"""Saved states of groups: a start takes them instead of a replay, and only where that gives what a replay would."""

import os
import pickle
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from benchmarks.store import GROUP, branch_named, journal_lines, run_of
from results.code_version import code_version
from results.group_entries import RULING, Entry, Ruled
from results.group_state import GroupState, estimates
from results.groups import Groups, ruling_event
from results.saved_states import CLASSES, FILE
from results.store import Store

RUNS = 110


@pytest.fixture(scope="module")
def long_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose states were saved when it was closed."""
    home = tmp_path_factory.mktemp("saved")
    with (home / "journal.jsonl").open("wb") as journal:
        journal.writelines(journal_lines(RUNS, 2))
    with Store.open(home) as store:
        store.groups.state(GROUP)
    return home


@pytest.fixture
def home(long_home: Path, tmp_path: Path) -> Iterator[Path]:
    for name in ("journal.jsonl", FILE):
        (tmp_path / name).write_bytes((long_home / name).read_bytes())
    yield tmp_path


def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After which position of the journal records are read for each state that is asked for."""
    found: list[int] = []
    read = Groups.entries

    def entries(self: Groups, group: str, after: int = 0) -> list[tuple[int, Entry]]:
        found.append(after)
        return read(self, group, after)

    monkeypatch.setattr("results.groups.Groups.entries", entries)
    return found


def replayed(home: Path) -> GroupState:
    """The state by a replay of all records."""
    (home / FILE).unlink(missing_ok=True)
    with Store.open(home) as store:
        return store.groups.state(GROUP)


def assert_equal(one: GroupState, other: GroupState) -> None:
    assert one.records == other.records and estimates(one) == estimates(other)
    mine, theirs = one.farm.posterior, other.farm.posterior
    assert mine.terms == theirs.terms and mine.observations == theirs.observations and mine.scale == theirs.scale
    assert (mine.mean == theirs.mean).all() and (mine.covariance == theirs.covariance).all()
    assert (one.farm.head, one.farm.plan, list(one.ideas)) == (other.farm.head, other.farm.plan, list(other.ideas))


def test_a_start_goes_on_from_a_saved_state_as_a_replay_would(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = replays(monkeypatch)
    with Store.open(home) as store:
        store.groups.state(GROUP)
        for number in range(12):  # over a refit
            store.add_run(f"bench-{number % 2}-{number + 1:06d}", run_of("again", RUNS + number))
        store.add_event(RULING, ruling_event(GROUP, Ruled(ruling="bar", patches=("bench-0-000001",), reason="a test")))
        went_on = store.groups.state(GROUP)
        assert read and min(read) > RUNS
    assert_equal(went_on, replayed(home))


def test_records_that_were_added_without_asking_for_the_state_are_taken_up(home: Path) -> None:
    with Store.open(home) as store:
        store.add_run("bench-0-000001", run_of("again", RUNS))
    with Store.open(home) as store:
        went_on = store.groups.state(GROUP)
    assert_equal(went_on, replayed(home))


@pytest.mark.parametrize("damage", ["line lost", "cut off", "another version", "garbage", "empty"])
def test_a_state_that_does_not_follow_from_the_journal_is_thrown_away(
    home: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, saved = home / "journal.jsonl", home / FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    if damage == "line lost":
        journal.write_bytes(b"".join(lines[:50] + lines[51:]))
    elif damage == "cut off":
        journal.write_bytes(b"".join(lines[:-9]))
    elif damage == "another version":
        _, states = pickle.loads(saved.read_bytes())
        saved.write_bytes(pickle.dumps(("another", states)))
    else:
        saved.write_bytes(b"" if damage == "empty" else os.urandom(2000))
    read = replays(monkeypatch)
    with Store.open(home) as store:
        found = store.groups.state(GROUP)
    assert read == [0]
    assert_equal(found, replayed(home))


def test_nothing_but_a_state_is_made_from_the_file(home: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(home / "made"),)

    (home / FILE).write_bytes(pickle.dumps(Touch()))
    with Store.open(home) as store:
        assert store.groups.state(GROUP).records > RUNS
    assert not (home / "made").exists()


def test_a_short_history_is_not_saved(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(branch_named(0))
        store.groups.state(GROUP)
    assert not (tmp_path / FILE).exists()


def test_each_class_that_a_state_may_consist_of_is_read() -> None:
    """A class that is missing would not fail: each start would replay."""
    found: set[type] = set()
    waiting: list[object] = [GroupState]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if isinstance(kind, type) and is_dataclass(kind) and kind not in found:
            found.add(kind)
            waiting += get_type_hints(kind).values()
    assert found <= set(CLASSES)


def test_what_code_saves_that_was_changed_since_its_import_is_used_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = code_version.__wrapped__
    assert compute() == compute()
    monkeypatch.setattr("results.code_version.IMPORTED_NS", 0)
    assert compute() != compute()
