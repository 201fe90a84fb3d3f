"""Queries of others run in a process of their own, which may die of them; the store goes on, and its tables catch up."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from research.errors import FarmEnded, UserError
from results.journal import read_journal
from results.store import Store
from tests.in_time import in_time
from tests.results.result_samples import add, make_branch, make_run

HUNGRY = "SELECT count(*) FROM range(1000000000000) a, range(1000000000) b"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("home")) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 0.9979)
        yield store


def refusal(store: Store, sql: str, *, timeout_s: float = 10.0) -> str:
    with pytest.raises(UserError) as refused:
        store.queries.table(sql, timeout_s=timeout_s)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def pid_of(store: Store) -> int:
    process = store.queries._process
    assert process is not None
    return process.pid


def test_a_query_sees_every_record_so_far_and_what_it_may(asked: Store) -> None:
    """As the farm's own tables have it, estimates included; audit scores for people alone."""
    sql = "SELECT id, decision, val_bpb FROM history ORDER BY number"
    assert asked.queries.table(sql).rows == asked.query(sql).rows
    first = pid_of(asked)
    add(asked, 1, "discard", 0.9985)
    asked.add_run("mar8-0001", make_run("more", 0.99, audit_bpb=0.75))
    assert asked.queries.table(sql).rows == asked.query(sql).rows and pid_of(asked) == first
    sql = "SELECT seq, id FROM runs ORDER BY seq"
    assert asked.queries.text(sql) == asked.query(sql).to_text()
    assert len(asked.queries.table("FROM estimates").rows) == len(asked.query("FROM estimates").rows) > 0
    assert [0.75] in [list(row) for row in asked.queries.table("SELECT audit_bpb FROM audit", audience="person").rows]
    assert "audit" in refusal(asked, "SELECT audit_bpb FROM audit")
    for refused in ("SELECT * FROM read_text('/etc/passwd')", "COPY runs TO 'x.csv'", "SELECT 1; SELECT 2", "SELEC"):
        refusal(asked, refused)


@pytest.mark.parametrize("sql", [HUNGRY, "SELECT length(repeat('x', 4000000000))", "SELECT range(2000000000)"])
def test_a_query_that_needs_too_much_ends_alone(sql: str, asked: Store) -> None:
    """Neither the memory of the farm's process nor its tables have anything to do with it, and the next one is answered."""
    asked.queries.table("SELECT 1")
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    said: list[str] = []
    client = threading.Thread(target=lambda: said.append(refusal(asked, sql, timeout_s=1.0)))
    client.start()
    while client.is_alive():
        assert asked.add_event("work", {"sql": sql, "now": time.monotonic()})
        time.sleep(0.02)
    client.join()
    assert said and any(word in said[0].lower() for word in ("memory", "stopped", "too large"))
    assert in_time(began, 8) and psutil.Process().memory_info().rss - before < 2**28
    ((count,),) = asked.queries.table("SELECT count(*) FROM events").rows
    assert count == asked.query("SELECT count(*) FROM events").rows[0][0]


def test_an_answer_that_is_too_large_and_a_process_that_is_killed_are_one_line(asked: Store) -> None:
    assert "too large" in refusal(asked, "SELECT repeat('x', 1000000) FROM range(100)")
    asked.queries.table("SELECT 1")
    killed = threading.Timer(0.3, lambda: os.kill(pid_of(asked), 9))
    killed.start()
    assert "memory" in refusal(asked, "SELECT count(*) FROM range(1000000) a, range(1000000) b")
    assert asked.queries.table("SELECT 1").rows == ((1,),)


def test_a_query_under_way_when_the_farm_ends_is_told_so(tmp_path: Path) -> None:
    """It was not the query's fault: whoever asked can read the home by now."""
    said: list[UserError] = []

    def ask() -> None:
        with pytest.raises(UserError) as refused:
            store.queries.table("SELECT count(*) FROM range(1000000) a, range(1000000) b")
        said.append(refused.value)

    with Store.open(tmp_path) as store:
        store.queries.table("SELECT 1")
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)
    asking.join()
    assert isinstance(said[0], FarmEnded)
    with pytest.raises(FarmEnded):
        store.queries.table("SELECT 1")


def test_a_fault_is_no_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its traceback is logged."""
    with Store.open(tmp_path) as store:
        monkeypatch.setattr("results.query_process.SERVER", "results.no_such_server")
        assert "No module named" in refusal(store, "SELECT 1")
    assert "results.no_such_server" in caplog.text


def test_what_libraries_reserve_on_a_host_with_many_cores_is_no_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a library's threads reserves address space that it never uses: a mapping without access stands for them."""
    reserving = "import mmap\nreserved = mmap.mmap(-1, 12 * 2**30, flags=mmap.MAP_PRIVATE | mmap.MAP_NORESERVE, prot=0)\n"
    (tmp_path / "sitecustomize.py").write_text(reserving)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Store.open(tmp_path / "home") as store:
        assert [list(row) for row in store.queries.table("SELECT 1").rows] == [[1]]
        assert "memory" in refusal(store, "SELECT length(repeat('x', 4000000000))").lower()


def test_the_process_ends_with_the_farms(tmp_path: Path) -> None:
    """However that ends, and whatever the query is doing."""
    code = """
import sys, threading, time
from pathlib import Path
from results.store import Store
store = Store.open(Path(sys.argv[1]))
store.queries.table("SELECT 1")
threading.Thread(target=store.queries.table, args=("SELECT count(*) FROM range(1000000) a, range(1000000) b",)).start()
time.sleep(0.2)
print(store.queries._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as farm:
        assert farm.stdout is not None
        server = psutil.Process(int(farm.stdout.readline()))
        farm.kill()
    psutil.wait_procs([server], timeout=60)
    assert not server.is_running()


def test_records_count_that_the_database_did_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has them; the tables get them when they are read, in this process or in another."""
    with Store.open(tmp_path) as store:
        store.add_branch(make_branch())
        for fails in ("BEGIN", "INSERT", "COMMIT"):
            with monkeypatch.context() as patch:
                patch.setattr(store._writer._database, "writer", Failing(store._writer._database.writer, fails))
                assert store.add_event("work", {"fails": fails}, id=fails)
                store._writer._catch_up_quietly()
            assert [record.id for record in read_journal(tmp_path / "journal.jsonl")][-1] == f"event:{fails}"
            assert store.add_event("work", {"after": fails}, id=f"after {fails}") and not store.add_event("work", {}, id=fails)
            assert store.query("SELECT id FROM events ORDER BY seq").rows[-2:] == ((fails,), (f"after {fails}",))
        with pytest.raises(duckdb.Error):
            store._add("event", "bad", {"kind": None, "details": {}})
        assert store.journal.position("event:bad") is None
        add(store, 0, "keep", 0.99)
        expected = store.query("SELECT seq, id FROM runs").rows
    with Store.open(tmp_path) as store:
        assert store.query("SELECT seq, id FROM runs").rows == expected
        assert json.loads(store.query("SELECT count(*) FROM events").to_json())["rows"] == [[6]]


class Failing:
    """A cursor on which statements that begin with a word fail, as with a full disk or no memory left."""

    def __init__(self, cursor: Any, word: str) -> None:
        self._cursor, self._word = cursor, word

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql.startswith(self._word):
            raise duckdb.IOException("no space left") if self._word == "COMMIT" else duckdb.OutOfMemoryException("no memory")
        return self._cursor.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)
