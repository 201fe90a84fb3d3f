"""Agents' SQL: what it may ask, and one attack for each thing that it may not."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from research.errors import UserError
from results.query import Table
from results.store import Store
from tests.in_time import in_time
from tests.results.result_samples import add, make_branch, make_experiment, make_run


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with three experiments, for queries alone."""
    with Store.open(tmp_path_factory.mktemp("home")) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 0.9979)
        add(store, 1, "discard", 0.9985)
        add(store, 2, "crash", None)
        (store.home / "secret.txt").write_text("a,b\n1,2\n")
        yield store


def refusal(store: Store, sql: str, **limits: float) -> str:
    with pytest.raises(UserError) as refused:
        store.query(sql, **limits)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, val_bpb FROM history",
        "WITH kept AS (FROM history WHERE decision = 'keep') SELECT count(*) FROM kept",
        "FROM history SELECT id",
        "SHOW TABLES",
        "DESCRIBE history",
        "SUMMARIZE history",
        "SELECT 1;  -- a comment",
        "VALUES (1), (2)",
    ],
)
def test_reading_is_allowed(asked: Store, sql: str) -> None:
    assert asked.query(sql).rows


@pytest.mark.parametrize(
    "sql",
    [
        "COPY history TO 'stolen.csv'",
        "COPY runs FROM 'secret.txt'",
        "EXPORT DATABASE 'stolen'",
        "ATTACH 'other.duckdb'",
        "ATTACH ':memory:' AS other",
        "DETACH farm",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "PRAGMA database_list",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "INSERT INTO events VALUES (1, 'x', 'x', NULL, NULL)",
        "UPDATE runs SET val_bpb = 0",
        "DELETE FROM verdicts",
        "DROP TABLE runs",
        "CREATE TABLE mine (x INTEGER)",
        "CREATE TEMP TABLE mine (x INTEGER)",
        "ALTER TABLE runs ADD COLUMN x INTEGER",
        "BEGIN",
        "COMMIT",
        "CHECKPOINT",
        "VACUUM",
        "USE memory",
        "PREPARE p AS SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
    ],
)
def test_only_reading_is_allowed(asked: Store, sql: str) -> None:
    assert refusal(asked, sql).startswith("Only reading is allowed")


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("INSTALL httpfs", "INSTALL"),
        ("load httpfs", "LOAD"),
        ("-- a comment\n/* and\nanother */ DETACH farm", "DETACH"),
        ("WITH x AS (SELECT 1) INSERT INTO events SELECT * FROM x", "INSERT"),
    ],
)
def test_what_is_refused_is_named_as_it_was_written(asked: Store, sql: str, word: str) -> None:
    assert refusal(asked, sql).endswith(f"not {word}.")


def test_bytes_are_text_as_duckdb_writes_it(asked: Store) -> None:
    table = asked.query("SELECT 1 AS n, 'x\\xFF'::BLOB AS b, ['y'::BLOB] AS many")
    assert json.loads(table.to_json())["rows"] == [[1, "x\\xFF", ["y"]]]
    assert "x\\xFF" in table.to_text() and "b'" not in table.to_text().splitlines()[2].split("  ")[1]


@pytest.mark.parametrize(("cell_width", "width"), [(None, None), (30, None), (200, 40)])
def test_columns_are_aligned_in_an_encoding_that_lacks_characters(cell_width: int | None, width: int | None) -> None:
    rows = (("\u00e9t\u00e9" * 20, "a", 1), ("ete", "\u597d", 2))
    table = Table(columns=("n\u00e9", "b", "number"), rows=rows)
    for encoding in ("ascii", "latin-1", "utf-8"):
        lines = table.to_text(cell_width=cell_width, width=width, encoding=encoding).splitlines()[:4]
        assert [line.encode(encoding).decode(encoding) for line in lines] == lines
        assert len({len(line) for line in lines}) == 1 and all(width is None or len(line) <= width for line in lines)


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 1; DROP TABLE runs", "COMMIT; DROP TABLE runs", "", "-- x"])
def test_exactly_one_statement_is_allowed(asked: Store, sql: str) -> None:
    assert "Exactly one SELECT" in refusal(asked, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('{home}/secret.txt')",
        "SELECT * FROM read_text('{home}/journal.jsonl')",
        "SELECT * FROM read_json('{home}/journal.jsonl')",
        "SELECT * FROM '{home}/secret.txt'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM query('COPY runs TO ''x.csv''')",
        "WITH x AS (INSERT INTO events VALUES (1, 'x', 'x', NULL, NULL) RETURNING *) SELECT * FROM x",
        "SELECT * FROM enable_profiling(save_location = '{home}/profile.json')",
        "SELECT * FROM sql_auto_complete('SEL')",
        "SELECT getenv('HOME')",
        "SELECT * FROM records",
        "SELECT ?",
    ],
)
def test_no_select_reaches_files_settings_or_variables(asked: Store, sql: str) -> None:
    records = [1]  # a Python variable that a query must not see
    before = sorted(asked.home.iterdir())
    refusal(asked, sql.format(home=asked.home))
    assert records and sorted(asked.home.iterdir()) == before
    assert asked.query("SELECT count(*) FROM events").rows == ((0,),)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT audit_bpb FROM runs",
        "SELECT audit_bpb FROM history",
        "SELECT * FROM audit",
        "SELECT * FROM temp.audit",
        "SELECT * FROM temp.main.audit",
        "SELECT * FROM query('FROM audit')",
        "SELECT * FROM query_table('audit')",
    ],
)
def test_agents_do_not_reach_audit_scores(asked: Store, sql: str) -> None:
    assert asked.query("SELECT count(*) FROM audit", audience="person").rows == ((2,),)
    assert ("audit",) in asked.query("SHOW TABLES", audience="person").rows, "a person finds it even before its scores are read"
    refusal(asked, sql)


def test_no_audit_score_lies_in_anything_that_a_query_can_read(tmp_path: Path) -> None:
    """Neither in any table nor in the bytes of the database's own file, which DuckDB lets a query read."""
    score = 0.8125937
    home = tmp_path / "home"
    with Store.open(home) as store:
        store.add_branch(make_branch())
        store.add_experiment(make_experiment(0))
        store.add_run("mar8-0000", make_run("r0", 0.99, audit_bpb=score))
        assert store.query("SELECT audit_bpb FROM audit", audience="person").rows == ((score,),)
        for (table,) in store.query("SHOW TABLES").rows:
            text = store.query(f"SELECT * FROM {table}").to_json()
            text = text.replace("audit_sha256", "")  # which rows, not how they scored
            assert "audit" not in text and str(score) not in text
        assert store.record("mar8-0000").runs[0].audit_bpb is None
    assert str(score).encode() in (home / "journal.jsonl").read_bytes()
    for file in ("farm.duckdb", "farm.duckdb.wal"):
        content = (home / file).read_bytes() if (home / file).exists() else b""
        assert str(score).encode() not in content and struct.pack("<d", score) not in content


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000) a, range(1000000) b",
        "SELECT * FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = -1",
        "WITH RECURSIVE forever(n) AS (SELECT 1 UNION ALL SELECT n % 7 + 1 FROM forever) SELECT sum(n) FROM forever",
    ],
)
def test_a_query_without_end_is_stopped(asked: Store, sql: str) -> None:
    started = time.monotonic()
    assert refusal(asked, sql, timeout_s=0.3) == "The query was stopped after 0.3 s: ask for less."
    assert in_time(started, 3)
    assert asked.query("SELECT 1").rows == ((1,),)


def test_ctrl_c_ends_a_query_at_once(asked: Store) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    ctrl_c = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    try:
        ctrl_c.start()
        with pytest.raises(KeyboardInterrupt):
            asked.query("SELECT count(*) FROM range(1000000) a, range(1000000) b", timeout_s=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert in_time(began, 10)
    assert asked.query("SELECT 1").rows == ((1,),)


def test_a_hungry_query_fails_alone(asked: Store) -> None:
    sql = "SELECT * FROM range(1000000000) ORDER BY random() LIMIT 1000000000"
    assert refusal(asked, sql, timeout_s=2).startswith(("Out of Memory Error", "The query was stopped"))
    assert asked.query("SELECT 1").rows == ((1,),)


def test_rows_are_capped_and_it_says_so(asked: Store) -> None:
    table = asked.query("SELECT * FROM range(50)", max_rows=5)
    assert len(table.rows) == 5 and table.truncated
    assert table.to_text().endswith("(the first 5 rows; there are more: narrow the query or use LIMIT and OFFSET)\n")
    exact = asked.query("SELECT * FROM range(5)", max_rows=5)
    assert len(exact.rows) == 5 and not exact.truncated
    endless = asked.query("SELECT a.range FROM range(1000000) a, range(1000000) b", max_rows=5)
    assert len(endless.rows) == 5 and endless.truncated


def test_errors_are_one_line_that_helps(asked: Store) -> None:
    assert refusal(asked, "SELECT * FROM experiment") == (
        "Catalog Error: Table with name experiment does not exist! There are: branches, changes, costs, decisions, "
        "estimates, events, experiments, foreign_results, heads, history, latest_verdicts, leaderboard, lost, near_misses, "
        "runs, verdicts, work, workers."
    )
    assert 'Candidate bindings: "val_bpb"' in refusal(asked, "SELECT val_bp FROM history")
    assert refusal(asked, "SELEC 1") == 'Parser Error: syntax error at or near "SELEC"'


def test_text_is_aligned(asked: Store) -> None:
    assert asked.query("SELECT number, title, val_bpb FROM history").to_text() == (
        "number  title     val_bpb\n"
        "------  --------  -------\n"
        "     0  baseline   0.9979\n"
        "     1  idea 1     0.9985\n"
        "     2  idea 2       NULL\n"
        "(3 rows)\n"
    )


def test_text_shows_one_cell_whole_and_cuts_long_ones_in_tables() -> None:
    diff = "-DEPTH = 8\n+DEPTH = 9\n" * 30
    assert Table(columns=("diff",), rows=((diff,),)).to_text() == diff + "\n"
    lines = Table(columns=("id", "diff"), rows=(("a", diff), ("b", "short"))).to_text(cell_width=20).splitlines()
    assert lines[2] == r"a   -DEPTH = 8\n+DEPTH…"
    piped = Table(columns=("diff", "id"), rows=((diff, "a"), ("short", "b"))).to_text(cell_width=None).splitlines()
    assert piped[2] == diff.replace("\n", r"\n") + "  a" and piped[3] == f"{'short':<200}  b" and "cut" not in piped[-1]
    assert Table(columns=("a",), rows=()).to_text() == "a\n-\n(0 rows)\n"


def test_on_a_terminal_the_longest_text_is_cut_and_neither_figures_nor_names_are() -> None:
    table = Table(columns=("id", "title", "hypothesis", "val_bpb"), rows=(("mar8-0001", "t" * 60, "h" * 90, 3.141593),))
    *lines, footer = table.to_text(width=80).splitlines()
    assert max(map(len, lines)) == 80 and "mar8-0001" in lines[2] and "3.141593" in lines[2] and "--json" in footer
    assert "--json" in Table(columns=("a", "b"), rows=(("t" * 300, 1),)).to_text(width=900).splitlines()[-1]
    assert table.to_text(width=300) == table.to_text() and "h" * 90 in table.to_text()
    many = Table(columns=tuple(f"a_column_with_a_name_{n}" for n in range(9)), rows=(("text " * 9,) * 9,))
    assert many.to_text(width=80).splitlines()[0].split() == list(many.columns)


def test_json_holds_what_json_can(asked: Store) -> None:
    """And what it can't hold as text, so that it can be told from NULL; a terminal shows the same words."""
    sql = """SELECT created, val_bpb, 'nan'::DOUBLE AS nan, NULL::DOUBLE AS none, ['-inf'::DOUBLE, 2] AS list,
             {'a': 'inf'::DOUBLE} AS struct FROM history LIMIT 1"""
    assert json.loads(asked.query(sql).to_json(), parse_constant=pytest.fail) == {
        "columns": ["created", "val_bpb", "nan", "none", "list", "struct"],
        "rows": [["2026-03-08 20:00:00", 0.9979, "NaN", None, ["-Infinity", 2], {"a": "Infinity"}]],
        "truncated": False,
    }
    table = asked.query("SELECT * FROM (VALUES ('inf'::DOUBLE), ('-inf'), ('nan'), (NULL), (1)) t(x)")
    carried = json.loads(table.to_json())["rows"]
    assert Table(columns=table.columns, rows=tuple(map(tuple, carried))).to_text() == table.to_text(), (
        "as a farm that runs says"
    )
    assert table.to_text().split()[2:7] == ["Infinity", "-Infinity", "NaN", "NULL", "1"]


CTRL_C = """
import os, signal, sys, threading
from pathlib import Path
from results.store import query_home
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
query_home(Path(sys.argv[1]), "SELECT count(*) FROM range(100000) a, range(1000000) b WHERE a.range % 7 = b.range % 11")
"""


def test_ctrl_c_during_a_query_is_ctrl_c(tmp_path: Path) -> None:
    with Store.open(tmp_path) as opened:
        opened.add_branch(make_branch())
    done = subprocess.run([sys.executable, "-c", CTRL_C, str(tmp_path)], capture_output=True, text=True)
    ended = done.stderr.splitlines()[-1]
    assert ended == "KeyboardInterrupt" or "The query was stopped after" in ended, "DuckDB looks for Ctrl-C now and then only"
