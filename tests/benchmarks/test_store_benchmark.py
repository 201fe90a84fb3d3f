"""The benchmark of the store, on a history of a few runs."""

from pathlib import Path

from benchmarks.store import journal_lines, measure, records_of
from results.journal import encoded


def test_a_small_history_is_measured(tmp_path: Path) -> None:
    """The baseline and one idea of each branch."""
    every = [encoded(record) for at in range(40) for record in records_of(at % 3, at // 3, at)]
    assert list(journal_lines(40, 3))[3:] == every, "what is copied is what its record would be"
    figures = measure(40, 20, tmp_path)
    assert {"start", "rebuild", "append", "step", "tsv", "picture"} <= figures.keys()
    assert all(value > 0 for value in figures.values())
    assert (tmp_path / "results.tsv").read_text().count("\n") == 3 and (tmp_path / "progress.png").is_file()
