"""`farm sql`: its prompt, and results in the formats that other programs read."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from cluster.cli import main
from cluster.home import Home
from cluster.sql_prompt import COMMANDS, SqlCompleter, SqlSession, ask_for_queries, history_of_queries, read_schema
from results.query import Table
from results.table_formats import to_csv, to_markdown, to_parquet
from tests.cluster.farm_samples import make_history


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("asked")
    make_history(folder, audit_bpb=3.1)
    return Home(folder)


@pytest.fixture(scope="module")
def completer(home: Home) -> SqlCompleter:
    return SqlCompleter(read_schema(home, audience="person"))


def completions(completer: SqlCompleter, before: str, after: str = "") -> dict[str, str]:
    """What is offered at a cursor, with the words beside it."""
    found = completer.get_completions(Document(before + after, len(before)), CompleteEvent(completion_requested=True))
    return {one.text: one.display_meta_text for one in found}


def test_tables_are_completed_where_a_table_is_expected(completer: SqlCompleter) -> None:
    offered = completions(completer, "SELECT id FROM ")
    assert {"history", "runs", "near_misses", "audit"} <= set(offered) and "val_bpb" not in offered
    assert "one row per experiment" in offered["history"]
    assert set(completions(completer, "select * from history join la")) == {"latest_verdicts"}
    assert completions(completer, ".schema lea") == {"leaderboard": offered["leaderboard"]}


def test_columns_of_the_named_tables_are_completed_with_what_they_hold(completer: SqlCompleter) -> None:
    offered = completions(completer, "SELECT val", " FROM leaderboard")
    assert set(offered) == {"val_bpb"} and "bits per byte" in offered["val_bpb"]
    assert "consistency_mean" in completions(completer, "SELECT r.con", " FROM runs r JOIN history h ON h.id = r.experiment_id")
    assert not completions(completer, "SELECT h.con", " FROM runs r JOIN history h ON h.id = r.experiment_id")
    assert {"GROUP BY", "GROUP BY ALL"} <= set(completions(completer, "SELECT 1 FROM runs GRO"))


def test_a_talk_is_answered_from_keys_and_remembered(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    typed = "SELECT count(*) AS n\x1b\r FROM history\r.format csv\rSELECT title FROM history WHERE number = 2\rSELECT nothing\r"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(f"{typed}.nothing\r\x04")
        assert ask_for_queries(home, audience="agent") == 0
    shown = capsys.readouterr().out
    assert "\n3\n" in shown and "title\nidea 2\n" in shown and "nothing" in shown and ".help" in shown
    file = tmp_path / "autoresearch-farm" / "sql_history"
    assert file.stat().st_mode & 0o077 == 0
    assert "SELECT count(*) AS n\n FROM history" in list(history_of_queries().load_history_strings())


def test_commands_of_the_prompt_tell_the_schema_and_write_files(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = SqlSession(home, read_schema(home, audience="agent"), "agent")
    file = tmp_path / "x.md"
    for command in (
        ".help",
        ".tables",
        ".schema near_misses",
        ".schema none",
        f".output {file}",
        "FROM runs SELECT id",
        ";",
    ):
        assert session.answer(command)
    shown = capsys.readouterr().out
    assert "worth combining" in shown and "90% interval" in shown and "no table 'none'" in shown and "audit" not in shown
    assert all(f"\n  {command}" in shown for command in COMMANDS)
    assert file.read_text().count("\n") == 5 and "3 rows" in shown
    assert session.answer("FROM runs SELECT count(*)") and "x.md" not in capsys.readouterr().out, "a file takes one result"
    assert not session.answer(".quit")


def test_the_history_is_in_memory_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history_of_queries(tmp_path / "file" / "below").append_string("SELECT 1")


AWKWARD = Table(
    columns=("n", "text", "n"),
    types=("BIGINT", "VARCHAR", "HUGEINT"),
    rows=((1, 'a|b\n"c", d', 2**100), (None, None, None)),
)


def test_csv_and_markdown_hold_any_text() -> None:
    assert list(csv.reader(io.StringIO(to_csv(AWKWARD)))) == [
        ["n", "text", "n"],
        ["1", 'a|b\n"c", d', str(2**100)],
        ["", "", ""],
    ]
    lines = to_markdown(AWKWARD).splitlines()
    assert len(lines) == 4 and all(line.replace("\\|", "").count("|") == 4 for line in lines) and "---:" in lines[1]


def test_parquet_holds_the_types_of_columns_without_a_value() -> None:
    made = pq.read_table(io.BytesIO(to_parquet(AWKWARD)))
    assert [str(field.type) for field in made.schema][:2] == ["int64", "string"]
    assert made.schema.names == ["n", "text", "n_2"] and made.column(2).to_pylist() == [str(2**100), None]


def test_a_file_is_written_in_the_format_of_its_suffix(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    query, at = (
        "SELECT id, val_bpb, created, parents FROM experiments JOIN history USING (id, created)",
        ["--home", str(home.folder)],
    )
    for name in ("x.parquet", "x.csv", "x.json", "x.md"):
        assert main(["sql", query, "--output", str(tmp_path / name), *at]) == 0
    assert capsys.readouterr().out.count("3 rows written") == 4
    frame = pd.read_parquet(tmp_path / "x.parquet")
    assert frame["val_bpb"].tolist() == [3.0, 2.5, 2.75] and frame["created"].dtype.kind == "M"
    assert pd.read_csv(tmp_path / "x.csv")["val_bpb"].tolist() == [3.0, 2.5, 2.75]
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 3


def test_commands_of_the_prompt_are_obeyed_where_they_are_piped(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ["--home", str(home.folder)]
    for text, code, says in (
        (".tables\n", 0, "near_misses"),
        (".format csv\nSELECT count(*) AS n\nFROM runs\n", 0, "n\n3\n"),
        (".nothing\nSELECT 1\n", 2, ".help"),
        (".quit\nSELECT nothing\n", 0, ""),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["sql", *at]) == code
        said = capsys.readouterr()
        assert says in (said.err if code else said.out)


def test_csv_and_files_have_all_rows_and_a_table_says_that_it_has_not(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ["sql", "SELECT range AS n FROM range(1500)", "--home", str(home.folder)]
    assert main([*query, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1501
    assert main(query) == 0
    assert "the first 1,000 rows" in capsys.readouterr().out
    for name in ("x.json", "x.txt"):
        assert main([*query, "--output", str(tmp_path / name)]) == 0
        assert "1499" in (tmp_path / name).read_text() and "first" not in capsys.readouterr().out


def test_an_output_without_a_format_or_a_file_is_explained(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["SELECT 1", "--home", str(home.folder)]
    for words, says in (
        (["--format", "parquet"], "--output FILE.parquet"),
        (["--output", "night.xls"], "--format"),
        (["--output", str(home.journal / "x.csv")], "--output"),
        (["--output", str(tmp_path / "none" / "x.csv")], "--output"),
        (["--json", "--format", "csv"], "--format csv"),
        (["--json", "--output", "night.csv"], "--json"),
    ):
        assert main(["sql", *words, *at]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    assert main(["sql", "--format", "csv", "SELECT 1", "--home", str(tmp_path / "none")]) == 2
    assert "Nothing is recorded" in capsys.readouterr().err
