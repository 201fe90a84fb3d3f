"""Sources: what is in which split, files of every kind, and a real hub client against a local hub."""

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
from urllib.parse import parse_qs

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.contract import UserError, contract_for
from research.documents import file_documents, list_files, parquet_texts, text_key
from research.hub import Dataset, check_space
from research.sources import (
    CLIMBMIX,
    TINYSTORIES,
    TINYSTORIES_FILE,
    Source,
    climbmix,
    open_source,
    own_files,
    source_name,
    stdlib,
    tinystories,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NO_SPLITS_SHARED = ("train", "val"), ("train", "audit"), ("val", "audit")


def write_parquet(path: Path, texts: list[str], *, rows_in_group: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path, row_group_size=rows_in_group)
    return path


def sentences(seed: int, count: int) -> list[str]:
    """Documents of made-up words, different for each seed."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 8))) for _ in range(300)]
    return [f"{seed}.{n} " + " ".join(chance.choices(words, k=chance.randint(20, 120))) for n in range(count)]


def splits_of(source: Source) -> dict[str, list[str]]:
    return {split: list(source.documents(split)) for split in ("train", "val", "audit")}


# Files of the user's own


def test_documents_are_dealt_so_that_none_is_in_two_splits(tmp_path: Path) -> None:
    for n, text in enumerate(sentences(1, 400)):
        (tmp_path / f"folder{n % 5}").mkdir(exist_ok=True)
        (tmp_path / f"folder{n % 5}" / f"{n}.txt").write_text(text)
        (tmp_path / f"copy{n}.md").write_text("  " + text.replace(" ", "\n"))  # the same words
    splits = splits_of(own_files(tmp_path, evaluation_bytes=20_000))
    keys = {split: {text_key(text) for text in texts} for split, texts in splits.items()}
    assert sum(map(len, keys.values())) == 400
    assert all(not keys[a] & keys[b] for a, b in NO_SPLITS_SHARED)
    assert all(len(keys[split]) > 10 for split in keys)


def test_the_split_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    for name in ("here", "there"):
        for n, text in enumerate(sentences(2, 60)):
            (tmp_path / name / str(n % 3)).mkdir(parents=True, exist_ok=True)
            (tmp_path / name / str(n % 3) / f"{n}.txt").write_text(text)
    here, there = (splits_of(own_files(tmp_path / name, evaluation_bytes=1000)) for name in ("here", "there"))
    assert here == there


def test_jsonl_parquet_text_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "from json", "id": 1}\n{"id": 2}\n\nbroken\n{"text": "more \\ud800"}\n')
    (tmp_path / "other.jsonl").write_text('{"prompt": "no text field"}\n')
    write_parquet(tmp_path / "b.parquet", ["from parquet", "", "more"])
    (tmp_path / "c.py").write_text("print('source')\n")
    (tmp_path / "d.bin").write_bytes(b"text with \0 in it")
    (tmp_path / "e.dat").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / ".hidden").write_text("hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden, too")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "link.txt").symlink_to(tmp_path / "c.py")
    found = Counter(text for path in list_files(tmp_path) for text in file_documents(path))
    assert found == Counter(
        ["from json", "more ?", '{"prompt": "no text field"}\n', "from parquet", "more", "print('source')\n"]
    )


def test_a_large_text_becomes_many_documents_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    book = "\n\n".join(sentences(3, 3000))
    path.write_text(book)
    documents = list(file_documents(path))
    assert len(documents) > 50 and max(map(len, documents)) <= 2**14
    assert "".join(documents) == book
    splits = splits_of(own_files(path, evaluation_bytes=100_000))
    assert all(splits[split] for split in splits)


def test_a_large_text_is_cut_at_its_separators(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    stories = sentences(4, 1000)
    path.write_text("\n<|endoftext|>\n".join(stories))
    assert [text.strip() for text in file_documents(path)] == stories


def test_a_large_text_without_lines_is_cut_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("é" * 3_000_000)
    assert "".join(file_documents(path)) == "é" * 3_000_000


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_name("files:texts") == f"files:{tmp_path}/texts"
    assert source_name("files:~/texts") == f"files:{tmp_path}/texts"
    assert source_name("climbmix") == "climbmix"


@pytest.mark.parametrize("source", ["nonsense", "files:", "files"])
def test_an_unknown_source(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use climbmix, tinystories, stdlib or files:PATH"):
        open_source(contract_for("cpu", source=source), cache=tmp_path, num_shards=1, revision=None, say=print)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        own_files(tmp_path / "nowhere", evaluation_bytes=1)


# The Python library


def make_library(root: Path, *, test_bytes: int) -> None:
    for n, text in enumerate(sentences(5, 300)):
        for folder in ("", "email", "site-packages/thing", "test/inner"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"m{n}.py").write_text(f"# {folder}\n{text}")
    (root / "email" / "note.txt").write_text("not source code")
    for n in range(test_bytes // 50_000):
        (root / "test" / f"test_big{n}.py").write_text(f"# test {n}\n" + "x = 1\n" * 8_200)


def test_evaluation_text_comes_from_the_tests_alone(tmp_path: Path) -> None:
    make_library(tmp_path, test_bytes=3_000_000)
    source = stdlib(tmp_path, evaluation_bytes=1)
    splits = splits_of(source)
    assert source.evaluation_paths[0] == tmp_path / "test"
    assert splits["val"] and splits["audit"] and not set(splits["val"]) & set(splits["audit"])
    assert all(text.startswith("# test") for text in splits["val"] + splits["audit"])
    assert {text.splitlines()[0] for text in splits["train"]} == {"# ", "# email"}
    assert len(splits["train"]) == 600


def test_without_a_test_package_documents_are_dealt(tmp_path: Path) -> None:
    make_library(tmp_path, test_bytes=0)
    source = stdlib(tmp_path, evaluation_bytes=10_000)
    splits = splits_of(source)
    assert source.disjoint and all(splits.values())
    assert sum(map(len, splits.values())) == 900
    assert not any("site-packages" in text for texts in splits.values() for text in texts)


# Datasets: files that are here already


def test_parquet_ranges_across_row_groups(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(50)]
    path = write_parquet(tmp_path / "x.parquet", texts)
    for start, stop in ((0, None), (0, 7), (3, 4), (6, 23), (49, 50), (20, 99)):
        assert list(parquet_texts(path, start=start, stop=stop)) == texts[start:stop]


def test_a_corrupt_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", sentences(6, 50))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"x\.parquet is corrupt: delete it"):
        list(parquet_texts(path))
    with pytest.raises(UserError, match=r"x\.parquet is corrupt and was deleted: run the same command again"):
        list(parquet_texts(path, delete_if_corrupt=True))
    assert not path.exists()


def test_a_parquet_file_without_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has no column `text`"):
        list(parquet_texts(tmp_path / "x.parquet"))


def test_shards_of_the_original_are_used_without_a_network(tmp_path: Path) -> None:
    downloaded = tmp_path / "original"
    for n in (0, 1, 6541, 6542):
        write_parquet(downloaded / f"shard_{n:05d}.parquet", [f"shard {n}"])
    said: list[str] = []
    dataset = Dataset(name=CLIMBMIX, folder=tmp_path / "hub")
    source = climbmix(dataset, num_shards=2, revision=None, downloaded=downloaded, say=said.append)
    assert splits_of(source) == {"train": ["shard 0", "shard 1"], "val": ["shard 6542"], "audit": ["shard 6541"]}
    assert list(source.tokenizer_documents()) == ["shard 0"]
    assert said == ["climbmix: using 4 shards that the original downloaded"]
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("num_shards", [0, 6542])
def test_pinned_shards_are_never_trained_on(num_shards: int, tmp_path: Path) -> None:
    dataset = Dataset(name=CLIMBMIX, folder=tmp_path)
    with pytest.raises(UserError, match="from 1 to 6,541 training shards"):
        climbmix(dataset, num_shards=num_shards, revision=None, downloaded=tmp_path, say=print)


def test_stories_are_held_out_by_their_place(tmp_path: Path) -> None:
    dataset = Dataset(name=TINYSTORIES, folder=tmp_path)
    stories = [f"story {n}" for n in range(400)]
    write_parquet(tmp_path / COMMIT / TINYSTORIES_FILE, stories)
    (tmp_path / "pins.json").write_text(json.dumps({"main": COMMIT}))
    some = tinystories(dataset, num_shards=3, revision=None, say=print)
    assert splits_of(some) == {"val": stories[:100], "audit": stories[100:200], "train": stories[200:260]}
    everything = tinystories(dataset, num_shards=10, revision=None, say=print)
    assert list(everything.documents("train")) == stories[200:]
    assert list(everything.tokenizer_documents()) == list(some.tokenizer_documents()) == stories[200:220]


def test_too_little_disk_space(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(UserError, match=r"1,000,000,000\.0 GB are needed .* --cache"):
        check_space(tmp_path / "not" / "yet", 10**18)


# Datasets: the real client against a local hub


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
        elif (name := path.rpartition("/")[2]) in self.files and "/resolve/" in path:
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
from research.contract import Contract, UserError
from research.prepare import prepare
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
    assert any("dropped 2 that are in the evaluation text" in line for line in three["said"])

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
    assert "--source files:PATH or --source stdlib" in answer["error"]


def test_a_commit_without_the_shards(hub: LocalHub, tmp_path: Path) -> None:
    del hub.files["shard_06541.parquet"]
    answer = prepared(tmp_path / "cache", 1, hub_url=hub.url, home=tmp_path)
    assert f"has no file shard_06541.parquet at revision {COMMIT}" in answer["error"]


FETCH = """
import sys
from pathlib import Path
from research.hub import Dataset
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
