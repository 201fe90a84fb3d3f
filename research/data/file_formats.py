"""What a folder of the user's own holds: which files are read, in which format, and which are skipped and why."""

import io
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from research.data.compression import COMPRESSED_SUFFIXES, COMPRESSIONS, open_bytes
from research.data.decoding import Encoding, Readable, find_encoding, is_utf8_but_for_nul
from research.data.documents import CUT_CHARACTERS, DOCUMENT_END, PROBE_BYTES, text_documents
from research.data.file_tree import FileTree, has_hidden_files
from research.data.json_documents import LeftOut, is_cut_off, json_fields, json_texts
from research.data.parquet import parquet_fields, parquet_rows, parquet_values
from research.errors import UserError
from research.formatting import counted, printable, shortened, size

Format = Literal["text", "JSON", "Parquet"]

JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".jl"})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})

KNOWN_STARTS = {
    b"PK\x03\x04": "archives (unpack them)",
    b"PK\x05\x06": "archives (unpack them)",
    b"7z\xbc\xaf\x27\x1c": "archives (unpack them)",
    b"Rar!": "archives (unpack them)",
    b"ARROW1": "Arrow files (save them as Parquet)",
    b"%PDF-": "PDF (extract the text)",
    b"{\\rtf": "RTF (save it as text)",
    b"version https://git-lfs": "pointers of Git LFS (run git lfs pull)",
}
"""The first bytes of files that are not text, though they can look like it, and what they are."""

PARQUET_START = b"PAR1"
TAR_MARK, TAR_MARK_AT = b"ustar", 257
NAMES_SHOWN = 3
"""File names given for each reason to skip files, and names of fields."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file that is read."""

    path: Path
    format: Format
    encoding: Encoding | None
    """None for Parquet."""
    documents: int
    text_bytes: int
    """UTF-8 bytes of the documents."""
    without_text: int = 0
    """Records without the field."""
    broken: int = 0
    """Lines that are not JSON."""
    other_fields: tuple[str, ...] = ()
    """The fields in which records without the requested one hold text, the longest text first."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that is not read."""

    path: Path
    why: str
    """What such files are, in the plural, and what to do."""
    fields: str = ""
    """The fields of records without the requested one; empty if the file holds no records."""
    text_field: str = ""
    """The first of the fields that holds text; empty if none does."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The files of a source, in order, and what they hold."""

    name: str
    field: str
    """The field of records, or column of Parquet, that holds the text."""
    read: tuple[DataFile, ...]
    skipped: tuple[Skipped, ...]
    tree: FileTree
    """Where they lie, with what is not looked at."""

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(file.text_bytes for file in self.read)

    @property
    def documents(self) -> int:
        """The number of all documents."""
        return sum(file.documents for file in self.read)

    def lines(self) -> list[str]:
        """What was read and what was skipped, for people."""
        kinds = Counter(file.format for file in self.read)
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        documents = counted(self.documents, "document")
        lines = [
            f"{self.name}: read {counted(len(self.read), 'file')} ({listed}): {documents}, {size(self.text_bytes)} of text"
        ]
        lines += [
            f"{self.name}: {line}"
            for line in (self._encodings(), self._replaced(), self._broken(), self._records(), self._cut())
            if line
        ]
        lines += [f"{self.name}: {self.skipped_line()}"] if self.skipped else []
        return [*lines, *(f"{self.name}: {line}" for line in (self._hidden(), self._again()) if line)]

    def skipped_line(self) -> str:
        """How many files were skipped, for which reasons; empty if none were."""
        if not self.skipped:
            return ""
        reasons = _by_reason({file.path: file.why for file in self.skipped})
        return f"skipped {counted(len(self.skipped), 'file')}: {reasons}"

    def _hidden(self) -> str:
        hidden = self.tree.hidden
        return f"not read, since hidden: {_names(hidden)}" if hidden else ""

    def _again(self) -> str:
        again = self.tree.again
        return f"read once, under another path: {_names(again)}" if again else ""

    def _encodings(self) -> str:
        named = {file.path: file.encoding.name for file in self.read if file.encoding}
        others = {path: name for path, name in named.items() if not name.startswith("utf-8")}
        return f"in other encodings than UTF-8: {_by_reason(others)}" if others else ""

    def _cut(self) -> str:
        found = [file for file in self.read if file.format == "text" and file.documents > 1]
        documents = counted(sum(file.documents for file in found), "document")
        where = f"at {DOCUMENT_END}, else at an empty line, a line's end, or {2 * CUT_CHARACTERS:,} characters"
        return f"large texts cut into {documents}, {where}: {_names([file.path for file in found])}" if found else ""

    def _replaced(self) -> str:
        found = [file for file in self.read if file.encoding and file.encoding.replaced]
        count = sum(file.encoding.replaced for file in found if file.encoding)
        what = f"{counted(count, 'invalid character')} replaced by U+FFFD"
        return f"{what} in {_names([file.path for file in found])}" if found else ""

    def _broken(self) -> str:
        found = [file for file in self.read if file.broken]
        count = counted(sum(file.broken for file in found), "line")
        return f"{count} that can't be read as JSON in {_names([file.path for file in found])}" if found else ""

    def _records(self) -> str:
        found = [file for file in self.read if file.without_text]
        count = sum(file.without_text for file in found)
        others = list(dict.fromkeys(name for file in found for name in file.other_fields))
        there = f", with text in {_quoted(others)}: only one field is read, so rename theirs to use it" if others else ""
        where = _names([file.path for file in found])
        return f"{counted(count, 'record')} without text in the field `{self.field}`, in {where}{there}" if found else ""


def survey(name: str, root: Path, tree: FileTree, *, field: str) -> Survey:
    """Reads all files once. Raises UserError if there is no text, or a file is damaged or can't be read."""
    found = [_examine(path, field) for path in tree.files]
    read = tuple(file for file in found if isinstance(file, DataFile))
    skipped = tuple(file for file in found if isinstance(file, Skipped))
    result = Survey(name=name, field=field, read=read, skipped=skipped, tree=tree)
    without_field = [file for file in skipped if file.fields]
    if without_field and not read:
        raise _no_such_field(without_field, field)
    if not result.text_bytes:
        raise no_text(root, result.skipped_line())
    return result


def no_text(root: Path, skipped: str = "") -> UserError:
    """The error for a folder or file without text, of which `skipped` says what was found; empty: nothing was."""
    why = skipped or ("it has only hidden files, which are not read" if has_hidden_files(root) else "the folder is empty")
    return UserError(f"{printable(root)} holds no text ({why}): put text, JSON Lines or Parquet files there.")


def documents_of(file: DataFile, field: str) -> Iterator[str]:
    """The documents of a file, in order. Raises UserError if it is damaged or can't be read."""
    return (text for text in _texts(file.path, file.format, file.encoding, field) if text)


def _texts(
    path: Path, kind: Format, encoding: Encoding | None, field: str, left_out: LeftOut | None = None
) -> Iterator[str | None]:
    """The text of each document or record; None for a record without text, which `left_out` counts if it is JSON."""
    if encoding is None:
        yield from parquet_values(path, field)
        return
    with Readable(path), _open_text(path, encoding, newline="\n" if kind == "JSON" else "") as file:
        if kind == "JSON":
            yield from json_texts(file, field, left_out)
        else:
            yield from text_documents(file, size=encoding.size // encoding.letter_bytes)


def _open_text(path: Path, encoding: Encoding, *, newline: str) -> IO[str]:
    return io.TextIOWrapper(open_bytes(path), encoding=encoding.name, errors="replace", newline=newline)


def _examine(path: Path, field: str) -> DataFile | Skipped:
    """Reads a file once, to see what it holds."""
    with Readable(path):
        if not path.is_file():
            return Skipped(path=path, why="broken links" if path.is_symlink() else "not regular files")
        head = _head(path)
        if head.startswith(PARQUET_START) and _is_compressed(path):
            return Skipped(path=path, why="compressed as a whole (decompress the Parquet file)")
        suffixes = [suffix for suffix in path.suffixes if suffix.lower() not in COMPRESSED_SUFFIXES]
        suffix = suffixes[-1].lower() if suffixes else ""
        if head.startswith(PARQUET_START) or (suffix in PARQUET_SUFFIXES and head and not _is_compressed(path)):
            return _examine_records(path, "Parquet", None, field)
        reason = _known_kind(head)
        if reason is not None:
            return Skipped(path=path, why=reason)
        encoding = find_encoding(path)
        if encoding is None:
            return Skipped(path=path, why=_not_text(path))
        if suffix in JSON_SUFFIXES:
            return _examine_records(path, "JSON", encoding, field)
        found = _counted(path, "text", encoding, field)
        return found if found.documents else Skipped(path=path, why="blank (only white space)")


def _examine_records(path: Path, kind: Format, encoding: Encoding | None, field: str) -> DataFile | Skipped:
    """A file of records: read if one of them has the field."""
    if encoding is None and not parquet_rows(path):
        return Skipped(path=path, why="Parquet files without a row")
    texts, others = _fields(path, encoding)
    if encoding is None and field not in texts:
        return _without_field(path, texts, others, field, records=parquet_rows(path))
    found = _counted(path, kind, encoding, field)
    if found.documents:
        return found
    if not texts and not others:
        return Skipped(path=path, why=_without_record(path, encoding))
    return _without_field(path, texts, others, field, records=found.without_text)


def _counted(path: Path, kind: Format, encoding: Encoding | None, field: str) -> DataFile:
    documents = text_bytes = without_text = 0
    left_out = LeftOut()
    for text in _texts(path, kind, encoding, field, left_out):
        if text and not text.isspace():
            documents += 1
            text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        else:
            without_text += 1
    return DataFile(
        path=path,
        format=kind,
        encoding=encoding,
        documents=documents,
        text_bytes=text_bytes,
        without_text=0 if kind == "text" else without_text - left_out.broken,
        broken=left_out.broken,
        other_fields=tuple(name for name, _ in left_out.fields.most_common() if name != field),
    )


def _fields(path: Path, encoding: Encoding | None) -> tuple[list[str], list[str]]:
    """The names of the fields that hold text, and those of the others."""
    if encoding is None:
        return parquet_fields(path)
    with Readable(path), _open_text(path, encoding, newline="\n") as file:
        return json_fields(file)


def _without_field(path: Path, texts: list[str], others: list[str], field: str, *, records: int) -> Skipped:
    if field in texts:  # of the type text, with nothing in it
        texts, others = [name for name in texts if name != field], [field, *others]
    if texts:
        fields = f"text is in {_quoted(texts)}"
    else:
        fields = f"its fields hold no text ({', '.join(printable(name) for name in others)})"
    there = ""
    if texts and records > 1:  # one object can be a program's settings
        there = f", with text in {_quoted(texts)} (--text-field reads another one)"
    return Skipped(path=path, why=f"records without text in `{field}`{there}", fields=fields, text_field=next(iter(texts), ""))


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{printable(shortened(name, 40))}`" for name in names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else shown


def _no_such_field(files: Sequence[Skipped], field: str) -> UserError:
    first = next((file for file in files if file.text_field), files[0])
    more = f" (nor {'has' if len(files) == 2 else 'have'} {counted(len(files) - 1, 'other')})" if files[1:] else ""
    name = f"name the field, as in --text-field {shlex.quote(printable(first.text_field))}"
    cure = name if first.text_field else f"write the text into a field `{field}` of each record"
    return UserError(
        f"{printable(first.path)} has no text in a field `{field}`{more}; {first.fields}: {cure}, or leave the file out."
    )


def _head(path: Path) -> bytes:
    """The first bytes of the content, decompressed."""
    with open_bytes(path) as file:
        return file.read(TAR_MARK_AT + len(TAR_MARK))


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith(tuple(COMPRESSIONS))


def _known_kind(head: bytes) -> str | None:
    """What a file is that need not be decoded; None for what may be text."""
    if not head:
        return "empty"
    if head[TAR_MARK_AT:] == TAR_MARK:
        return "archives (unpack them)"
    return next((kind for start, kind in KNOWN_STARTS.items() if head.startswith(start)), None)


def _not_text(path: Path) -> str:
    """Why a file without a known encoding is skipped."""
    with open_bytes(path) as file:
        probe = file.read(PROBE_BYTES)
    if is_utf8_but_for_nul(probe):
        return "text with NUL bytes, as binary files have (remove those bytes)"
    is_binary = b"\0" in probe or any(byte < 9 for byte in probe)
    return "not text" if is_binary else "not text, or in an encoding that isn't recognised (convert them to UTF-8)"


def _without_record(path: Path, encoding: Encoding | None) -> str:
    """Why a file of JSON without a record is skipped."""
    if encoding is not None:
        with Readable(path), _open_text(path, encoding, newline="\n") as file:
            if is_cut_off(file):
                return "cut off in the middle of the JSON (replace them by whole files)"
    return "named .json or .jsonl, but without a record in JSON"


def _by_reason(reasons: Mapping[Path, str]) -> str:
    """`not text: a.png, b.bin; empty: c.txt`."""
    grouped: dict[str, list[Path]] = {}
    for path, reason in sorted(reasons.items()):
        grouped.setdefault(reason, []).append(path)
    return "; ".join(f"{reason}: {_names(paths)}" for reason, paths in grouped.items())


def _names(paths: Sequence[Path]) -> str:
    shown = ", ".join(printable(path.name) for path in sorted(paths)[:NAMES_SHOWN])
    return f"{shown} and {len(paths) - NAMES_SHOWN:,} more" if len(paths) > NAMES_SHOWN else shown
