from pathlib import Path

import pytest

from cluster import history_export
from cluster.history_export import HistoryExport
from results.experiment import Head
from results.group_entries import HEAD
from results.groups import head_event
from results.plot import Point
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import add, make_branch, make_experiment


def test_a_picture_is_drawn_when_its_branch_has_changed(tmp_path: Path) -> None:
    told: list[Path] = []
    picture = tmp_path / "progress.png"
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        export = HistoryExport(store, on_aside=lambda branch, file: told.append(file), say=print)
        export.add_picture(make_branch().name, picture)
        export.write()
        assert picture.read_bytes().startswith(b"\x89PNG") and (tmp_path / "home/history.parquet").is_file()
        picture.unlink()
        export.write()
        assert not picture.exists()
        add(store, 0, "keep", 1.5)
        export.write()
        assert picture.exists()
        assert told == []
        picture.write_bytes(b"\x89PNG a person's")
        add(store, 1, "keep", 1.4)
        export.write()
        assert told == [tmp_path / "progress.png.1"] and told[0].read_bytes() == b"\x89PNG a person's"


def test_files_that_cannot_be_written_end_nothing(tmp_path: Path) -> None:
    """Said once, with the file, and written once that is possible."""
    said: list[str] = []
    with Store.open(tmp_path / "home") as store:
        export = HistoryExport(store, on_aside=lambda branch, file: None, say=said.append)
        (tmp_path / "home" / "history.parquet").mkdir()  # stands for what the system refuses to write
        for _ in range(2):
            export.write()
        assert len(said) == 1 and "history.parquet" in said[0]
        (tmp_path / "home" / "history.parquet").rmdir()
        export.write()
        assert (tmp_path / "home" / "history.parquet").is_file() and len(said) == 1


def test_a_picture_has_the_heads_that_other_branches_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[Point]] = []
    monkeypatch.setattr(history_export, "write_progress_png", lambda path, records, title, heads: drawn.append(heads))
    other = "autoresearch/mar8-b"
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        store.add_branch(make_branch(other, group=make_branch().name))
        for number in range(3):
            add(store, number, "discard" if number else "keep", 1.5)
        for number, created in ((1, "2026-03-08T20:01:30Z"), (2, "2026-03-08T20:05:00Z")):
            store.add_experiment(make_experiment(number, branch=other, created=created))
        for id, expected in (("mar8-b-0001", 1.4), ("mar8-0002", 1.3), ("mar8-b-0002", 1.2)):
            head = Head(commit="c", experiment_id=id, scores=(), expected=expected)
            store.add_event(HEAD, head_event(make_branch().name, head, ""))
        export = HistoryExport(store, on_aside=lambda branch, file: None, say=print)
        export.add_picture(make_branch().name, tmp_path / "progress.png")
        export.write()
    assert [(point.number, point.val_bpb) for point in drawn[0]] == [(1, 1.4), (2, 1.3), (2, 1.2)]


def test_a_loop_may_be_opened_while_pictures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path / "home") as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 1.5)
        export = HistoryExport(store, on_aside=lambda branch, file: None, say=print)
        opens = lambda path, records, title, heads: export.add_picture("autoresearch/other", tmp_path / "b.png")  # noqa: E731
        monkeypatch.setattr(history_export, "write_progress_png", opens)
        export.add_picture(make_branch().name, tmp_path / "a.png")
        export.write()
