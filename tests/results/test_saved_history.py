"""A history by saved outlines is the one that a decode of the whole journal gives; what is damaged or stale is noticed."""

import os
import shutil
from pathlib import Path

import pytest

from cluster.person_requests import dropped_from_head
from cluster.status_text import standing, standing_lines
from research.errors import UserError
from results import journal_index, told
from results.group_entries import RULING, Ruled
from results.groups import ruling_event
from results.history import BranchHistory, HistoryFollower, experiment_named, read_history
from results.journal import JournalReader, read_journal
from results.report import morning_report
from results.store import Store
from tests.results.result_samples import add, make_branch, make_experiment, make_run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two branches that share a head: kept, dropped, lost, confirmed and running experiments, and a ruling."""
    with Store.open(tmp_path) as store:
        fill(store)
    return tmp_path


def fill(store: Store) -> None:
    other = "autoresearch/mar8-b"
    store.add_branch(make_branch())
    store.add_branch(make_branch(other, tag="mar8", loop=1, group="autoresearch/mar8"))
    for number, (decision, val_bpb) in enumerate([("keep", 0.99), ("discard", 0.995), ("keep", 0.97), ("crash", None)]):
        add(store, number, decision, val_bpb)
    store.add_experiment(make_experiment(0, branch=other, commit="b" * 40))
    store.add_run("mar8-b-0000", make_run("b-0", 0.991))
    store.add_event(RULING, ruling_event("autoresearch/mar8", Ruled(ruling="pin", patches=("mar8-0002",), reason="liked")))


def whole(home: Path) -> list[BranchHistory]:
    """The history by a decode of all records."""
    (home / told.FILE).unlink(missing_ok=True)
    return read_history(home / "journal.jsonl")


def by_outlines(home: Path) -> list[BranchHistory]:
    """The history by what an earlier reader has saved."""
    read_history(home / "journal.jsonl", fewest=1)
    assert (home / told.FILE).exists()
    return read_history(home / "journal.jsonl", fewest=10**9)


def facts(histories: list[BranchHistory], home: Path) -> list[object]:
    """All that is told of a history."""
    found: list[object] = [standing_lines(histories), morning_report(histories, home=home), *map(standing, histories)]
    for one in histories:
        found += [one.branch, list(one.records), one.costs, one.keeps, one.baseline, one.head, list(one.group.records)]
        found += [list(one.group.entries), one.group.heads, one.group.gain, one.group.waiting, dropped_from_head(one.group)]
        found += [{id: list(one.group.decisions[id]) for id in one.group.decisions}, one.outlines, one.group.unequal_shares]
    return found


def test_what_is_told_by_outlines_is_what_the_whole_journal_tells(home: Path) -> None:
    assert facts(by_outlines(home), home) == facts(whole(home), home)


def test_what_was_recorded_since_is_told_as_well(home: Path) -> None:
    by_outlines(home)
    follower = HistoryFollower(home / "journal.jsonl")
    before = follower.histories()
    assert not isinstance(before[0].records, tuple), "it begins with what was saved"
    with Store.open(home) as store:
        add(store, 4, "keep", 0.96)
        store.add_run("mar8-0001", make_run("again", 0.994))
        store.add_experiment(make_experiment(1, branch="autoresearch/mar8-b", commit="e" * 40))
    since = read_history(home / "journal.jsonl")
    assert not isinstance(since[0].records, tuple)
    assert facts(since, home) == facts(follower.histories(), home) == facts(whole(home), home)
    assert experiment_named(since, "mar8-0004").val_bpb == 0.96


def changed_in_place(journal: Path, old: bytes, new: bytes) -> None:
    """Changes bytes of a journal, which stays the same file with the same size."""
    text = journal.read_bytes()
    assert text.count(old) and len(old) == len(new)
    with journal.open("r+b") as file:
        file.write(text.replace(old, new, 1))


def test_a_journal_that_was_changed_or_replaced_is_read_anew(home: Path) -> None:
    journal = home / "journal.jsonl"
    by_outlines(home)
    original = journal.read_bytes()
    changed_in_place(journal, b"0.995", b"0.115")
    damaged: list[object] = []
    histories = read_history(journal, on_damage=damaged.append)
    assert len(damaged) == 1 and all(run.val_bpb != 0.995 for one in histories for r in one.records for run in r.runs)
    journal.write_bytes(original)
    by_outlines(home)
    lines = original.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-3]))
    assert facts(read_history(journal), home) == facts(whole(home), home)


@pytest.mark.parametrize("name", [told.FILE, journal_index.FILE])
def test_a_damaged_file_is_not_used(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    by_outlines(home)
    expected, data = facts(whole(home), home), bytearray((by_outlines(home), (home / name).read_bytes())[1])
    data[len(data) // 2] ^= 1
    (home / name).write_bytes(data)
    assert facts(read_history(home / "journal.jsonl"), home) == expected
    with Store.open(home) as store:
        assert store.journal.position("experiment:mar8-0001") is not None and not store.add_experiment(make_experiment(1))


def test_a_start_by_the_index_has_all_records_and_takes_new_ones(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    with Store.open(home) as store:
        store.add_event("later", {"branch": "autoresearch/mar8"}, id="one")
    assert len(journal_index.load(home / "journal.jsonl")) == len(list(read_journal(home / "journal.jsonl")))
    with Store.open(home) as store:
        assert not store.add_event("later", {"branch": "autoresearch/mar8"}, id="one")
        assert store.add_event("later", {"branch": "autoresearch/mar8"}, id="two")
        every = [record.id for _, record in store.journal.records()]
    reader = JournalReader(home / "journal.jsonl")
    assert every == [record.id for record in reader.read_on()]
    again = JournalReader(home / "journal.jsonl")
    again.pass_over()
    assert [again.position(id) for id in every] == list(range(1, len(every) + 1))
    assert [again.checksum(at) for at in range(len(every) + 1)] == [reader.checksum(at) for at in range(len(every) + 1)]
    assert [record.id for record in again.at([3, 1])] == [every[2], every[0]]


def test_damage_that_the_file_system_does_not_tell_is_noticed_when_the_line_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    journal = home / "journal.jsonl"
    histories = by_outlines(home)
    changed_in_place(journal, b"0.995", b"0.115")
    with pytest.raises(UserError, match="changed since it was read"):
        list(histories[-1].group.records)
    assert not (home / journal_index.FILE).exists(), "so the next command reads all lines"


def test_a_copied_home_is_not_taken_for_the_one_that_was_indexed(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    with Store.open(home) as store:
        store.add_event("later", {"branch": "autoresearch/mar8"})
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(home, copy, dirs_exist_ok=True)
    times = (home / "journal.jsonl").stat()
    changed_in_place(copy / "journal.jsonl", b"0.995", b"0.115")
    os.utime(copy / "journal.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns))
    with Store.open(copy) as store:
        assert len(store.journal.damaged) == 1
