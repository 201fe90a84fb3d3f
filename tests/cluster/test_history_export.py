from pathlib import Path

from cluster.history_export import HistoryExport
from results.store import Store
from tests.results.result_samples import add, make_branch


def test_a_picture_is_drawn_when_its_branch_has_changed(tmp_path: Path) -> None:
    picture = tmp_path / "progress.png"
    with Store.open(tmp_path / "home") as store:
        store.add_branch(make_branch())
        export = HistoryExport(store)
        export.add_picture(make_branch().name, picture)
        export.write()
        assert picture.read_bytes().startswith(b"\x89PNG") and (tmp_path / "home/history.parquet").is_file()
        picture.unlink()
        export.write()
        assert not picture.exists()
        add(store, 0, "keep", 1.5)
        export.write()
        assert picture.exists()
