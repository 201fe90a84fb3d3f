"""Sources: what is in which split, and files of every kind."""

import json
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.data import installed_text
from research.data.documents import plain_documents, text_key
from research.data.hub import Dataset, check_space
from research.data.installed_text import EXCERPT_CHARACTERS, excerpt
from research.data.parquet import parquet_texts
from research.data.sources import (
    CLIMBMIX,
    TINYSTORIES,
    TINYSTORIES_FILE,
    Source,
    climbmix,
    open_source,
    own_files,
    packages,
    source_name,
    stdlib,
    tinystories,
)
from research.errors import UserError
from research.profiles import contract_for
from research.sandbox.visible import package_folders
from tests.research.text_files import sentences, write_parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NO_SPLITS_SHARED = ("train", "val"), ("train", "audit"), ("val", "audit")


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


def test_a_large_text_becomes_many_documents_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    book = "\n\n".join(sentences(3, 3000))
    path.write_text(book)
    documents = list(plain_documents(path))
    assert len(documents) > 50 and max(map(len, documents)) <= 2**14
    assert "".join(documents) == book
    splits = splits_of(own_files(path, evaluation_bytes=100_000))
    assert all(splits[split] for split in splits)


def test_a_large_text_is_cut_at_its_separators(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    stories = sentences(4, 1000)
    path.write_text("\n<|endoftext|>\n".join(stories))
    assert [text.strip() for text in plain_documents(path)] == stories


def test_a_large_text_without_lines_is_cut_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_text("é" * 3_000_000)
    assert "".join(plain_documents(path)) == "é" * 3_000_000


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_name("files:texts") == f"files:{tmp_path}/texts"
    assert source_name("files:~/texts") == f"files:{tmp_path}/texts"
    assert source_name("climbmix") == "climbmix"


LIST = "use climbmix, tinystories, packages, stdlib or files:PATH"


@pytest.mark.parametrize(
    ("source", "says"), [("nonsense", LIST), ("files:", "needs a folder or a file"), ("files", "needs a folder or a file")]
)
def test_an_unknown_source(source: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
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
    assert source.hidden_paths == (tmp_path / "test",)
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


# Installed packages


def make_packages(root: Path) -> list[Path]:
    for n, text in enumerate(sentences(7, 400)):
        for folder in ("ray/a", "duckdb", "ray/thirdparty_files/psutil"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"m{n}.py").write_text(f"# {folder}/{n}\n{text}")
    return [root / "duckdb", root / "ray"]


def test_files_of_packages_are_dealt_by_their_paths(tmp_path: Path) -> None:
    here, there = (packages(make_packages(tmp_path / name)) for name in ("here", "there"))
    splits = splits_of(here)
    assert splits == splits_of(there) and here.hidden_paths == (tmp_path / "here" / "duckdb", tmp_path / "here" / "ray")
    names = {split: {text.split("\n")[0] for text in texts} for split, texts in splits.items()}
    assert all(not names[a] & names[b] for a, b in NO_SPLITS_SHARED)
    assert sum(map(len, names.values())) == 800, "of copies of other packages, which a run may read, nothing is used"
    assert all(60 < len(names[split]) < 140 for split in ("val", "audit"))


def test_an_excerpt_is_the_middle_of_a_file_by_whole_lines(tmp_path: Path) -> None:
    lines = [f"line {n}\n" for n in range(20_000)]
    (tmp_path / "long.py").write_text("".join(lines))
    (tmp_path / "short.py").write_text("x = 1\n")
    text = excerpt(tmp_path / "long.py")
    assert len(text) == EXCERPT_CHARACTERS and text.startswith("line 10") and text.splitlines(keepends=True)[100] in lines
    assert excerpt(tmp_path / "short.py") == "x = 1\n"


def test_training_text_of_packages_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_packages(tmp_path)
    every = packages(folders)
    monkeypatch.setattr(installed_text, "TRAINING_BYTES", every.text_bytes // 4)
    some = packages(folders)
    assert 0.2 < some.text_bytes / every.text_bytes < 0.3
    assert list(some.documents("train")) == list(every.documents("train"))[: len(list(some.documents("train")))]
    assert list(some.documents("val")) == list(every.documents("val"))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = make_packages(tmp_path)
    (tmp_path / "git").mkdir()
    monkeypatch.setattr(installed_text, "package_folders", lambda: [*folders, tmp_path / "git"])
    with pytest.raises(UserError, match=r"none of git, huggingface_hub, pyarrow: run `uv sync`.*--source files:PATH"):
        open_source(contract_for("cpu"), cache=tmp_path, num_shards=1, revision=None, say=print)


def test_copies_of_packages_are_found_wherever_a_run_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a system's Python, in another folder on the path, and in what Conda keeps."""
    places = ("usr/lib/python3/dist-packages", "conda/pkgs/ray-2/lib/python3.12/site-packages", "path")
    copies = {tmp_path / place / "ray" for place in places}
    for copy in copies:
        copy.mkdir(parents=True)
    monkeypatch.setattr(installed_text, "readable_paths", lambda: [tmp_path / name for name in ("usr", "conda", "path")])
    assert set(installed_text.installed_text("packages")) == {*package_folders(), *copies}
    assert installed_text.installed_text("climbmix") == ()


def test_the_versions_of_the_packages_are_the_revision() -> None:
    revision = packages(package_folders()).revision
    assert all(f"{name} {version(name)}" in revision for name in ("duckdb", "huggingface_hub", "pyarrow", "ray"))
    assert f"git {version('GitPython')}" in revision


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
    with pytest.raises(UserError, match="has no column `text` of text"):
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
    with pytest.raises(UserError, match="from 1 to 6,541"):
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
    with pytest.raises(UserError, match=r"1,000,000\.0 TB needed.* --cache"):
        check_space(tmp_path / "not" / "yet", 10**18)
