from pathlib import Path

from cluster.history_export import HistoryExport
from results.store import Store
from tests.results.result_samples import add, make_branch


def test_a_picture_is_drawn_when_its_branch_has_changed(tmp_path: Path) -> None:
    told: list[Path] = []
    picture = tmp_path / "progress.png"
    with Store.open(tmp_path / "home") as store:
        store.add_branch(make_branch())
        export = HistoryExport(store, on_aside=lambda branch, file: told.append(file))
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
