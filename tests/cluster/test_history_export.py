"""The files that a farm writes for people: when, and what becomes of them if they can't be written."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster import history_export
from cluster.history_export import HistoryExport
from results.drawing import Drawn, draw_apart, draw_here
from results.experiment import ExperimentRecord, Head, Verdict
from results.group_entries import HEAD
from results.groups import head_event
from results.plot import Picture
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import add, make_branch, make_experiment


def fail(file: Path, reason: str) -> None:
    raise AssertionError(f"{file}: {reason}")


def test_a_picture_is_drawn_when_its_branch_has_changed(tmp_path: Path) -> None:
    told: list[Path] = []
    picture = tmp_path / "progress.png"
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        export = HistoryExport(store, on_aside=lambda branch, file: told.append(file), on_failure=fail)
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


def test_a_picture_is_drawn_again_when_a_decision_has_changed(tmp_path: Path) -> None:
    """Also where another one changed the other way, so that as many are kept as before."""
    picture = tmp_path / "progress.png"
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        export = HistoryExport(store, on_aside=lambda branch, file: None, on_failure=fail)
        export.add_picture(make_branch().name, picture)
        for number, decision in enumerate(("keep", "keep", "discard")):
            add(store, number, decision, 1.5)
        drawn: list[Picture] = []

        def draw(pictures: Sequence[tuple[Path, Picture]]) -> list[Drawn]:
            drawn.extend(one for _, one in pictures)
            return [Drawn() for _ in pictures]

        for flipped in ({}, {}, {1: "discard", 2: "keep"}):
            for number, decision in flipped.items():
                store.add_verdict(make_experiment(number).id, Verdict(decision=decision, reason="after all"))  # type: ignore[arg-type]
            export.write(draw)
        assert len(drawn) == 2 and [point.number for point in drawn[1].keeps] == [0, 2]


def test_what_cannot_be_written_is_told_once_and_written_later(tmp_path: Path) -> None:
    failed: list[str] = []
    picture = tmp_path / "gone" / "progress.png"
    (tmp_path / "gone").write_text("a file where a folder should be")
    (tmp_path / "home" / "history.parquet").mkdir(parents=True)
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        export = HistoryExport(
            store, on_aside=lambda branch, file: None, on_failure=lambda file, reason: failed.append(file.name)
        )
        export.add_picture(make_branch().name, picture)
        add(store, 0, "keep", 1.5)
        for draw in (draw_here, draw_apart, draw_here):
            export.write(draw)
        assert sorted(set(failed)) == ["history.parquet", "progress.png"] and len(failed) <= 3
        picture.parent.unlink()
        (tmp_path / "home" / "history.parquet").rmdir()
        export.write(draw_apart)
        assert picture.read_bytes().startswith(b"\x89PNG") and (tmp_path / "home" / "history.parquet").is_file()


def test_the_event_loop_goes_on_while_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_export, "LEAST_SECONDS", 0.01)
    late: list[float] = []

    async def written() -> int:
        export.request()
        writing = asyncio.create_task(export.write_regularly())
        while not ended.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - before)
        writing.cancel()
        return len(late)

    ended = threading.Event()

    def slowly(pictures: Sequence[tuple[Path, Picture]]) -> list[Drawn]:
        time.sleep(0.5)
        ended.set()
        return [Drawn() for _ in pictures]

    monkeypatch.setattr(history_export, "draw_apart", slowly)
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        export = HistoryExport(store, on_aside=lambda branch, file: None, on_failure=fail)
        export.add_picture(make_branch().name, tmp_path / "progress.png")
        assert asyncio.run(written()) >= 10 and sorted(late)[len(late) // 2] < 0.25


def test_a_picture_has_the_heads_that_other_branches_made(tmp_path: Path) -> None:
    drawn: list[Picture] = []

    def keep(pictures: Sequence[tuple[Path, Picture]]) -> list[Drawn]:
        drawn.extend(picture for _, picture in pictures)
        return [Drawn() for _ in pictures]

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
        export = HistoryExport(store, on_aside=lambda branch, file: None, on_failure=fail)
        export.add_picture(make_branch().name, tmp_path / "progress.png")
        export.write(keep)
    assert [(point.number, point.val_bpb) for point in drawn[0].heads] == [(1, 1.4), (2, 1.3), (2, 1.2)]


def test_a_loop_may_be_opened_while_pictures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 1.5)
        export = HistoryExport(store, on_aside=lambda branch, file: None, on_failure=fail)
        records = store.records

        def opens(branch: str) -> list[ExperimentRecord]:
            export.add_picture("autoresearch/other", tmp_path / "b.png")
            return records(branch)

        monkeypatch.setattr(store, "records", opens)
        export.add_picture(make_branch().name, tmp_path / "a.png")
        export.write(lambda pictures: [Drawn() for _ in pictures])
