"""Damage to a journal that matters stops a farm, is told by what only reads, and can be repaired from the database."""

import logging
from pathlib import Path

import duckdb
import pytest

from cluster.cli import main
from cluster.home import Home
from research.errors import UserError
from results.journal import Journal, read_journal
from results.journal_damage import check_whole
from results.journal_repair import NUMBERS_TAKEN, REPAIRED, plan_repair, repair
from results.store import Store
from tests.cluster.farm_samples import make_history
from tests.results.test_store import tables

BRANCH = "autoresearch/mar8"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a branch of three experiments and some telemetry."""
    folder = tmp_path / "home"
    make_history(folder, audit_bpb=2.75)
    with Store.open(folder) as store:
        store.add_event("work", {"run": "mar8-0000-1", "state": "done"})
        store.add_event("head", {"group": BRANCH, "branch": BRANCH, "commit": "b" * 40, "experiment": "mar8-0001",
                                 "expected": 2.5, "patches": ["mar8-0001"], "reason": "so"})  # fmt: skip
    return folder


def damage(home: Path, *numbers: int) -> None:
    """Changes a character of these lines."""
    journal = home / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for number in numbers:
        lines[number - 1] = lines[number - 1].replace(b'"id": "', b'"id": "~', 1)
    journal.write_bytes(b"".join(lines))


def records(home: Path) -> list[str]:
    return [record.id for record in read_journal(home / "journal.jsonl", on_damage=lambda line: None)]


def test_every_damaged_line_stops_a_farm_but_for_telemetry(home: Path) -> None:
    whole = (home / "journal.jsonl").read_bytes()
    ids = records(home)
    for number, line in enumerate(whole.splitlines(), start=1):
        (home / "journal.jsonl").write_bytes(whole)
        damage(home, number)
        journal = Journal(home / "journal.jsonl")
        journal.close()
        if b'"kind": "work"' in line:
            check_whole(journal.path, journal.damaged)
            continue
        with pytest.raises(UserError, match=rf"line {number}\b.*farm doctor") as stopped:
            check_whole(journal.path, journal.damaged)
        assert "\n" not in str(stopped.value)
    assert len(ids) == len(whole.splitlines())


def test_what_reads_says_what_is_damaged_and_fails_in_no_other_way(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (home / "journal.jsonl").read_bytes()
    for number in range(1, whole.count(b"\n") + 1):
        (home / "journal.jsonl").write_bytes(whole)
        damage(home, number)
        for command in (["status"], ["report"], ["show", "1"]):
            status = main([*command, "--home", str(home)])
            assert (status in (0, 2) and f"line {number}:" in capsys.readouterr().err) or status == 2, (command, number)
        with Store.open(home) as store:
            store.head(BRANCH), store.baseline(BRANCH), store.unfinished(BRANCH), store.groups.heads(BRANCH)
            assert store.next_number(BRANCH) == 3, number


@pytest.mark.parametrize("opened", [False, True], ids=["at once", "after the database was rebuilt"])
def test_a_repair_takes_the_lines_from_the_database(opened: bool, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All but audit scores, which it does not have; the damaged file is kept."""
    caplog.set_level(logging.ERROR)
    with Store.open(home) as store:
        before = tables(store)
    ids = records(home)
    damage(home, 1, 2, 3, 7, 10, len(ids))
    damaged = (home / "journal.jsonl").read_bytes()
    if opened:
        Store.open(home).close()
        assert (home / "farm.duckdb.1").exists()
    plan = plan_repair(home / "journal.jsonl")
    assert len(plan.lines()) == 6 and not any("left out" in line for line in plan.lines())
    copy = repair(plan, [])
    assert copy.read_bytes() == damaged and records(home)[: len(ids)] == ids
    with Store.open(home) as store:
        assert not store.journal.damaged
        after = {name: [row for row in rows if REPAIRED not in row] for name, rows in tables(store).items()}
        assert {**after, "events": []} == {**before, "events": []} and len(after["events"]) == len(before["events"])
        assert store.query("SELECT count(*) FROM audit", audience="person").rows == ((2,),)


@pytest.mark.parametrize("lines", [3, 99], ids=["fewer lines than records", "more lines than records"])
def test_a_journal_without_a_whole_line_comes_from_the_database(lines: int, home: Path) -> None:
    with Store.open(home) as store:
        before = tables(store)
    (home / "journal.jsonl").write_bytes(b"\xff\x00 not a record\n" * lines)
    repair(plan_repair(home / "journal.jsonl"), [])
    with Store.open(home) as store:
        assert not store.journal.damaged
        after = {name: [row for row in rows if REPAIRED not in row] for name, rows in tables(store).items()}
        assert {**after, "events": []} == {**before, "events": []} and len(after["events"]) == len(before["events"])


def test_without_a_database_lines_are_left_out_and_no_number_is_given_out_twice(home: Path) -> None:
    (home / "farm.duckdb").unlink()
    ids = records(home)
    last = [number for number, id in enumerate(ids, start=1) if "mar8-0002" in id]
    damage(home, *last)
    plan = plan_repair(home / "journal.jsonl")
    assert len(plan.lines()) == len(last) and all("left out" in line for line in plan.lines())
    repair(plan, [(BRANCH, 7)])
    with Store.open(home) as store:
        assert store.next_number(BRANCH) == 8 and store.next_number("autoresearch/mar") == 0
        assert [event["number"] for event in store.events(NUMBERS_TAKEN, BRANCH)] == [7]


def test_the_doctor_says_what_it_would_do_and_does_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(home, 2)
    assert main(["doctor", "--repair", "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "line 2" in said and "journal.jsonl.1" in said and len(records(home)) == 14
    assert main(["doctor", "--repair", "--home", str(home)]) == 0
    assert "nothing is changed" in capsys.readouterr().out and not (home / "journal.jsonl.2").exists()
    with Home(home).lock():
        assert main(["doctor", "--repair", "--home", str(home)]) == 2


def test_an_intact_database_is_not_rebuilt_as_empty(home: Path) -> None:
    """Nor is what it alone holds thrown away where a shorter journal was put back from a copy."""
    whole = (home / "journal.jsonl").read_bytes()
    for _ in range(2):
        (home / "journal.jsonl").unlink()
        with pytest.raises(UserError, match=r"journal\.jsonl is empty or gone, .* 13 "):
            Store.open(home)
    (home / "journal.jsonl").write_bytes(whole)
    with Store.open(home) as store:
        assert len(store.records(BRANCH)) == 3
    (home / "journal.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    with Store.open(home) as store:
        assert len(store.journal) == 3
    with duckdb.connect(str(home / "farm.duckdb.1"), read_only=True) as kept:
        assert kept.execute("SELECT count(*) FROM experiments").fetchall() == [(3,)]
