"""`farm import`: an outside results.tsv in the store, where agents read it and nothing depends on it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli import main
from cluster.home import Home
from results import foreign_import
from results.foreign_import import event_of, examined, lines_of
from results.foreign_tsv import parse_foreign
from results.query import Table
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import make_branch
from tests.results.test_autopsy import CELLS, LINES, MESSY


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.tsv"
    path.write_text(MESSY)
    return path


def asked(home: Path, sql: str) -> Table:
    with Store.open(with_tables(home)) as store:
        return store.query(sql)


def test_agents_read_every_line_of_it(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert main(["import", str(table), "--sigma", "0.0007", "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "line 15" in said and "theirs.tsv" in said and "foreign_results" in said
    rows = asked(home, "SELECT line, commit, val_bpb, memory_gb, status, problem IS NULL FROM foreign_results").rows
    assert [row[0] for row in rows] == [2, 3, 4, 5, 6, 7, 10, 13, 14, 15, 16, 17]
    assert rows[1] == (3, "a1", 0.986, 43.9, "keep", True) and rows[4] == (6, "", None, None, "crash", True)
    assert [row[4] for row in rows[-3:]] == ["unreadable"] * 3
    assert [row[0] for row in rows if not row[5]] == [5, 15, 16, 17]
    told = asked(
        home, "SELECT DISTINCT source, sigma, reported_gain, low < estimated_gain, high > estimated_gain FROM foreign_results"
    )
    assert [row[:2] + row[3:] for row in told.rows] == [("theirs.tsv", 0.0007, True, True)]
    assert told.rows[0][2] == pytest.approx(0.0129)
    helps = dict(asked(home, "SELECT line, helps FROM foreign_results WHERE helps IS NOT NULL").rows)
    assert helps.keys() == {3, 10, 14} and helps[3] > 0.99 > helps[10]
    comments = asked(home, "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'foreign_results'").rows
    assert dict(comments)["helps"] and dict(comments)["problem"]


def test_the_same_file_changes_nothing_and_another_needs_a_name(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    command = ["import", str(table), "--home", str(home)]
    assert main(command) == 0
    before = Home(home).journal.read_bytes()
    assert main(command) == main([*command, "--name", "again"]) == 0
    assert "theirs.tsv" in capsys.readouterr().out.splitlines()[-1] and Home(home).journal.read_bytes() == before
    table.write_text(MESSY + "a10\tkeep\t0.984000\t1\t1\t1\t1\tlater\t42\n")
    assert main(command) == 2
    refused = capsys.readouterr().err
    assert "--name" in refused and refused.count("\n") == 1 and Home(home).journal.read_bytes() == before
    assert main([*command, "--name", "theirs.tsv"]) == main([*command, "--name", "theirs.tsv"]) == 0
    assert asked(home, "SELECT source, count(*) FROM foreign_results GROUP BY ALL").rows == (("theirs.tsv", 13),)
    table.write_text(MESSY.replace("a1", "b1"))
    assert main([*command, "--name", "their second night"]) == 0
    assert len(asked(home, "SELECT DISTINCT source FROM foreign_results").rows) == 2


def test_no_result_of_ours_sees_it(table: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Store.open(with_tables(home)) as store:
        store.add_branch(make_branch())
    assert main(["import", str(table), "--home", str(home)]) == 0
    for view in ("history", "leaderboard", "near_misses", "experiments", "runs", "estimates"):
        assert asked(home, f"SELECT * FROM {view}").rows == ()


def test_a_database_that_is_rebuilt_has_it(table: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert main(["import", str(table), "--home", str(home)]) == 0
    before = asked(home, "SELECT * FROM foreign_results").rows
    Home(home).duckdb.unlink()
    assert asked(home, "SELECT * FROM foreign_results").rows == before != ()


@pytest.mark.parametrize("text", [None, "", "hello\nworld\n", "commit\tval_bpb\tstatus\n"])
def test_a_file_without_a_row_is_one_line(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, home = tmp_path / "x.tsv", tmp_path / "home"
    if text is not None:
        path.write_text(text)
    assert main(["import", str(path), "--home", str(home)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not home.exists()


def test_a_file_with_too_many_rows_is_recorded_without_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_import, "MOST_EXAMINED", 8)
    found = event_of(examined(parse_foreign(MESSY), 0.001), "many")
    assert found["estimated_gain"] is None and len(found["lines"]) == 12


NASTY = st.lists(st.one_of(LINES, st.lists(CELLS, min_size=5, max_size=5).map("\t".join)), min_size=1, max_size=12)


def test_whatever_is_in_a_file_can_be_stored_and_read(tmp_path: Path) -> None:
    with Store.open(with_tables(tmp_path / "home")) as store:

        @settings(max_examples=20, deadline=None)
        @given(NASTY)
        def stored_and_read(lines: list[str]) -> None:
            file = parse_foreign("\n".join(lines).encode(errors="replace").decode())
            store.add_event("foreign", event_of(examined(file, 0.001), "nasty"))
            rows = store.query("SELECT line, status, description, commit FROM foreign_results").rows
            assert [row[0] for row in rows] == sorted(line["line"] for line in lines_of(file, {}))
            assert len(rows) == len(file.rows) + len(file.unreadable)

        stored_and_read()
