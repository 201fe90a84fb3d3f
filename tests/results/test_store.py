"""The store's promises: the journal first, the database as a view of it, and one owner."""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from research.errors import UserError
from results import database
from results.experiment import Verdict, to_body
from results.history import read_history
from results.history_rows import m019_history_rows
from results.history_view import m018_narrow_history
from results.journal import JournalRecord, Records, encoded
from results.parquet_export import VERSION_KEY
from results.schema import MIGRATIONS
from results.store import Store, query_home
from results.table_rows import TABLES
from tests.results.new_home import with_tables
from tests.results.result_samples import NAME, add, make_branch, make_experiment, make_run

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.results.result_samples import add, make_branch, NAME
from results.store import Store
with Store.open(Path(sys.argv[1])) as store:
    store.add_branch(make_branch())
    for number in range(store.next_number(NAME), 10_000):
        decision = "keep" if number % 3 == 0 else "discard"
        add(store, number, decision, 0.99 - number / 1e5, gain=0.0, needed=0.1, sigma=0.1)
        print(number, flush=True)
"""


def night(store: Store) -> None:
    """A little of everything."""
    add(store, 0, "keep", 0.9979)
    add(store, 1, "keep", 0.9860, gain=0.0119, needed=0.0007, sigma=0.0007)
    add(store, 2, "discard", 0.9859, gain=0.0001, needed=0.0007, sigma=0.0007)
    add(store, 3, "crash", None)
    add(store, 4, "lost", None)
    add(store, 5, "invalid", None)
    add(store, 6, "discard", 0.9990, gain=-0.0130, needed=0.0007, sigma=0.0007)
    store.add_experiment(make_experiment(7))
    store.add_event("stopped", {"why": "ctrl-c"})


def tables(store: Store) -> dict[str, list[Any]]:
    names = [*TABLES.values(), "history", "leaderboard", "near_misses", "changes", "lost", "costs"]
    return {name: list(store.query(f"FROM {name} ORDER BY ALL").rows) for name in names}


def test_records_come_back_as_they_went_in(store: Store) -> None:
    experiment = make_experiment(1, parents=("a", "b"), title="half a pair \ud800")
    store.add_experiment(experiment)
    run = make_run("r0", 0.99, software={"torch": "2.11"}, reported_curve=((1.0, 1, float("inf")),), reported_depth=10**30)
    store.add_run(experiment.id, run)
    verdict = Verdict(decision="keep", reason="better", gain=0.1, needed=0.01, sigma=0.01)
    store.add_verdict(experiment.id, verdict)
    assert store.branches() == [make_branch()] == store.branches("mar8") and store.branches("other") == []
    assert store.branch(NAME) == make_branch() and store.branch("other") is None
    (record,) = store.records(NAME)
    assert record.experiment == experiment and record.verdict == verdict
    assert record.runs == (replace(run, audit_bpb=None, audit_rows=None),)
    [history] = read_history(store.journal.path)
    assert history.records == (replace(record, runs=(run,)),) and history.branch == make_branch(), "people see audit scores"


def test_adding_again_changes_nothing(store: Store) -> None:
    add(store, 0, "keep", 0.99)
    before, size = tables(store), store.journal.path.stat().st_size
    assert not store.add_branch(make_branch())
    assert not store.add_experiment(make_experiment(0))
    assert not store.add_run("mar8-0000", make_run("mar8-0000-r0", 0.5))
    assert not store.add_verdict("mar8-0000", Verdict(decision="keep", reason="in other words"))
    assert store.add_event("e", {}, id="once") and not store.add_event("e", {}, id="once")
    assert store.add_event("e", {}) and store.add_event("e", {})
    assert {**tables(store), "events": []} == before
    assert store.journal.path.stat().st_size > size


def test_a_further_run_allows_a_further_verdict_and_the_latest_counts(store: Store) -> None:
    add(store, 0, "keep", 0.99)
    add(store, 1, "keep", 0.98)
    store.add_run("mar8-0001", make_run("again", 0.995))
    assert store.add_verdict("mar8-0001", Verdict(decision="discard", reason="the second run was no better"))
    record = store.record("mar8-0001")
    assert record.verdict is not None and record.verdict.decision == "discard"
    assert store.query("SELECT decision, val_bpb, runs FROM history WHERE number = 1").rows == (("discard", 0.9875, 2),)
    assert store.head(NAME) is not None and store.head(NAME).experiment_id == "mar8-0000"  # type: ignore[union-attr]


def test_what_belongs_to_nothing_is_refused(store: Store) -> None:
    with pytest.raises(KeyError, match="no branch"):
        store.add_experiment(make_experiment(0, branch="autoresearch/none"))
    with pytest.raises(KeyError, match="no experiment"):
        store.add_run("none", make_run("r", 0.9))
    with pytest.raises(KeyError, match="no experiment"):
        store.add_verdict("none", Verdict(decision="lost", reason="x"))


def test_a_record_that_no_table_takes_stays_out_of_the_journal(store: Store) -> None:
    with pytest.raises(duckdb.Error):
        store.add_experiment(make_experiment(0, created="yesterday"))
    assert len(store.journal) == 1
    add(store, 0, "keep", 0.99)


def test_the_head_pools_all_runs_of_its_commit(store: Store) -> None:
    assert store.head(NAME) is None
    add(store, 0, "keep", 0.990)
    second = make_experiment(1, kind="baseline", commit=make_experiment(0).commit)
    store.add_experiment(second)
    store.add_run(second.id, make_run("b1", 0.992, peak_memory_mb=47_000.0))
    store.add_run(second.id, make_run("b2", None, status="lost"))
    store.add_verdict(second.id, Verdict(decision="keep", reason="baseline"))
    head = store.head(NAME)
    assert head is not None
    assert head.scores == (0.990, 0.992) and head.mean == pytest.approx(0.991)
    assert head.peak_memory_mb == 46_000.0 and head.commit == second.commit
    add(store, 2, "discard", 0.995)
    assert store.head(NAME) == head
    add(store, 3, "keep", 0.95)
    assert store.head(NAME).scores == (0.95,)  # type: ignore[union-attr]


def test_records_that_were_read_before_are_those_of_a_store_that_was_opened_now(tmp_path: Path) -> None:
    other = f"{NAME}-b"
    with Store.open(tmp_path) as store:
        for branch in (make_branch(), make_branch(other)):
            store.add_branch(branch)
        assert store.records(NAME) == [] and store.baseline(NAME) is None
        told = []
        for number in range(3):
            for branch in (NAME, other):
                experiment = make_experiment(number, branch=branch)
                store.add_experiment(experiment)
                told.append([len(store.records(NAME)), len(store.records(other))])
                store.add_run(experiment.id, make_run(f"{experiment.id}-r0", 0.99))
                assert [len(record.runs) for record in store.records(branch)] == [1] * (number + 1)
                store.add_verdict(experiment.id, Verdict(decision="discard" if number else "keep", reason="told"))
        store.add_run("mar8-0001", make_run("again", 0.98))
        store.add_verdict("mar8-0001", Verdict(decision="keep", reason="after another run"))
        grown, baseline = [store.records(branch) for branch in (NAME, other)], store.baseline(NAME)
    assert told == [[1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3]]
    with Store.open(tmp_path) as store:
        assert [store.records(branch) for branch in (NAME, other)] == grown
        assert baseline is not None and store.baseline(NAME) == baseline == grown[0][0]


def test_what_is_unfinished_and_what_comes_next(store: Store) -> None:
    assert store.next_number(NAME) == 0
    night(store)
    assert [record.experiment.number for record in store.unfinished(NAME)] == [7]
    assert store.next_number(NAME) == 8 and store.next_number("autoresearch/other") == 0


def test_what_is_known_while_records_are_added_is_what_the_next_owner_reads(tmp_path: Path) -> None:
    """Experiments come in the order of their numbers, with all their runs and the latest verdict."""
    with Store.open(with_tables(tmp_path)) as store:
        store.add_branch(make_branch())
        store.add_experiment(make_experiment(2))
        assert store.record("mar8-0002").runs == () == tuple(store.records("autoresearch/other"))
        night(store)
        store.add_run("mar8-0002", make_run("mar8-0002-2", 0.98))
        assert len(store.record("mar8-0002").runs) == 2
        store.add_verdict("mar8-0002", Verdict(decision="keep", reason="better"))
        grown = store.records(NAME), store.unfinished(NAME), store.next_number(NAME)
    with Store.open(tmp_path) as store:
        assert (store.records(NAME), store.unfinished(NAME), store.next_number(NAME)) == grown
    assert [record.experiment.number for record in grown[0]] == list(range(8))
    assert grown[0][2].verdict == Verdict(decision="keep", reason="better") and len(grown[0][2].runs) == 2


def test_an_experiment_is_read_by_its_id(store: Store) -> None:
    night(store)
    assert store.record("mar8-0003").experiment.number == 3
    for unknown in ("mar8-00", "", make_experiment(2).commit):
        with pytest.raises(KeyError, match="no experiment"):
            store.record(unknown)


def test_history_never_counts_what_the_infrastructure_lost(store: Store) -> None:
    night(store)
    counts = dict(store.query("SELECT coalesce(decision, 'running'), count(*) FROM history GROUP BY ALL").rows)
    assert counts == {"keep": 2, "discard": 2, "crash": 1, "invalid": 1, "running": 1}
    assert store.query("SELECT experiment_id FROM lost").rows == (("mar8-0004",),)


def test_a_run_that_is_repeated_and_done_has_no_reason_of_before(store: Store) -> None:
    for state, worker, reason in (("waiting", None, None), ("running", "a", None), ("lost", None, "a left"),
                                  ("waiting", None, None), ("running", "b", None), ("done", None, None)):  # fmt: skip
        told = {"run": "r1", "state": state, "worker": worker, "reason": reason}
        store.add_event("work", {name: value for name, value in told.items() if value is not None})
        if state == "lost":
            assert store.query("SELECT state, worker, reason FROM work").rows == (("lost", "a", "a left"),)
    assert store.query("SELECT state, worker, reason, ended IS NULL FROM work").rows == (("done", "b", None, False),)


def test_what_was_not_measured_is_null(store: Store) -> None:
    night(store)
    row = store.query("SELECT val_bpb, peak_memory_mb, total_seconds, gain FROM history WHERE decision = 'crash'").rows
    assert row == ((None, None, None, None),)
    assert store.query("SELECT count(*) FROM history WHERE val_bpb = 0 OR cost_usd = 0 OR tokens = 0").rows == ((0,),)


def test_the_views_say_what_their_names_say(store: Store) -> None:
    night(store)
    best = [value for (value,) in store.query("SELECT best_so_far FROM history ORDER BY number").rows]
    assert best == [0.9979] + [0.9860] * 6
    assert store.query("SELECT rank, number FROM leaderboard").rows == ((1, 1), (2, 0))
    changes = store.query("SELECT name, old, new FROM changes WHERE experiment_id = 'mar8-0001' ORDER BY name").rows
    assert changes == (("ADAM_BETAS", "[0.8,0.95]", "[0.9,0.95]"), ("DEPTH", "8", "9"))
    comments = dict(store.query("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").rows)
    assert comments["history"].startswith("Start here") and all(comments.values())
    for at, group in enumerate((NAME, NAME, "autoresearch/mar9")):
        store.add_event("head", {"group": group, "experiment": f"e{at}", "commit": f"c{at}", "expected": 1.0, "patches": []})
    assert store.query("SELECT experiment_id FROM heads WHERE is_current").rows == (("e1",), ("e2",))
    for state in ("waiting", "dropped"):  # as earlier versions called it
        store.add_event("work", {"run": "r", "state": state})
    assert store.query("SELECT state, ended IS NOT NULL FROM work").rows == (("cancelled", True),)
    estimated = Verdict(decision="discard", reason="P(helps) 0.62", gain=0.23, effect=0.0042, helps=0.62)
    store.add_experiment(make_experiment(99))
    store.add_verdict("mar8-0099", estimated)
    assert store.query("SELECT effect, helps, gain FROM history WHERE number = 99").rows == ((0.0042, 0.62, 0.23),)


def spoil_missing(file: Path) -> None:
    file.unlink()


def spoil_garbage(file: Path) -> None:
    file.write_bytes(b"garbage" * 1000)


def spoil_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil_ahead(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("INSERT INTO events SELECT max(seq) + 1, 'x', 'x', NULL, NULL FROM experiments")


def spoil_other_ids(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE events SET id = 'other'")


def spoil_holes(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("DELETE FROM runs")


def spoil_schema(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99)")


def spoil_other_database(file: Path) -> None:
    file.unlink()
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE branches (x INTEGER)")


def spoil_behind(file: Path) -> None:
    """The end of the journal never reached the tables, as after a kill between the two."""
    lines = file.with_name("journal.jsonl").read_bytes().splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "journal.jsonl").write_bytes(b"".join(lines[:9]))
        Store.open(Path(folder)).close()
        shutil.copyfile(Path(folder, "farm.duckdb"), file)


def spoil_rows_of_history(file: Path) -> None:
    """A row of the table that the view `history` reads is gone."""
    with duckdb.connect(str(file)) as connection:
        connection.execute("DELETE FROM history_rows WHERE number = 1")


def spoil_bits(file: Path) -> None:
    """Every block of the file has lost a bit; DuckDB's message names a block."""
    flip_a_bit_in_each_block(file)


def spoil_folder(file: Path) -> None:
    """There is a folder where the file was."""
    file.unlink()
    file.mkdir()
    (file / "note.txt").write_text("mine")


def flip_a_bit_in_each_block(file: Path) -> None:
    text = bytearray(file.read_bytes())
    for at in range(3 * 4096 + 100, len(text), 2**18):  # after the headers
        text[at] ^= 1
    with file.open("r+b") as same:  # the very file, which a process may have open
        same.write(text)


def test_an_idea_that_estimates_keep_is_no_head_before_one_is_recorded(store: Store) -> None:
    """With one device a merge that verifies it waits for others; until then ideas are tried on the baseline."""
    add(store, 0, "keep", 0.99)
    add(store, 1, "discard", 0.98)
    store.add_run("mar8-0001", make_run("again", 0.97))
    kept = Verdict(decision="keep", reason="kept after all", effect=0.012, low=0.001, high=0.02, helps=0.77)
    store.add_verdict("mar8-0001", kept)
    head = store.head(NAME)
    assert head is not None and head.experiment_id == "mar8-0000" and head.patches == ()


@pytest.mark.parametrize("spoil", [f for name, f in sorted(globals().items()) if name.startswith("spoil_")])
def test_the_database_made_from_the_journal_equals_the_one_that_grew(tmp_path: Path, spoil: Any) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        night(store)
        grown, records, head = tables(store), store.records(NAME), store.head(NAME)
    spoil(tmp_path / "farm.duckdb")
    with Store.open(tmp_path) as store:
        assert tables(store) == grown
        assert store.records(NAME) == records and store.head(NAME) == head
        add(store, 8, "keep", 0.95)


@pytest.mark.parametrize("ask", [
    lambda store: store.query("SELECT sum(length(log_tail)) FROM runs", audience="person").rows == ((2 * 10**6,),),
    lambda store: [len(record.runs[0].log_tail) for record in store.records(NAME)] == [10**6] * 2,
    lambda store: store.add_run("mar8-0001", make_run("again", 0.9)) and len(store.record("mar8-0001").runs) == 2,
    lambda store: len(store.groups.entries(NAME)) == 3,
])  # fmt: skip
def test_damage_that_shows_long_after_the_start_is_mended_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ask: Callable[[Store], bool]
) -> None:
    """Other threads ask meanwhile, and what they had begun is answered, too."""
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        for number, letter in enumerate("ab"):
            store.add_experiment(make_experiment(number))
            text = "".join(random.Random(letter).choices("abcdefgh", k=10**6))
            store.add_run(f"mar8-{number:04d}", make_run(f"run-{number}", 0.9, log_tail=text))
    with Store.open(tmp_path) as store, ThreadPoolExecutor(4) as threads:
        flip_a_bit_in_each_block(tmp_path / "farm.duckdb")
        others = [threads.submit(store.query, "SELECT max(log_tail) FROM runs") for _ in range(4)]
        assert ask(store)
        assert all(len(other.result().rows[0][0]) == 10**6 for other in others)
        assert caplog.text.count("is rebuilt from the journal") == 1
    with Store.open(tmp_path) as store:
        assert len(tables(store)["runs"]) in (2, 3)


def test_a_database_that_cannot_be_rebuilt_now_loses_no_record_and_is_rebuilt_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are in the journal meanwhile, and each question is refused in one line."""

    def full(path: Path, journal: Records) -> duckdb.DuckDBPyConnection:
        raise UserError("free some space")

    def damaged(cursor: duckdb.DuckDBPyConnection) -> None:
        raise duckdb.SerializationException("Failed to deserialize")

    with Store.open(with_tables(tmp_path)) as store:
        store.add_branch(make_branch())
        with monkeypatch.context() as patch:
            patch.setattr(database, "_rebuilt", full)
            patch.setattr(database, "opened", full)
            with pytest.raises(UserError, match="free some space"):
                store._writer.read(damaged)
            assert store.add_event("told", {"number": 1}, id="meanwhile")
            with pytest.raises(UserError, match="free some space"):
                store.query("SELECT 1")
        assert store.query("SELECT id FROM events").rows == (("meanwhile",),)
        assert store.add_event("told", {"number": 2}, id="later")
        assert store.query("SELECT count(*) FROM events").rows == ((2,),)


def test_a_journal_that_was_put_back_from_a_copy_wins(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        shutil.copy(store.journal.path, tmp_path / "copy")
        night(store)
    shutil.move(tmp_path / "copy", tmp_path / "journal.jsonl")
    with Store.open(tmp_path) as store:
        assert store.records(NAME) == [] and store.branch(NAME) == make_branch()


def test_a_damaged_line_is_named_and_the_rest_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        night(store)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if b'"id": "run:mar8-0002' in line)
    assert b"0.9859" in lines[number]
    lines[number] = lines[number].replace(b"0.9859", b"0.1859")
    journal.write_bytes(b"".join(lines))
    with Store.open(tmp_path) as store:
        assert f"line {number + 1}: the checksum does not match" in caplog.text
        assert len(store.records(NAME)) == 8 and store.record("mar8-0002").val_bpb is None
        assert store.head(NAME).scores == (0.9860,)  # type: ignore[union-attr]


def test_migrations_run_once_each(tmp_path: Path) -> None:
    for _ in range(2):
        with Store.open(tmp_path) as store:
            versions = store.query("SELECT version FROM schema_version ORDER BY version").rows
            assert versions == tuple((number + 1,) for number in range(len(MIGRATIONS)))


def test_each_later_view_of_the_history_answers_what_the_one_before_it_did(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        night(store)
        store.add_run("mar8-0001", make_run("again", 0.995))
        store.add_verdict("mar8-0001", Verdict(decision="discard", reason="no better", gain=0.1, effect=0.004, helps=0.3))
        store.add_experiment(replace(make_experiment(98), kind="control"))
        store.add_run("mar8-0098", make_run("control", 0.99))
        store.add_verdict("mar8-0098", Verdict(decision="discard", reason="a control"))
    at = MIGRATIONS.index(m018_narrow_history)
    answers = []
    with duckdb.connect() as connection:
        for step in MIGRATIONS[:at]:
            step(connection)
        connection.execute(f"ATTACH '{tmp_path / 'farm.duckdb'}' AS home (READ_ONLY)")
        for table in TABLES.values():
            connection.execute(f"INSERT INTO {table} SELECT * FROM home.{table} ORDER BY seq")
        connection.execute("DETACH home")
        for steps in ((), (m018_narrow_history,), (m019_history_rows,)):
            for step in steps:
                step(connection)
            comments = "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = 'history' ORDER BY ALL"
            of_view = "SELECT comment FROM duckdb_views() WHERE view_name = 'history'"
            views = ("FROM history", "FROM leaderboard", comments, of_view)
            answers.append([connection.execute(sql).fetchall() for sql in views])
    before, narrow, stored = answers
    assert before == narrow
    assert before == stored
    assert len({row[9] for row in stored[0]}) == 6, "kept, discarded, measured, crashed, invalid and not yet decided"
    with Store.open(tmp_path) as store:
        assert store.query("FROM history").rows == tuple(stored[0]), "rows that grew with each batch are those made at once"


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """A writer is killed twice at no particular line; each time the next one goes on where it was."""
    samples = str(Path(__file__).parents[2])
    for delay in (0.1, 0.27):
        command = [sys.executable, "-c", WRITER, str(tmp_path), samples]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        threading.Timer(delay, process.send_signal, [signal.SIGKILL]).start()
        lines += process.stdout.readlines()
        process.wait()
        last = int([line for line in lines if line.endswith("\n")][-1])
        with Store.open(tmp_path) as store:
            finished = [record.experiment.number for record in store.records(NAME) if record.verdict]
            assert finished[: last + 1] == list(range(last + 1))
            for record in store.unfinished(NAME):  # what a driver does after a kill
                store.add_run(record.experiment.id, make_run(f"{record.experiment.id}-again", 0.99))
                store.add_verdict(record.experiment.id, Verdict(decision="discard", reason="went on"))
            grown = tables(store)
        (tmp_path / "farm.duckdb").unlink()
        with Store.open(tmp_path) as store:
            assert tables(store) == grown


def test_one_process_owns_a_home(store: Store) -> None:
    code = "import sys; from pathlib import Path; from results.store import Store; Store.open(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(store.home)], capture_output=True, text=True)
    message = done.stderr.splitlines()[-1]
    assert message.startswith("research.errors.UserError: A farm is already running in ")


def test_a_database_that_another_program_holds_is_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1], read_only=True); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "farm.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UserError, match="open in another program"):
            Store.open(tmp_path)
        holder.communicate()
    with Store.open(tmp_path) as store:  # the failed attempt let go of the journal
        assert store.branch(NAME) is not None


def test_opening_can_wait_for_the_owner(tmp_path: Path) -> None:
    first = Store.open(tmp_path)
    threading.Timer(0.3, first.close).start()
    Store.open(tmp_path, wait_s=5.0).close()


def test_a_home_can_be_asked_when_no_farm_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Nothing is recorded"):
        query_home(tmp_path / "none", "SELECT 1")
    assert not (tmp_path / "none").exists()
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        night(store)
    (tmp_path / "farm.duckdb").unlink()
    assert query_home(tmp_path, "SELECT count(*) FROM history").rows == ((7,),)
    assert query_home(tmp_path, "SELECT count(*) FROM audit", audience="person").rows == ((4,),)


def test_history_parquet_is_read_by_pandas_and_duckdb_while_the_farm_runs(store: Store) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    night(store)
    path = store.export_parquet()
    frame = pd.read_parquet(path)
    assert list(frame["decision"].dropna()) == ["keep", "keep", "discard", "crash", "invalid", "discard"]
    assert pd.isna(frame["val_bpb"][3]) and frame["created"].dtype.kind == "M"
    assert not [column for column in frame.columns if "audit" in column]
    assert VERSION_KEY in pq.read_schema(path).metadata, "written as farm export writes it"
    code = "import sys, duckdb; print(duckdb.sql(f\"SELECT min(val_bpb) FROM '{sys.argv[1]}'\").fetchall()[0][0])"
    assert float(subprocess.check_output([sys.executable, "-c", code, str(path)])) == 0.9859
    names = sorted(file.name for file in store.home.iterdir())
    assert names == ["farm.duckdb", "farm.duckdb.wal", "history.parquet", "journal.jsonl"]


def test_readers_of_parquet_never_see_a_half_written_file(store: Store) -> None:
    import pandas as pd

    night(store)
    path = store.export_parquet()
    exporter = threading.Thread(target=lambda: [store.export_parquet() for _ in range(15)])
    exporter.start()
    reads = 0
    while exporter.is_alive() or not reads:
        assert len(pd.read_parquet(path)) == 7
        reads += 1
    exporter.join()


def test_threads_read_while_the_driver_writes(store: Store) -> None:
    """Four readers, agents and people, see whole experiments in growing numbers."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def read(audience: Any) -> None:
        seen = 0
        try:
            while not stop.is_set():
                ((count,),) = store.query("SELECT count(*) FROM history", audience=audience).rows
                assert count >= seen
                seen = count
        except BaseException as failure:
            failures.append(failure)

    readers = [threading.Thread(target=read, args=(who,)) for who in ("agent", "person", "agent", "person")]
    for reader in readers:
        reader.start()
    for number in range(12):
        add(store, number, "keep", 0.99)
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert len(store.records(NAME)) == 12


def test_two_threads_may_write(store: Store) -> None:
    add(store, 0, "keep", 0.99)
    workers = [
        threading.Thread(target=lambda k=k: [store.add_event("e", {"k": k, "i": i}) for i in range(20)]) for k in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert store.query("SELECT count(*) FROM events").rows == ((40,),)
    seqs = [position for position, _ in store.journal.records()]
    assert seqs == list(range(1, len(store.journal) + 1))


def test_three_thousand_experiments_are_rebuilt_and_asked_in_seconds(tmp_path: Path) -> None:
    """Linear, not quadratic: the journal is written here without a sync for each line."""
    count, branch = 3_000, make_branch()
    with (tmp_path / "journal.jsonl").open("wb") as file:

        def put(kind: Any, key: str, body: dict[str, Any]) -> None:
            file.write(encoded(JournalRecord(id=f"{kind}:{key}", kind=kind, time=branch.created, body=body)))

        put("branch", branch.name, to_body(branch))
        for number in range(count):
            id = f"{number:06d}"
            verdict = Verdict(decision="keep" if number % 100 == 0 else "discard", reason="so")
            put("experiment", id, to_body(make_experiment(number, id=id)))
            put("run", f"r{id}", {"experiment_id": id, **to_body(make_run(f"r{id}", 1 - number / 1e6))})
            put("verdict", f"{id}/1", {"experiment_id": id, "runs": 1, **to_body(verdict)})
    started = time.monotonic()
    with Store.open(tmp_path) as store:
        assert store.query("SELECT count(*) FROM history").rows == ((count,),)
        head = store.head(NAME)
        assert head is not None and head.experiment_id == "002900"
    assert time.monotonic() - started < 20


def test_a_home_of_an_earlier_version_gets_todays_near_misses(tmp_path: Path) -> None:
    """Its view listed what lost less than a sigma; today's goes by the estimates."""
    with Store.open(tmp_path):
        pass
    database = duckdb.connect(tmp_path / "farm.duckdb")
    database.execute("DELETE FROM schema_version WHERE version > 4")
    database.execute("CREATE OR REPLACE VIEW near_misses AS SELECT * FROM history WHERE gain > -sigma")
    database.close()
    with Store.open(tmp_path) as store:
        ((sql,),) = store.query("SELECT sql FROM duckdb_views() WHERE view_name = 'near_misses'").rows
        ((comment,),) = store.query("SELECT comment FROM duckdb_views() WHERE view_name = 'near_misses'").rows
    assert "estimates" in sql and "sigma)" not in sql and comment


def test_views_that_rank_ideas_say_what_all_runs_say_by_now(store: Store) -> None:
    """An effect that a verdict was based on is the history's; the leaderboard has the one of the table of estimates."""
    store.add_branch(make_branch())
    add(store, 0, "keep", 1.0)
    add(store, 1, "keep", 0.9, effect=0.5, helps=0.123)
    now = store.query("SELECT effect, helps FROM leaderboard WHERE number = 1").rows
    assert now == store.query("SELECT effect, helps FROM estimates WHERE id = 'mar8-0001'").rows and len(now) == 1
    assert now != store.query("SELECT effect, helps FROM history WHERE number = 1").rows == ((0.5, 0.123),)
    told = "SELECT comment FROM duckdb_columns() WHERE column_name IN ('effect', 'helps') AND table_name = "
    assert all("so far" in comment for (comment,) in store.query(f"{told}'leaderboard'").rows)
    assert all("when it was decided" in comment for (comment,) in store.query(f"{told}'history'").rows)


def test_estimates_follow_every_new_run_and_are_there_again_in_a_database_made_anew(store: Store) -> None:
    store.add_branch(make_branch())
    add(store, 0, "keep", 1.0)
    add(store, 1, "keep", 0.9)
    asked = "SELECT id, effect FROM estimates ORDER BY id"
    first = store.query(asked).rows
    assert store.query(asked).rows == first and len(first) == 1
    store.add_run("mar8-0001", make_run("mar8-0001-r1", 0.99, seed=2))
    again = store.query(asked).rows
    assert again[0][1] < first[0][1]
    store._tables._read(lambda cursor: cursor.execute("DELETE FROM estimates"))  # as in one that was rebuilt
    assert store.query(asked).rows == again
