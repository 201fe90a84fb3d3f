"""Documents of plain text: a large text is cut into several, and every document has a key."""

import codecs
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

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


def path_key(path: Path, root: Path) -> bytes:
    """A hash of a path below `root`. Files in its order are mixed across folders, in the same way on every machine."""
    return hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest()


def list_files(root: Path, *, suffix: str = "", skip_folders: frozenset[str] = frozenset()) -> list[Path]:
    """The files below `root`, ordered by `path_key`.

    Hidden files and folders, symbolic links and empty files are left out, and so are folders named in `skip_folders`.
    """
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip_folders]
        paths = (Path(folder, name) for name in names if name.endswith(suffix) and not name.startswith("."))
        found += (path for path in paths if path.is_file() and not path.is_symlink() and path.stat().st_size)
    return sorted(found, key=lambda path: path_key(path, root))


def plain_documents(path: Path) -> Iterator[str]:
    """The documents of a UTF-8 file; none for a file that is not UTF-8."""
    if _is_utf8(path):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from text_documents(file, size=path.stat().st_size)


def text_documents(file: IO[str], *, size: int) -> Iterator[str]:
    """The documents of an open text of `size` bytes: one, or several if it is large."""
    return _cut(file) if size >= LARGE_TEXT_BYTES else iter([file.read()])


def _is_utf8(path: Path) -> bool:
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
