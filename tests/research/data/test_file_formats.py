"""Folders of odd text: which documents come out of them, and what is said of the rest."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.data.documents import text_key
from research.data.sources import Source, own_files
from research.errors import UserError
from tests.research.text_files import sentences

FRENCH = "L'élève naïf mangea des gâteaux à Noël ; « ça va », dit-il, l’été sera très beau…\n"  # noqa: RUF001
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах.\n"  # noqa: RUF001
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności.\n"
TEXT = "The quick brown fox jumps over the lazy dog.\n"
HUGE_LINE = "word " * 14_000
RECORDS = [{"text": "one", "id": 1}, {"text": "two", "id": 2}]


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def parquet(column: "pa.Array", name: str = "text") -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: column, "n": list(range(len(column)))}), out)
    return out.getvalue()


def zstd(content: bytes, codec: str = "zstd") -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, codec) as file:
        file.write(content)
    return bytes(out.getvalue().to_pybytes())


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", TEXT)
    return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder, the documents that must come out of it, and facts that must be said."""

    files: dict[str, bytes | str]
    """Content by path; text is the target of a symbolic link."""
    documents: list[str]
    said: tuple[str, ...] = field(default=())
    unsaid: tuple[str, ...] = field(default=())
    text_field: str = "text"


FOLDERS = {
    "UTF-8": Folder(files={"a.txt": FRENCH.encode()}, documents=[FRENCH], unsaid=("skipped", "encodings")),
    "UTF-8 with a mark": Folder(files={"a.txt": FRENCH.encode("utf-8-sig")}, documents=[FRENCH]),
    "Latin-1": Folder(files={"a.txt": "déjà vu, señor Muñoz\n".encode("latin-1")}, documents=["déjà vu, señor Muñoz\n"]),
    "Windows-1252": Folder(
        files={"a.txt": FRENCH.encode("cp1252")}, documents=[FRENCH], said=("other encodings", "windows-1252", "a.txt")
    ),
    "Latin-1 after much ASCII": Folder(
        files={"a.py": (TEXT * 1400).encode() + FRENCH.encode("cp1252")}, documents=[TEXT * 1400 + FRENCH]
    ),
    "one huge line": Folder(
        files={"a.txt": HUGE_LINE.encode(), "b.txt": b"short"},
        documents=["short", *(HUGE_LINE[start : start + 16_384] for start in range(0, len(HUGE_LINE), 16_384))],
        said=("large texts cut into 5 documents", "a.txt", "16,384 characters"),
    ),
    "UTF-16": Folder(files={"a.txt": FRENCH.encode("utf-16")}, documents=[FRENCH], said=("utf-16",)),
    "UTF-16, big end first": Folder(files={"a.txt": b"\xfe\xff" + RUSSIAN.encode("utf-16-be")}, documents=[RUSSIAN]),
    "UTF-16 without a mark": Folder(files={"a.txt": TEXT.encode("utf-16-le")}, documents=[TEXT]),
    "UTF-32": Folder(files={"a.txt": RUSSIAN.encode("utf-32")}, documents=[RUSSIAN]),
    "UTF-8 with a stray byte": Folder(
        files={"a.txt": (RUSSIAN * 3).encode() + b"\xff\n"},
        documents=[RUSSIAN * 3 + "\ufffd\n"],
        said=("1 invalid character", "a.txt"),
    ),
    "UTF-8 cut within a character": Folder(files={"a.txt": RUSSIAN.encode()[:-3]}, documents=[RUSSIAN[:-3] + "в\ufffd"[1:]]),
    "an encoding that would be a guess": Folder(
        files={
            "a.txt": TEXT.encode(),
            "r.txt": RUSSIAN.encode("cp1251"),
            "k.txt": RUSSIAN.encode("koi8-r"),
            "p.txt": POLISH.encode("cp1250"),
        },
        documents=[TEXT],
        said=("skipped 3 files", "encoding", "UTF-8", "r.txt", "k.txt", "p.txt"),
    ),
    "JSON Lines": Folder(files={"a.jsonl": lines(*RECORDS)}, documents=["one", "two"], said=("1 JSON", "2 documents")),
    "JSON Lines after a line of metadata": Folder(
        files={"a.jsonl": lines({"version": 1, "license": "MIT"}, *RECORDS)},
        documents=["one", "two"],
        said=("1 record without text in the field `text`", "a.jsonl"),
    ),
    "JSON Lines with broken lines and half a character": Folder(
        files={"a.jsonl": b'{"text": "more \\ud800"}\n\nbroken\n{"id": 2}\n{"text": null}\n'},
        documents=["more ?"],
        said=("2 records", "1 line that can't be read as JSON"),
    ),
    "JSON Lines with text in several fields": Folder(
        files={"a.jsonl": lines(*RECORDS, {"content": "three"}, {"body": "four", "id": 4})},
        documents=["one", "two"],
        said=("2 records without text in the field `text`", "`content`, `body`"),
    ),
    "blank text beside other text": Folder(
        files={"a.txt": TEXT.encode(), "b.txt": b" \n"}, documents=[TEXT], said=("read 1 file", "skipped 1 file", "blank")
    ),
    "another field": Folder(
        files={"a.jsonl": lines({"body": "long text", "title": "t"}), "b.parquet": parquet(pa.array(["deep"]), "body")},
        documents=["long text", "deep"],
        text_field="body",
    ),
    "JSON Lines that lack the field, beside some that have it": Folder(
        files={"a.jsonl": lines(*RECORDS), "b.jsonl": lines({"prompt": "x"}, {"prompt": "y"})},
        documents=["one", "two"],
        said=("skipped 1 file", "b.jsonl", "`text`"),
    ),
    "JSON Lines in UTF-16 with Windows line ends": Folder(
        files={"a.jsonl": '{"text": "é"}\r\n{"text": "ü"}\r\n'.encode("utf-16")}, documents=["é", "ü"]
    ),
    "lines of JSON strings": Folder(files={"a.ndjson": b'"one"\n"two"\n'}, documents=["one", "two"]),
    "a JSON array": Folder(files={"a.json": json.dumps(RECORDS, indent=2).encode()}, documents=["one", "two"]),
    "a JSON array in an object": Folder(
        files={"a.json": json.dumps({"version": 2, "data": RECORDS}, indent=2).encode()}, documents=["one", "two"]
    ),
    "JSON columns": Folder(files={"a.json": b'{"text": {"0": "one", "1": "two"}}'}, documents=["one", "two"]),
    "JSON Lines named .json": Folder(files={"a.json": lines(*RECORDS)}, documents=["one", "two"]),
    "records without any text beside text": Folder(
        files={"a.jsonl": lines({"messages": [{"role": "user"}]}, {"messages": []}), "b.txt": TEXT.encode()},
        documents=[TEXT],
        said=("skipped 1 file", "a.jsonl", "`text`"),
    ),
    "JSON Lines without the field beside text": Folder(
        files={"a.jsonl": lines({"body": "x"}, {"body": "y"}), "b.txt": TEXT.encode(), "c.jsonl": lines({"body": "z"})},
        documents=[TEXT],
        said=("skipped 2 files", "a.jsonl", "c.jsonl", "`body`", "--text-field"),
    ),
    "a program's settings beside its source": Folder(
        files={"a.py": TEXT.encode(), "package.json": b'{\n "name": "x",\n "version": "1"\n}\n'},
        documents=[TEXT],
        said=("skipped 1 file", "package.json"),
    ),
    "gzip": Folder(
        files={"a.txt.gz": gzip.compress(TEXT.encode()), "b.jsonl.gz": gzip.compress(lines(*RECORDS))},
        documents=[TEXT, "one", "two"],
    ),
    "gzip in two parts": Folder(files={"a.gz": gzip.compress(b"one ") + gzip.compress(b"two")}, documents=["one two"]),
    "bz2, xz, zstd and lz4": Folder(
        files={
            "a.txt.bz2": bz2.compress(b"1"),
            "b.txt.xz": lzma.compress(b"2"),
            "c.jsonl.zst": zstd(lines({"text": "3"})),
            "d.txt.lz4": zstd(b"4", "lz4"),
            "e.json.zst": zstd(json.dumps([{"text": "5"}], indent=1).encode()),
        },
        documents=["1", "2", "3", "4", "5"],
    ),
    "called .gz, but decompressed": Folder(files={"a.txt.gz": TEXT.encode()}, documents=[TEXT]),
    "Latin-1 within zstd": Folder(files={"a.txt.zst": zstd(FRENCH.encode("cp1252"))}, documents=[FRENCH]),
    "Parquet": Folder(files={"a.parquet": parquet(pa.array(["one", "", None, "two"]))}, documents=["one", "two"]),
    "Parquet of bytes": Folder(files={"a.parquet": parquet(pa.array(["é".encode(), b"b"]))}, documents=["é", "b"]),
    "Parquet of large strings and categories": Folder(
        files={
            "a.parquet": parquet(pa.array(["one"], pa.large_string())),
            "b.parquet": parquet(pa.array(["two", "two"]).dictionary_encode()),
        },
        documents=["one", "two", "two"],
    ),
    "Parquet of another type beside some of text": Folder(
        files={"a.parquet": parquet(pa.array(["one"])), "b.parquet": parquet(pa.array([["a", "b"]]))},
        documents=["one"],
        said=("skipped 1 file", "b.parquet"),
    ),
    "upper-case suffixes": Folder(
        files={
            "A.TXT": TEXT.encode(),
            "B.JSONL": lines(*RECORDS),
            "C.PARQUET": parquet(pa.array(["p"])),
            "D.JSONL.GZ": gzip.compress(lines({"text": "z"})),
        },
        documents=[TEXT, "one", "two", "p", "z"],
    ),
    "a Hugging Face cache": Folder(
        files={
            "blobs/0123abcd": parquet(pa.array(["one"])),
            "snapshots/f00/data/train.parquet": "../../../blobs/0123abcd",
            "blobs/4567": lines({"text": "two"}),
            "snapshots/f00/x.jsonl": "../../blobs/4567",
        },
        documents=["one", "two"],
        said=("read 2 files", "1 Parquet", "1 JSON"),
    ),
    "links in a circle, and a broken one": Folder(
        files={"a.txt": TEXT.encode(), "sub/b.txt": b"b", "sub/up": "..", "gone.txt": "nowhere"},
        documents=[TEXT, "b"],
        said=("skipped 1 file", "broken", "gone.txt"),
    ),
    "names that are not UTF-8": Folder(
        files={
            os.fsdecode(b"caf\xe9.txt"): TEXT.encode(),
            os.fsdecode(b"\xff.parquet"): parquet(pa.array(["p"])),
            os.fsdecode(b"\xfe.bin"): b"\0\1",
        },
        documents=[TEXT, "p"],
        said=("skipped 1 file", "?.bin"),
    ),
    "what is cut off, and NUL bytes in text": Folder(
        files={
            "a.txt": TEXT.encode(),
            "string.json": json.dumps(RECORDS, indent=1).encode()[:40],
            "array.json": json.dumps(RECORDS).encode()[:-2],
            "no.json": b"{'text': 'Python, not JSON'}",
            "nul.txt": (TEXT * 20).encode() + b"\0" + (FRENCH * 3).encode(),
        },
        documents=[TEXT],
        said=(
            "skipped 4 files",
            "cut off in the middle of the JSON (replace them by whole files): array.json, string.json",
            "without a record in JSON: no.json",
            "text with NUL bytes, as binary files have (remove those bytes): nul.txt",
        ),
        unsaid=("encoding",),
    ),
    "pictures, archives, PDF, Git LFS, empty and hidden files": Folder(
        files={
            "a.txt": TEXT.encode(),
            "b.png": b"\x89PNG\r\n\x1a\n\0\0\0",
            "c.zip": zipped(),
            "d.pdf": b"%PDF-1.7\n...",
            "e.bin": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "f.txt": b"",
            "g.gz": gzip.compress(b""),
            ".hidden": b"hidden",
            ".git/config": b"hidden",
        },
        documents=[TEXT],
        said=(
            "skipped 6 files",
            "b.png",
            "unpack",
            "c.zip",
            "PDF",
            "git lfs pull",
            "empty: f.txt, g.gz",
            "hidden: .git, .hidden",
        ),
        unsaid=("config",),
    ),
    "links to what is there already": Folder(
        files={"a.txt": TEXT.encode(), "b.txt": "a.txt", "c/d.txt": b"another", "e": "c"},
        documents=[TEXT, "another"],
        said=("read 2 files", "under another path: b.txt, e"),
        unsaid=("skipped", "hidden"),
    ),
    "a mixture": Folder(
        files={"x/a.md": b"a", "y/b.rst": b"b", "y/z/c": b"c", "d.jsonl": lines(*RECORDS), "e.csv": b"text\nrow\n"},
        documents=["a", "b", "c", "one", "two", "text\nrow\n"],
        said=("read 5 files", "4 text", "6 documents"),
    ),
}


def make(root: Path, files: dict[str, bytes | str]) -> Path:
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return root


def documents(source: Source) -> list[str]:
    return [text for split in ("train", "val", "audit") for text in source.documents(split)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_odd_text(name: str, tmp_path: Path) -> None:
    folder = FOLDERS[name]
    said: list[str] = []
    root = make(tmp_path / "texts", folder.files)
    source = own_files(root, evaluation_bytes=1000, text_field=folder.text_field, say=said.append)
    assert sorted(documents(source)) == sorted(folder.documents)
    assert source.text_bytes == sum(len(text.encode()) for text in folder.documents)
    text = "\n".join(said)
    assert all(fact in text for fact in folder.said), text
    assert not any(fact in text for fact in folder.unsaid), text
    text.encode()  # can be printed
    again = own_files(make(tmp_path / "copy", folder.files), evaluation_bytes=1000, text_field=folder.text_field)
    assert documents(again) == documents(source), "the same documents in the same order, wherever the folder lies"
    assert again.revision == source.revision


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_text_is_as_many_documents_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    """One below the size that is cut, and one above it."""
    texts = {"short.txt": "word " * 9_000, "long.txt": "a word\n\n" * 9_000}
    root = make(tmp_path / "texts", {name: text.encode(encoding) for name, text in texts.items()})
    found = documents(own_files(root, evaluation_bytes=1000))
    assert texts["short.txt"] in found and len(found) == 9


def test_no_document_is_in_two_splits_whatever_file_it_is_in(tmp_path: Path) -> None:
    texts = sentences(7, 300)
    files: dict[str, bytes | str] = {
        "a.jsonl.gz": gzip.compress(lines(*({"text": text} for text in texts))),
        "b.parquet": parquet(pa.array([text.replace(" ", "\n") for text in texts])),
        "c.json": json.dumps([{"text": f" {text} "} for text in texts]).encode("utf-16"),
    }
    source = own_files(make(tmp_path / "texts", files), evaluation_bytes=20_000)
    keys = {split: {text_key(text) for text in source.documents(split)} for split in ("train", "val", "audit")}  # type: ignore[arg-type]
    assert sum(map(len, keys.values())) == 300 and all(len(found) > 5 for found in keys.values()), {
        k: len(v) for k, v in keys.items()
    }
    assert not keys["train"] & keys["val"] and not keys["train"] & keys["audit"] and not keys["val"] & keys["audit"]


MISTAKES: dict[str, tuple[dict[str, bytes | str], tuple[str, ...]]] = {
    "an empty folder": ({}, ("empty",)),
    "only hidden files": ({".a": b"text"}, ("only hidden files",)),
    "hidden files further below": ({"sub/.a": b"text"}, ("only hidden files",)),
    "Parquet without rows": ({"a.parquet": parquet(pa.array([], pa.string()))}, ("a.parquet", "without a row")),
    "only empty files": ({"a.txt": b"", "b.txt": b" \n"}, ("no text", "empty: a.txt")),
    "only spaces": ({"a.txt": b" " * 99, "b.txt": b" \n"}, ("no text", "blank (only white space): a.txt, b.txt")),
    "only pictures": ({"a.png": b"\x89PNG\0\0"}, ("no text", "skipped 1 file", "a.png")),
    "JSON Lines without the field": (
        {"a.jsonl": lines({"id": "1", "body": "much text"}, {"id": "2", "body": "more"})},
        ("a.jsonl", "`text`", "`body`, `id`", "--text-field body,"),
    ),
    "one JSON object without the field": ({"a.json": b'{"body": "b"}'}, ("`body`", "--text-field body,")),
    "records without any text": (
        {"a.jsonl": lines({"messages": [{"role": "user"}]}, {"messages": []})},
        ("a.jsonl", "messages", "write the text into a field `text`"),
    ),
    "Parquet whose column holds nothing": (
        {"a.parquet": parquet(pa.array([None, None], pa.string()))},
        ("no text in a field `text`", "its fields hold no text (text, "),
    ),
    "Parquet without the column": ({"a.parquet": parquet(pa.array(["x"]), "content")}, ("`content`", "--text-field content,")),
    "Parquet of lists": ({"a.parquet": parquet(pa.array([["x"]]))}, ("a.parquet", "list", "`text`")),
    "not JSON at all": ({"a.jsonl": b"just words\n"}, ("no text", "a.jsonl")),
    "gzip that is cut off": ({"a.txt.gz": gzip.compress(TEXT.encode() * 99)[:-12]}, ("a.txt.gz", "damaged")),
    "bz2 that is damaged": ({"a.bz2": bz2.compress(TEXT.encode() * 99)[:-12]}, ("a.bz2", "damaged")),
    "xz that is damaged": ({"a.xz": lzma.compress(TEXT.encode() * 99)[:-12]}, ("a.xz", "damaged")),
    "zstd that is cut off": ({"a.zst": zstd(TEXT.encode() * 99)[:-12]}, ("a.zst", "damaged")),
    "Parquet that is cut off": (
        {"a.parquet": parquet(pa.array(["x"]))[:-9]},
        ("a.parquet", "corrupt: replace it, or leave it out"),
    ),
    "text called Parquet": ({"a.parquet": b"version 1"}, ("a.parquet", "corrupt")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_folder_that_cannot_be_used_is_one_line(name: str, tmp_path: Path) -> None:
    files, facts = MISTAKES[name]
    with pytest.raises(UserError) as raised:
        own_files(make(tmp_path / "texts", files), evaluation_bytes=1000)
    text = str(raised.value)
    assert "\n" not in text and all(fact in text for fact in facts), text


@pytest.mark.parametrize("root", ["/proc", "/sys/kernel", "/dev"])
def test_a_folder_of_the_kernels_is_no_text(root: str) -> None:
    with pytest.raises(UserError, match="give a folder or a file of text") as raised:
        own_files(Path(root), evaluation_bytes=1000)
    assert "readable" not in str(raised.value) and "leave" not in str(raised.value)


@pytest.mark.parametrize("hide", [lambda root: (root / "a.txt").chmod(0), lambda root: (root / "sub").chmod(0)])
@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_what_cannot_be_read_is_named(hide: Callable[[Path], None], tmp_path: Path) -> None:
    root = make(tmp_path / "texts", {"a.txt": b"a", "sub/b.txt": b"b"})
    hide(root)
    with pytest.raises(UserError, match=r"can't be read .* make it readable"):
        own_files(root, evaluation_bytes=1000)
    (root / "sub").chmod(0o755)


def test_text_behind_links_is_hidden_from_runs_too(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "blob").write_bytes(parquet(pa.array(["one"])))
    root = make(tmp_path / "texts", {"a.parquet": str(tmp_path / "elsewhere" / "blob"), "b.txt": b"b", "c.txt": "b.txt"})
    assert own_files(root, evaluation_bytes=1000).hidden_paths == (root, tmp_path / "elsewhere" / "blob")
