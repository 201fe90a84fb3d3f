"""A history by saved outlines is the one that a decode of the whole journal gives; what is damaged or stale is noticed."""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.person_requests import dropped_from_head
from cluster.status_text import standing, standing_lines
from research.errors import UserError
from results import journal_index, told
from results.group_entries import RULING, Ruled
from results.groups import ruling_event
from results.history import BranchHistory, HistoryFollower, experiment_named, read_history
from results.journal import JournalReader, JournalRecord, encoded, read_journal
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


def test_an_outline_has_the_properties_of_its_record(home: Path) -> None:
    names = ("is_idea", "is_done", "is_abandoned", "is_measurement", "val_bpb", "peak_memory_mb")
    pairs = [pair for one in by_outlines(home) for pair in zip(one.records, one.outlines, strict=True)]
    every = [*pairs, *((record.after(0), outline.after(0)) for record, outline in pairs)]
    assert len({record.val_bpb for record, _ in every}) > 3
    for record, outline in every:
        assert [getattr(record, name) for name in names] == [getattr(outline, name) for name in names]


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
    reader = JournalReader(home / "journal.jsonl")
    reader.pass_over()
    assert len(reader) == len(list(read_journal(home / "journal.jsonl"))) and (home / journal_index.FILE).exists()
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


def rewritten(journal: Path, old: str, new: str) -> None:
    """Changes a record of a journal, which stays the same file with the same size and has no damaged line."""
    lines = [JournalRecord(id=one.id, kind=one.kind, time=one.time, body=json.loads(one.body_text().replace(old, new)))
             for one in read_journal(journal)]  # fmt: skip
    text = b"".join(map(encoded, lines))
    assert len(text) == journal.stat().st_size and text != journal.read_bytes()
    with journal.open("r+b") as file:
        file.write(text)


def settled() -> None:
    """Waits until another change of a file gets another time."""
    time.sleep(2 * journal_index.SETTLED_NS / 1e9)


def first_calling(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, do: Callable[[], object]) -> None:
    """Lets a function do something before it does its own, as if another process had done it just then."""
    own = getattr(owner, name)

    def both(*given: Any, **named: Any) -> Any:
        do()
        return own(*given, **named)

    monkeypatch.setattr(owner, name, both)


def test_a_file_that_is_removed_or_written_meanwhile_hides_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = facts(whole(home), home)
    by_outlines(home)
    saved = (home / told.FILE).read_bytes()
    for found in (saved, b"damaged"):
        (home / told.FILE).write_bytes(found)
        with monkeypatch.context() as patch:
            first_calling(patch, told, "without_collection", lambda: (home / told.FILE).unlink(missing_ok=True))
            assert facts(read_history(home / "journal.jsonl", fewest=1), home) == expected
        assert facts(read_history(home / "journal.jsonl"), home) == expected
    (home / told.FILE).unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        first_calling(patch, told, "without_collection", lambda: (home / told.FILE).write_bytes(saved))
        assert facts(read_history(home / "journal.jsonl", fewest=1), home) == expected


@pytest.mark.parametrize("change", ["rewritten", "shorter", "removed"])
def test_a_journal_that_changes_between_two_readings_is_told_by_neither(
    home: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    journal = home / "journal.jsonl"
    (home / told.FILE).write_bytes(b"damaged")
    original = journal.read_bytes()
    changes: dict[str, Callable[[], object]] = {
        "rewritten": lambda: rewritten(journal, "0.995", "0.115"),
        "shorter": lambda: journal.write_bytes(b"".join(original.splitlines(keepends=True)[:-2])),
        "removed": journal.unlink,
    }
    with monkeypatch.context() as patch:
        first_calling(patch, told, "without_collection", changes[change])
        with pytest.raises(UserError, match="changed since it was read"):
            read_history(journal, fewest=1)
    assert (home / told.FILE).read_bytes() == b"damaged", "nothing is saved"
    journal.write_bytes(original)
    assert facts(read_history(journal), home) == facts(whole(home), home)


def test_what_others_changed_in_place_while_a_farm_ran_or_a_command_read_is_noticed_by_the_next(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    journal = home / "journal.jsonl"
    settled()
    with Store.open(home) as store:
        store.add_event("later", {"branch": "autoresearch/mar8"})
        settled()
        changed_in_place(journal, b"0.995", b"0.115")
        settled()
        store.add_event("later still", {"branch": "autoresearch/mar8"})
    with Store.open(home) as store:
        assert len(store.journal.damaged) == 1
    changed_in_place(journal, b"0.115", b"0.995")
    settled()
    reader = JournalReader(journal)
    reader.read_on()
    changed_in_place(journal, b"0.995", b"0.115")
    reader.save_index()
    again = JournalReader(journal)
    again.pass_over()
    assert len(again.damaged) == 1


def test_no_digit_of_the_index_can_change_without_notice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    by_outlines(home)
    data = (home / journal_index.FILE).read_bytes()
    at = data.index(b'"lines": ') + len(b'"lines": ')
    (home / journal_index.FILE).write_bytes(data[:at] + b"9" + data[at + 1 :])
    with (home / "journal.jsonl").open("ab") as file:
        file.write(b"damaged\n")
    reader = JournalReader(home / "journal.jsonl")
    reader.pass_over()
    assert [line.number for line in reader.damaged] == [len((home / "journal.jsonl").read_bytes().splitlines())]


def test_a_follower_begins_anew_with_a_journal_that_was_copied_over_the_one_it_reads(home: Path, tmp_path: Path) -> None:
    journal, other = home / "journal.jsonl", tmp_path / "other"
    by_outlines(home)
    follower = HistoryFollower(journal)
    before = follower.histories()
    entries, read = before[-1].group.entries, list(whole(home)[-1].group.entries)
    with Store.open(other) as store:
        store.add_branch(make_branch("autoresearch/other", tag="other"))
        for number in range(30):
            store.add_experiment(make_experiment(number, branch="autoresearch/other"))
    with Store.open(home) as store:
        add(store, 4, "keep", 0.96)
    follower.histories()
    assert list(entries) == read, "what was told before has no later entries"
    text = (other / "journal.jsonl").read_bytes()
    assert len(text) > journal.stat().st_size
    journal.write_bytes(text)  # the same file, and longer
    assert [one.branch.name for one in follower.histories()] == ["autoresearch/other"] and follower.damaged == 0


def test_a_full_disk_changes_nothing_that_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = facts(whole(home), home)

    @contextlib.contextmanager
    def full(path: Path, **_: object) -> Iterator[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield path

    monkeypatch.setattr("research.files.replacing", full)
    monkeypatch.setattr(journal_index, "FEWEST_TO_SAVE", 1)
    assert facts(read_history(home / "journal.jsonl", fewest=1), home) == expected
    assert not (home / told.FILE).exists()
