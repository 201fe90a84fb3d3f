"""Datasets: the real client against a local hub."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.data.sources import CLIMBMIX
from tests.research.text_files import sentences

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """The part of the hub's HTTP interface that its client needs for downloads."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name = name
        self.files = files
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and Range of each request."""
        self.wrong_bytes: Counter[str] = Counter()
        """How many more times a file is served with wrong content of the right length."""
        self.hang_after: int | None = None
        """Bytes after which a file's transfer hangs."""
        self.break_once: dict[str, int] = {}
        """Bytes after which the connection is closed, once, by file."""
        self.released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else a body waits until the client has acknowledged its header: 40 ms each

            def do_HEAD(self) -> None:
                hub.answer(self)

            do_GET = do_POST = do_HEAD

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client that was killed
                    super().handle()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode()
        self.requests.append((request.command, path, request.headers.get("Range") or ""))
        if path.startswith(f"/api/datasets/{self.name}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            self.send_json(request, {"id": self.name, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/api/datasets/{self.name}/paths-info/"):
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            self.send_json(request, [self.entry(name) for name in wanted if name in self.files])
        elif path.startswith(f"/api/datasets/{self.name}/tree/"):
            self.send_json(request, [self.entry(name) for name in self.files])
        elif (name := unquote(path.partition("/resolve/")[2].partition("/")[2])) in self.files:
            self.send_file(request, name)
        else:
            request.send_error(404)

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        sha256 = hashlib.sha256(content).hexdigest()
        large = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return {"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": large}

    @staticmethod
    def send_json(request: BaseHTTPRequestHandler, value: object) -> None:
        raw = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(raw)))
        request.end_headers()
        request.wfile.write(raw)

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        content = self.files[name]
        etag = hashlib.sha256(content).hexdigest()
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", request.headers.get("Range") or "")) else 0
        if request.command == "GET" and self.wrong_bytes[name]:
            self.wrong_bytes[name] -= 1
            content = bytes(len(content))
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("ETag", f'"{etag}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.end_headers()
        if request.command == "HEAD":
            return
        if (end := self.break_once.pop(name, None)) is not None:
            request.close_connection = True
            request.wfile.write(content[start:end])
        elif self.hang_after is not None and self.hang_after < len(content):
            request.wfile.write(content[start : self.hang_after])
            self.released.wait(60)
        else:
            request.wfile.write(content[start:])

    def downloads(self) -> list[str]:
        """The files that were asked for, in order."""
        return [path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "resolve" in path]


def shard(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=20)
    return bytes(sink.getvalue().to_pybytes())


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """Three training shards; the second has a document of the validation shard and one of the audit shard."""
    texts = {n: sentences(n, 80) for n in (0, 1, 2, 6541, 6542)}
    texts[1] += [texts[6542][3], texts[6541][5].replace(" ", "\n")]
    hub = LocalHub(CLIMBMIX, {f"shard_{n:05d}.parquet": shard(texts) for n, texts in texts.items()})
    yield hub
    hub.close()


PREPARE = """
import json, sys
from pathlib import Path
from research.contract import Contract
from research.errors import UserError
from research.data.prepare import prepare
contract = Contract(profile="cpu", MAX_SEQ_LEN=32, TIME_BUDGET=1.0, EVAL_TOKENS=640, VOCAB_SIZE=400, source="climbmix")
said = []
try:
    data = prepare(contract, cache=Path(sys.argv[1]), num_shards=int(sys.argv[2]), say=said.append)
except UserError as error:
    print(json.dumps({"error": str(error), "said": said}))
else:
    manifest = json.loads((data.folder / "manifest.json").read_text())
    print(json.dumps({"folder": str(data.folder), "said": said, **manifest}))
"""


def run_python(code: str, *arguments: str, hub_url: str, home: Path) -> "subprocess.Popen[str]":
    """The hub's client reads its settings when it is imported: so each use of it is a process."""
    settings = {"HF_ENDPOINT": hub_url, "HF_HOME": str(home / "hf"), "HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def prepared(cache: Path, num_shards: int, *, hub_url: str, home: Path) -> dict[str, Any]:
    process = run_python(PREPARE, str(cache), str(num_shards), hub_url=hub_url, home=home)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    answer: dict[str, Any] = json.loads(output)
    return answer


def test_shards_are_fetched_once_at_one_commit(hub: LocalHub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one = prepared(cache, 1, hub_url=hub.url, home=tmp_path)
    assert one["revision"] == COMMIT
    assert sorted(hub.downloads()) == ["shard_00000.parquet", "shard_06541.parquet", "shard_06542.parquet"]
    assert all(COMMIT in path for _, path, _ in hub.requests if "/resolve/" in path)
    assert (one["dropped_held_out"], one["train_documents"]) == (0, 80)

    hub.requests.clear()
    three = prepared(cache, 3, hub_url=hub.url, home=tmp_path)
    assert sorted(hub.downloads()) == ["shard_00001.parquet", "shard_00002.parquet"]
    assert (three["dropped_held_out"], three["train_documents"]) == (2, 240)
    assert any("left out 2 that are in the evaluation text" in line for line in three["said"])

    # friends with one shard and with three can compare scores, and know that they trained on different text
    for name in ("tokenizer_sha256", "val_sha256", "audit_sha256"):
        assert one[name] == three[name]
    assert one["data_fingerprint"] != three["data_fingerprint"]

    hub.requests.clear()
    assert prepared(cache, 1, hub_url=hub.url, home=tmp_path)["folder"] == one["folder"]
    assert hub.requests == []


def test_a_shard_that_arrives_corrupt_is_fetched_again(hub: LocalHub, tmp_path: Path) -> None:
    hub.wrong_bytes["shard_00000.parquet"] = 1
    data = prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)
    assert data["train_documents"] == 80
    assert any("shard_00000.parquet arrived with a wrong checksum" in line for line in data["said"])
    assert hub.downloads().count("shard_00000.parquet") == 2


def test_a_shard_that_stays_corrupt_is_named_and_not_kept(hub: LocalHub, tmp_path: Path) -> None:
    hub.wrong_bytes["shard_06541.parquet"] = 2
    answer = prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)
    assert "shard_06541.parquet" in answer["error"] and "\n" not in answer["error"]
    hub.requests.clear()
    assert prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)["train_documents"] == 80
    assert hub.downloads() == ["shard_06541.parquet"]


def test_a_shard_damaged_on_disk_is_deleted_and_fetched_by_the_next_call(hub: LocalHub, tmp_path: Path) -> None:
    prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)
    damaged = tmp_path / "cache" / "hub" / "climbmix" / COMMIT / "shard_06542.parquet"
    damaged.write_bytes(damaged.read_bytes()[:500])
    answer = prepared(tmp_path / "cache", 2, hub_url=hub.url, home=tmp_path)
    assert "shard_06542.parquet is corrupt and was deleted: run the same command again" in answer["error"]
    assert prepared(tmp_path / "cache", 2, hub_url=hub.url, home=tmp_path)["train_documents"] == 160


def test_the_originals_shards_are_not_fetched_unless_they_are_broken(hub: LocalHub, tmp_path: Path) -> None:
    downloaded = tmp_path / ".cache" / "autoresearch" / "data"
    downloaded.mkdir(parents=True)
    for name in ("shard_00000.parquet", "shard_06542.parquet"):
        (downloaded / name).write_bytes(hub.files[name])
    (downloaded / "shard_06541.parquet").touch()
    data = prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)
    assert hub.downloads() == ["shard_06541.parquet"]
    assert "climbmix: using 2 shards that the original downloaded" in data["said"]


def test_without_a_network_the_error_says_what_else_there_is(tmp_path: Path) -> None:
    answer = prepared(tmp_path / "cache", 1, hub_url="http://127.0.0.1:9", home=tmp_path)
    assert "can't be fetched" in answer["error"] and "\n" not in answer["error"]
    assert "--source files:PATH or --source packages" in answer["error"]


def test_a_commit_without_the_shards(hub: LocalHub, tmp_path: Path) -> None:
    del hub.files["shard_06541.parquet"]
    answer = prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)
    assert f"has no file shard_06541.parquet at revision {COMMIT}" in answer["error"]


FETCH = """
import sys
from pathlib import Path
from research.data.hub import Dataset
Dataset(name=sys.argv[1], folder=Path(sys.argv[2])).fetch(["first.bin", "second.bin"], commit=sys.argv[3], say=print)
"""


@pytest.fixture
def big_hub() -> Iterator[LocalHub]:
    """A hub with a small file and one of several of the client's chunks of 10 MB."""
    chance = random.Random(0)
    hub = LocalHub("someone/big", {"first.bin": chance.randbytes(1000), "second.bin": chance.randbytes(25_000_000)})
    yield hub
    hub.close()


def fetch_both(hub: LocalHub, home: Path) -> "subprocess.Popen[str]":
    return run_python(FETCH, hub.name, str(home / "hub"), COMMIT, hub_url=hub.url, home=home)


def test_a_broken_connection_is_taken_up_in_the_middle_of_the_file(big_hub: LocalHub, tmp_path: Path) -> None:
    big_hub.break_once["second.bin"] = 22_000_000
    process = fetch_both(big_hub, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (tmp_path / "hub" / COMMIT / "second.bin").read_bytes() == big_hub.files["second.bin"]
    assert "bytes=20971520-" in [asked for _, _, asked in big_hub.requests]


def test_after_a_kill_only_what_is_missing_is_fetched(big_hub: LocalHub, tmp_path: Path) -> None:
    big_hub.hang_after = 22_000_000
    process = fetch_both(big_hub, tmp_path)
    incoming = tmp_path / "hub" / COMMIT / "incoming"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        partial = [path for path in incoming.rglob("*.incomplete") if path.stat().st_size >= 10_000_000]
        if partial and (incoming / "first.bin").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    big_hub.hang_after = None
    big_hub.requests.clear()
    process = fetch_both(big_hub, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert big_hub.downloads() == ["second.bin"]
    for name, content in big_hub.files.items():
        assert (tmp_path / "hub" / COMMIT / name).read_bytes() == content
    assert not list(incoming.rglob("*.incomplete"))
