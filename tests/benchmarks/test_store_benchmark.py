"""The benchmark of the store, on a history of a few runs."""

from pathlib import Path

from benchmarks.store import history, measure


def test_a_small_history_is_measured(tmp_path: Path) -> None:
    """The baseline and one idea of each branch."""
    assert sum(record.kind == "run" for record in history(40, 20)) == 40
    figures = measure(40, 20, tmp_path)
    assert {"start", "rebuild", "append", "step", "tsv", "picture"} <= figures.keys()
    assert all(value > 0 for value in figures.values())
    assert (tmp_path / "results.tsv").read_text().count("\n") == 3 and (tmp_path / "progress.png").is_file()
