"""The journal's promises: nothing acknowledged is lost, nothing is doubled, nothing damaged is used."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from research.errors import UserError
from results.journal import DamagedLine, Journal, JournalReader, JournalRecord, read_journal

APPENDER = """
import sys
from pathlib import Path
from results.journal import Journal, JournalRecord
journal = Journal(Path(sys.argv[1]))
for i in range(len(journal), 1_000_000):
    journal.append(JournalRecord(id=f"event:{i}", kind="event", time="t", body={"i": i, "filler": "x" * (i % 700)}))
    print(i, flush=True)
"""


def make_record(i: int, **body: object) -> JournalRecord:
    return JournalRecord(id=f"event:{i}", kind="event", time="2026-03-08T20:00:00Z", body={"i": i, **body})


def fill(path: Path, count: int) -> None:
    journal = Journal(path)
    for i in range(count):
        journal.append(make_record(i))
    journal.close()


def ids(path: Path) -> list[str]:
    return [record.id for record in read_journal(path, on_damage=lambda _: None)]


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "home" / "journal.jsonl"
    record = make_record(0, text='a "b"\nc \ud800 é', nan=[1.5, None, True], nested={"checksum": "no"})
    journal = Journal(path)
    assert journal.append(record)
    assert journal.append(make_record(1))
    assert list(read_journal(path)) == [record, make_record(1)]
    assert list(journal.records(after=1)) == [(2, make_record(1))]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["event:0", "event:1"]


def test_an_id_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    assert journal.append(make_record(0)) is True
    assert journal.append(make_record(0, other="body")) is False
    journal.close()
    journal = Journal(path)
    assert journal.append(make_record(0)) is False
    assert len(journal) == 1 and journal.position("event:0") == 1 and journal.position("event:9") is None
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("left", [1, 20, -3, -1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, left: int) -> None:
    """However much of the last line got to the disk, the lines before it and the next append are whole."""
    path = tmp_path / "journal.jsonl"
    fill(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:left])
    assert ids(path) == ["event:0", "event:1"]
    journal = Journal(path)
    assert not journal.damaged
    assert journal.append(make_record(2))
    assert list(read_journal(path)) == [make_record(0), make_record(1), make_record(2)]


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"x" * 200_000)
    journal = Journal(path)
    assert len(journal) == 0 and path.stat().st_size == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"i": 1', b'"i": 7'), (b'"event"', b'"evenT"'), (b'{"id"', b'{"iD"'), (b'"checksum": "', b'"checksum": "0')],
)
def test_a_damaged_line_is_named_and_not_used(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(old, new) + lines[2])
    with pytest.raises(UserError, match="line 2: the checksum does not match"):
        list(read_journal(path))
    journal = Journal(path)
    assert journal.damaged == [DamagedLine(number=2, problem="the checksum does not match")]
    assert ids(path) == ["event:0", "event:2"]
    assert [position for position, _ in journal.records()] == [1, 2]
    journal.append(make_record(3))
    assert ids(path) == ["event:0", "event:2", "event:3"]


def test_a_line_that_was_pasted_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 2)
    path.write_bytes(path.read_bytes() * 2)
    assert [position for position, _ in Journal(path).records()] == [1, 2]


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    """A real limit on the file's size stands in for the disk."""
    code = f"""
import resource, signal
from pathlib import Path
from research.errors import UserError
from results.journal import Journal, JournalRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
journal = Journal(Path({str(tmp_path / "journal.jsonl")!r}))
record = lambda i, size: JournalRecord(id=str(i), kind="event", time="t", body={{"x": "x" * size}})
assert journal.append(record(0, 2000))
try:
    journal.append(record(1, 3000))
except UserError as problem:
    print(problem)
assert journal.append(record(2, 100))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Cannot write ") and done.stdout.count("\n") == 1
    assert ids(tmp_path / "journal.jsonl") == ["0", "2"]


def test_a_second_process_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    code = f"from pathlib import Path; from results.journal import Journal; Journal(Path({str(path)!r}))"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = refused.stderr.splitlines()[-1]
    assert refused.returncode == 1
    assert message == f"research.errors.UserError: A farm is already running in {tmp_path}: stop it, or choose another --home."
    journal.close()
    journal.close()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A process is killed again and again while it appends; every id that it printed is in the journal, once."""
    path = tmp_path / "journal.jsonl"
    for delay in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline()]
        threading.Timer(delay, process.send_signal, [signal.SIGKILL]).start()
        acknowledged += process.stdout.readlines()
        process.wait()
        last = int([line for line in acknowledged if line.endswith("\n")][-1])
        found = ids(path)
        assert found[: last + 1] == [f"event:{i}" for i in range(last + 1)]
        assert len(found) in (last + 1, last + 2)
    assert not Journal(path).damaged


def test_readers_see_whole_records_while_a_writer_appends(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    writer = threading.Thread(target=lambda: [journal.append(make_record(i, filler="x" * 9000)) for i in range(200)])
    writer.start()
    counts = [0]
    while writer.is_alive():
        counts.append(len(list(read_journal(path))))
    writer.join()
    assert counts == sorted(counts) and len(list(read_journal(path))) == 200


def test_lines_that_an_editor_ended_by_cr_lf_are_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 3)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    journal = Journal(path)
    assert not journal.damaged and journal.append(make_record(3))
    assert ids(path) == [f"event:{number}" for number in range(4)]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def removed(path: Path) -> None:
    path.unlink()


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x\n")


@pytest.mark.parametrize("change", [emptied, replaced, removed, grown])
def test_a_journal_that_others_change_meanwhile_is_noticed_by_the_next_append(change: Callable[[Path], None],
                                                                              tmp_path: Path) -> None:  # fmt: skip
    """And what only this process can still read is saved."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(make_record(0))
    before = path.read_bytes()
    change(path)
    after = path.read_bytes() if path.exists() else None
    for _ in range(2):
        with pytest.raises(UserError, match=r"^[^\n]*journal\.jsonl was (changed|replaced|removed)[^\n]*$"):
            journal.append(make_record(1))
    assert (path.read_bytes() if path.exists() else None) == after
    saved = tmp_path / "journal.jsonl.saved"
    assert (saved.read_bytes() == before) if change is not emptied else not saved.exists()


def test_a_reader_follows_what_a_farm_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.read_on() == [] and reader.is_same_file()
    fill(path, 2)
    assert reader.read_on() == [make_record(0), make_record(1)] and reader.read_on() == []
    with path.open("ab") as file:
        file.write(b"damaged\n" + path.read_bytes().splitlines(keepends=True)[0] + b"torn")
    assert reader.read_on() == [] and [line.number for line in reader.damaged] == [3]
    journal = Journal(path)
    journal.append(make_record(2))
    assert reader.read_on() == [make_record(2)] and reader.is_same_file()
    assert list(reader.records(after=1)) == list(journal.records(after=1)) and len(reader) == len(journal) == 3
    path.write_bytes(b"")
    assert not reader.is_same_file()


def test_only_what_something_follows_from_is_waited_for_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    for kind in ("work", "worker", "gain"):
        journal.append(JournalRecord(id=f"event:{kind}", kind="event", time="t", body={"kind": kind, "details": {}}))
    assert not synced and len(ids(journal.path)) == 3, "it is in the file nevertheless, where a kill leaves it"
    journal.append(JournalRecord(id="event:head", kind="event", time="t", body={"kind": "head", "details": {}}))
    assert synced == [journal.path.stat().st_size], "with the next other record all is on the disk"
    journal.close()


def test_a_checksum_over_the_records_tells_journals_apart_and_grows_alike_however_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 4)
    journal, reader = Journal(path), JournalReader(path)
    reader.read_on()
    journal.append(make_record(4))
    reader.read_on()
    sums = [journal.checksum(position) for position in range(7)]
    assert sums == [reader.checksum(position) for position in range(7)] and sums[6] is None and len({*sums}) == 7
    journal.close()
    reopened = Journal(path)
    assert [reopened.checksum(position) for position in range(7)] == sums
    reopened.close()
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    another = Journal(other)
    assert another.checksum(4) != sums[5] and another.checksum(4) != sums[4]
    another.close()
