"""The benchmark of the store, on a history of a few runs."""

from pathlib import Path

import duckdb
import pytest

from benchmarks.store import in_words, journal_lines, measure, records_of, seconds_of
from research.errors import UserError
from results.journal import encoded
from results.query import run_query


def test_a_small_history_is_measured(tmp_path: Path) -> None:
    """The baseline and one idea of each branch."""
    every = [encoded(record) for at in range(40) for record in records_of(at % 3, at // 3, at)]
    assert list(journal_lines(40, 3))[3:] == every, "what is copied is what its record would be"
    figures = measure(40, 20, tmp_path)
    assert {"start", "rebuild", "append", "step", "tsv", "picture"} <= figures.keys()
    assert all(value > 0 for value in figures.values())
    assert (tmp_path / "results.tsv").read_text().count("\n") == 3 and (tmp_path / "progress.png").is_file()


def test_a_query_that_needs_too_much_memory_is_told_of_and_no_other_fault() -> None:
    with duckdb.connect(config={"memory_limit": "20MB", "temp_directory": "", "threads": 1}) as connection:

        def seconds(sql: str) -> float:
            return seconds_of(lambda: run_query(connection.cursor(), sql, max_rows=1, timeout_s=60))

        assert in_words(seconds("SELECT md5(range::VARCHAR) AS x FROM range(1_000_000) ORDER BY x")) == "out of memory"
        assert float(in_words(seconds("SELECT 1"))) >= 0
        with pytest.raises(UserError, match="nothing"):
            seconds("FROM nothing")
