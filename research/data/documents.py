"""Documents in files: parquet, JSON lines, and plain text of any kind."""

import codecs
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from research.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

LARGE_TEXT_BYTES = 2**16
"""Minimum size of a plain text file that is cut into several documents, so that one big file can serve all three splits."""

CUT_CHARACTERS = 2**13
"""Approximate size of those documents. Each ends at a separator, else at an empty line, else at the end of a line."""

DOCUMENT_END = "<|endoftext|>"
"""The separator between documents in many text dumps."""

PROBE_BYTES = 2**16
"""Bytes at the start of a file that tell text from other files."""


def text_key(text: str) -> int:
    """A 64-bit hash of a document's text, ignoring white space."""
    letters = text.encode("utf-8", "replace").translate(None, b" \t\r\n\f\v")
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little")


def list_files(root: Path, *, suffix: str = "", skip_folders: frozenset[str] = frozenset()) -> list[Path]:
    """The files below `root`, ordered by a hash of their path, which mixes folders and is the same on every machine.

    Hidden files and folders, symbolic links and empty files are left out, and so are folders named in `skip_folders`.
    """
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip_folders]
        paths = (Path(folder, name) for name in names if name.endswith(suffix) and not name.startswith("."))
        found += (path for path in paths if path.is_file() and not path.is_symlink() and path.stat().st_size)
    return sorted(found, key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())


def file_documents(path: Path) -> Iterator[str]:
    """The documents of one file; none for a file that is neither text nor parquet."""
    if path.suffix == ".parquet":
        yield from parquet_texts(path)
    elif path.suffix == ".jsonl" and _has_text_field(path):
        yield from _json_lines(path)
    elif _is_text(path):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from _cut(file) if path.stat().st_size >= LARGE_TEXT_BYTES else iter([file.read()])


def parquet_texts(path: Path, *, start: int = 0, stop: int | None = None, delete_if_corrupt: bool = False) -> Iterator[str]:
    """Rows `start` to `stop - 1` of the column `text`, read in batches. Raises UserError for a file that can't be read.

    With `delete_if_corrupt` that file is deleted.
    """
    try:
        with _open_parquet(path) as file:
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows > start and (stop is None or first < stop):
                    yield from _row_group_texts(file, group, start - first, rows if stop is None else stop - first)
                first += rows
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise _corrupt(path, delete_if_corrupt) from error


def parquet_rows(path: Path, *, delete_if_corrupt: bool = False) -> int:
    """Number of rows of a parquet file. Raises UserError for a file that can't be read."""
    try:
        with _open_parquet(path) as file:
            return int(file.metadata.num_rows)
    except (OSError, ValueError) as error:
        raise _corrupt(path, delete_if_corrupt) from error


def _open_parquet(path: Path) -> "pyarrow.parquet.ParquetFile":
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    if "text" not in file.schema_arrow.names:
        raise UserError(f"{path} has no column `text`: rename the column, or leave the file out.")
    return file


def _row_group_texts(file: "pyarrow.parquet.ParquetFile", group: int, start: int, stop: int) -> Iterator[str]:
    """Rows `start` to `stop - 1` of one row group."""
    place = 0
    for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=["text"]):
        wanted = batch.column(0)[max(start - place, 0) : max(stop - place, 0)]
        yield from (text for text in wanted.to_pylist() if text)
        place += batch.num_rows


def _corrupt(path: Path, delete: bool) -> UserError:
    if delete:
        path.unlink(missing_ok=True)
        return UserError(f"{path} is corrupt and was deleted: run the same command again to download it again.")
    return UserError(f"{path} is corrupt: delete it, and run the same command again.")


def _has_text_field(path: Path) -> bool:
    """Whether the first line is a JSON object with a field `text`; other .jsonl files are read as plain text."""
    with path.open("rb") as file:
        return _text_of_line(file.readline()) is not None


def _json_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            text = _text_of_line(line)
            if text:
                yield text


def _text_of_line(line: bytes) -> str | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        return None
    # JSON can hold half a surrogate pair, which no UTF-8 text can.
    return text.encode("utf-8", "replace").decode()


def _is_text(path: Path) -> bool:
    """Whether the start of a file is UTF-8 without NUL bytes."""
    with path.open("rb") as file:
        probe = file.read(PROBE_BYTES)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(probe)  # incremental: the last character may be cut
    except UnicodeDecodeError:
        return False
    return b"\0" not in probe


def _cut(file: IO[str]) -> Iterator[str]:
    """Splits a large text into documents, reading a part at a time."""
    rest = ""
    while part := file.read(2**20):
        rest += part
        start = 0
        while len(rest) - start > 2 * CUT_CHARACTERS:
            end = _good_end(rest, start + CUT_CHARACTERS, start + 2 * CUT_CHARACTERS)
            yield from _separated(rest[start:end])
            start = end
        rest = rest[start:]
    yield from _separated(rest)


def _good_end(text: str, least: int, most: int) -> int:
    """The position of a cut between `least` and `most`: after the first occurrence of the strongest separator found."""
    for mark in (DOCUMENT_END, "\n\n", "\n"):
        place = text.find(mark, least, most)
        if place >= 0:
            return place + len(mark)
    return most


def _separated(text: str) -> Iterator[str]:
    return (document for document in text.split(DOCUMENT_END) if document.strip())
