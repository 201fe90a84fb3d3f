"""A process that answers queries of a long history has a copy of its database, which the farm may write meanwhile."""

import gc
import tempfile
import threading
from pathlib import Path

import duckdb
import pytest

from results import database
from results.database_copy import copy_database
from results.journal import JournalRecord
from results.query_server import JournalTables
from results.store import Store
from tests.results.result_samples import add, make_branch
from tests.results.test_store import flip_a_bit_in_each_block


def test_a_long_history_is_answered_from_a_copy_of_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, folder = tmp_path / "home", tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with Store.open(home) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 0.99)
    inserted: list[int] = []
    insert = database.insert_many

    def counted(connection: duckdb.DuckDBPyConnection, records: list[tuple[int, JournalRecord]]) -> None:
        inserted.append(len(records))
        insert(connection, records)

    monkeypatch.setattr(database, "insert_many", counted)
    with Store.open(home) as store:
        tables = JournalTables(home / "journal.jsonl", most_in_memory=0)
        (copy,) = folder.glob("*/queries.duckdb")
        assert ask(tables) == ((1,),) and inserted == [], "all of it was in the file that was copied"
        add(store, 1, "discard", 0.98)
        assert ask(tables) == ((2,),) and inserted == [3]
        tables.close()
        assert not copy.exists()
    flip_a_bit_in_each_block(home / "farm.duckdb")
    assert ask(JournalTables(home / "journal.jsonl", most_in_memory=0)) == ((2,),)
    gc.collect()
    assert not [*folder.iterdir()], "nothing is left"


def ask(tables: JournalTables) -> tuple[tuple[object, ...], ...]:
    return tables.table("SELECT count(*) FROM history", max_rows=5, timeout_s=10, audience="agent").rows


def test_a_database_that_is_written_meanwhile_is_copied_as_of_one_checkpoint(tmp_path: Path) -> None:
    source, has_ended = tmp_path / "farm.duckdb", threading.Event()

    def write() -> None:
        with duckdb.connect(str(source)) as connection:
            connection.execute("CREATE TABLE t (batch INTEGER, text VARCHAR); CHECKPOINT")
            begun.set()
            for batch in range(40):
                connection.execute("INSERT INTO t SELECT ?, md5(range::VARCHAR) FROM range(3000)", [batch])
                connection.execute("DELETE FROM t WHERE batch = ?", [batch - 9])
                connection.execute("CHECKPOINT")
        has_ended.set()

    begun = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    copies = 0
    while not has_ended.is_set():
        copy = tmp_path / f"{copies}.duckdb"
        if copy_database(source, copy):
            copies += 1
            with duckdb.connect(str(copy), read_only=True) as connection:
                ((rows, batches, text),) = connection.execute(
                    "SELECT count(*), count(DISTINCT batch), count(DISTINCT text) FROM t"
                ).fetchall()
            assert rows == 3000 * batches and text in (0, 3000)
    writer.join()
    assert copies > 3
