"""The exported folder is read by pandas, polars and DuckDB, and fetched back from a hub by the hub's own client."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from cluster.cli import main
from cluster.export_folder import write_folder
from cluster.home import Home
from cluster.hub_push import check_name
from research.errors import UserError
from results.history import read_history
from results.parquet_export import QUERIES, SCHEMA_VERSION, TABLE_KEY, VERSION_KEY
from results.schema import MIGRATIONS
from tests.cluster.dashboard.night import record_night
from tests.research.data.test_hub import LocalHub, run_python

REPO = "me/my-farm"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("night"))
    record_night(home.folder, hostile="|\n<b>")
    return home


@pytest.fixture(scope="module")
def folder(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("out") / "farm"
    assert main(["export", str(made), "--home", str(home.folder)]) == 0
    return made


def test_every_table_is_read_by_duckdb_pandas_and_polars(folder: Path) -> None:
    import pandas
    import polars

    for name in QUERIES:
        path = folder / "data" / f"{name}.parquet"
        rows = len(pandas.read_parquet(path))
        assert len(polars.read_parquet(path)) == rows
        assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(rows,)]
    (best,) = duckdb.sql(f"SELECT min(val_bpb) FROM '{folder}/data/runs.parquet'").fetchall()
    assert polars.read_parquet(folder / "data" / "history.parquet")["decision"].value_counts().height >= 4
    assert 1.0 < best[0] < 1.02
    curves = polars.read_parquet(folder / "data" / "curves.parquet")
    assert curves.filter(polars.col("run_id") == "mar8-0001-r0")["step"].max() == 590 and curves["loss"].null_count() == 0


def test_each_file_says_its_schema_version_and_what_it_holds(folder: Path) -> None:
    assert SCHEMA_VERSION == len(MIGRATIONS) == json.loads((folder / "export.json").read_text())["schema_version"]
    for name in QUERIES:
        about = pq.read_schema(folder / "data" / f"{name}.parquet")
        assert about.metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode() and about.metadata[TABLE_KEY] == name.encode()
        assert about.metadata[b"comment"], name
    helps = pq.read_schema(folder / "data" / "history.parquet").field("helps")
    assert b"probab" in helps.metadata[b"comment"].lower()


def test_no_audit_score_and_no_raw_record_is_exported(folder: Path) -> None:
    for name in QUERIES:
        columns = pq.read_schema(folder / "data" / f"{name}.parquet").names
        assert "record" not in columns and not any("audit" in column for column in columns)
    import pandas

    runs = pandas.read_parquet(folder / "data" / "runs.parquet")
    assert "audit" not in runs.to_csv()


def test_each_branch_has_its_results_tsv(folder: Path) -> None:
    import pandas

    tables = {path.name: pandas.read_csv(path, sep="\t") for path in (folder / "results").iterdir()}
    assert set(tables) == {"mar8.tsv", "mar8-gpu1.tsv"}
    assert list(tables["mar8.tsv"].columns) == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert (tables["mar8.tsv"]["status"] == "keep").sum() >= 3


def test_the_card_names_the_tables_for_the_hub_and_where_the_heads_stand(folder: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(folder / "README.md")
    configs = {one["config_name"]: one for one in card.data.to_dict()["configs"]}
    assert configs["history"]["default"] and all((folder / one["data_files"]).is_file() for one in configs.values())
    assert "1.0421 -> 1.0140" in card.text and "NVIDIA H100" in card.text and "18 experiments" in card.text


def test_a_second_export_renews_it_and_keeps_what_a_person_wrote(home: Home, tmp_path: Path) -> None:
    histories = read_history(home.journal)
    assert len(write_folder(tmp_path / "farm", home, histories)) == 1
    (tmp_path / "farm" / "README.md").write_text("my own words")
    (tmp_path / "farm" / "notes.txt").write_text("mine")
    told = write_folder(tmp_path / "farm", home, histories)
    assert len(told) == 2 and (tmp_path / "farm" / "README.md.1").read_text() == "my own words"
    assert (tmp_path / "farm" / "notes.txt").read_text() == "mine" and "autoresearch" in (
        tmp_path / "farm" / "README.md"
    ).read_text()


def test_what_cannot_be_exported_to_is_one_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "mine" / "export.json").write_text("[]")
    for words, says in (
        ([str(tmp_path / "mine")], "no export of the farm's"),
        ([str(tmp_path / "mine" / "thesis.tex")], "is a file"),
        ([], "name a folder"),
        (["--push", REPO], "name one"),
        ([str(tmp_path / "new"), "--push", "my-farm"], "OWNER/NAME"),
    ):
        assert main(["export", *words, "--home", str(home.folder)]) == 2
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["export.json", "thesis.tex"]
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError):
        check_name("../../x/y")


class PushHub(LocalHub):
    """A hub that also takes commits, as the real one does for files that aren't large."""

    def __init__(self) -> None:
        super().__init__(REPO, {})
        self.created: list[dict[str, object]] = []
        self._lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if not (path in ("/api/repos/create", "/api/validate-yaml") or "/preupload/" in path or "/commit/" in path):
            return super().answer(request)
        body = self._body(request)
        self.requests.append((request.command, path, ""))
        with self._lock:
            if path == "/api/repos/create":
                self.created.append(json.loads(body))
                self.send_json(request, {"url": f"{self.url}/datasets/{REPO}", "id": "1"})
            elif path == "/api/validate-yaml":
                self.send_json(request, {"warnings": [], "errors": []})
            elif "/preupload/" in path:
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]
                ]
                self.send_json(request, {"files": files})
            else:
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                oid = "1" * 40
                self.send_json(request, {"commitUrl": f"{self.url}/datasets/{REPO}/commit/{oid}", "commitOid": oid})

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length") or 0))
        parts = []
        while size := int(request.rfile.readline(), 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)


@pytest.fixture
def hub() -> Iterator[PushHub]:
    hub = PushHub()
    yield hub
    hub.close()


PUSH = """
import os, sys
from cluster.cli import main
os.environ["HF_TOKEN"] = "hf_of_a_test"
sys.exit(main(["export", sys.argv[1], "--push", sys.argv[2], "--home", sys.argv[3]]))
"""
FETCH = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], repo_type="dataset", local_dir=sys.argv[2]))
"""


def test_a_pushed_folder_is_private_and_fetched_back_byte_for_byte(home: Home, hub: PushHub, tmp_path: Path) -> None:
    made = tmp_path / "farm"
    write_folder(made, home, read_history(home.journal))
    (made / "diary.txt").write_text("not for others")
    pushing = run_python(PUSH, str(made), REPO, str(home.folder), hub_url=hub.url, home=tmp_path)
    told, wrong = pushing.communicate(timeout=60)
    assert pushing.returncode == 0, (wrong, hub.requests)
    assert REPO in told and "private" in told and hub.created[0]["type"] == "dataset"
    assert "private" in (hub.created[0].get("visibility"), *(["private"] if hub.created[0].get("private") else []))
    fetching = run_python(FETCH, REPO, str(tmp_path / "back"), hub_url=hub.url, home=tmp_path)
    assert fetching.communicate(timeout=60) and fetching.returncode == 0
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()} - {"diary.txt"}
    assert set(hub.files) == names
    assert all((tmp_path / "back" / name).read_bytes() == (made / name).read_bytes() for name in names)


def test_a_hub_that_refuses_is_one_line_and_the_folder_stays(home: Home, tmp_path: Path) -> None:
    made = tmp_path / "farm"
    pushing = run_python(PUSH, str(made), REPO, str(home.folder), hub_url="http://127.0.0.1:1", home=tmp_path)
    _, wrong = pushing.communicate(timeout=60)
    assert pushing.returncode == 2 and "HF_TOKEN" in wrong and "hf_of_a_test" not in wrong and (made / "README.md").is_file()
    assert len(wrong.strip().splitlines()) == 1
