"""The encoding of the user's files.

An encoding is UTF-8, UTF-16 or UTF-32 where the bytes prove it, else Windows-1252 (or Latin-1: the same letters)
where they look like a Western European language. Others are not guessed: charset-normalizer 3.5 took French for Baltic and
Hebrew for Russian, and text that was decoded wrongly goes unnoticed.
"""

import codecs
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from research.data.compression import open_bytes
from research.data.documents import PROBE_BYTES
from research.errors import UserError
from research.formatting import printable

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

WESTERN = "windows-1252"
MOST_WESTERN_LETTERS = 0.3
"""Maximum share of letters outside ASCII in Western European text; in other scripts nearly all are."""
MOST_UNLIKELY = 0.02
"""Maximum share of characters outside ASCII that are unlikely in Western European text."""

MOST_NUL = 0.02
"""Maximum share of NUL bytes in what is still called text."""

LETTERS = re.compile(r"[^\W\d_]")
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
UNLIKELY = re.compile(
    r"[\ufffd\xd0\xde\xdd\xf0\xfe\xfd]"  # Turkish and Czech have other letters in these places
    r"|(?<=[^\W\d_])[\xaa\xb2\xb3\xb5\xb9\xba\u0192](?=[^\W\d_])"  # a symbol within a word: one that counts as a letter
    r"|(?<=[^\W\d_])[^\x00-\x7f\w\xa0\xad\xb7\u2013-\u2019\u2026](?=[^\W\d_])"  # or any other, but for dashes and quotes
    r"|(?<=[a-z])[\u0160\u017d\u0152\u0178\xc0-\xd6](?=[a-z])"  # a capital within a word
)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the bytes of a text are decoded."""

    name: str
    """A name of one of Python's codecs."""
    size: int
    """Bytes of the text, decompressed."""
    replaced: int = 0
    """Places that are not valid in this encoding and become U+FFFD."""

    @property
    def letter_bytes(self) -> int:
        """Bytes of a Latin letter."""
        return 4 if self.name.startswith("utf-32") else 2 if self.name.startswith("utf-16") else 1


class Readable:
    """A context in which errors of reading `path` become a UserError, one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            problem = "was there and isn't any more, so that its folder changes while it is read"
            raise UserError(f"{printable(self._path)} {problem}: give a folder that nothing changes.") from error
        if isinstance(error, OSError) and error.errno is not None:
            problem = f"can't be read ({error.strerror})"
            raise UserError(f"{printable(self._path)} {problem}: make it readable, or leave it out.") from error
        if isinstance(error, OSError | EOFError | zlib.error | lzma.LZMAError):  # OSError: gzip, bz2 and pyarrow
            problem = f"is cut off or damaged ({error})"
            raise UserError(f"{printable(self._path)} {problem}: replace it, or leave it out.") from error


def find_encoding(path: Path) -> Encoding | None:
    """The encoding of a whole file; None for what is not text, or in an encoding that is not recognised."""
    with open_bytes(path) as file:
        probe = file.read(PROBE_BYTES)
    name = marked_encoding(probe) or unmarked_utf16(probe)
    if name is None and b"\0" in probe:
        return None
    if name is not None and name != "utf-8-sig":
        if CONTROLS.search(probe.decode(name, "replace")):
            return None
        size, wrong, right = _decoded(path, name)
        return Encoding(name=name, size=size, replaced=wrong) if wrong <= right / 100 else None
    utf8 = name or "utf-8"
    valid_size = _size_if_valid(path, utf8)
    if valid_size is not None:
        return Encoding(name=utf8, size=valid_size)
    size, wrong, right = _decoded(path, utf8)
    if name is not None or right >= wrong:  # several valid characters of several bytes are no coincidence
        return Encoding(name=utf8, size=size, replaced=wrong)
    return Encoding(name=WESTERN, size=size) if _is_western(path) else None


def is_utf8_but_for_nul(probe: bytes) -> bool:
    """Whether the beginning of a file is UTF-8 text in which a few NUL bytes are all that is not text."""
    nul = probe.count(0)
    if not 0 < nul <= len(probe) * MOST_NUL:
        return False
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(probe.replace(b"\0", b""))
    except UnicodeDecodeError:
        return False
    return CONTROLS.search(text) is None


def marked_encoding(probe: bytes) -> str | None:
    """The encoding that a byte order mark at the start of `probe` names."""
    return next((name for mark, name in BYTE_ORDER_MARKS if probe.startswith(mark)), None)


def unmarked_utf16(probe: bytes) -> str | None:
    """UTF-16 of mostly Latin letters, without a byte order mark: every second byte is NUL."""
    half = len(probe) // 2
    even, odd = probe[0::2].count(0), probe[1::2].count(0)
    if half and odd > 0.7 * half and even < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if half and even > 0.7 * half and odd < 0.05 * half else None


def _size_if_valid(path: Path, encoding: str) -> int | None:
    """Bytes of the file, decompressed; None if they are not valid in this encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    size = 0
    try:
        for chunk in _chunks(path):
            size += len(chunk)
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return None
    return size


def _decoded(path: Path, encoding: str) -> tuple[int, int, int]:
    """Bytes of the file, characters that are not valid in this encoding, and valid ones; in UTF-8 those outside ASCII alone."""
    size = wrong = right = 0
    for text, length in _decode(path, encoding):
        bad = text.count("\ufffd")
        size += length
        wrong += bad
        right += len(text) - bad if not encoding.startswith("utf-8") else _outside_ascii(text) - bad
    return size, wrong, right


def _is_western(path: Path) -> bool:
    letters = outside = outside_letters = unlikely = 0
    for text, _ in _decode(path, WESTERN):
        if CONTROLS.search(text):
            return False
        found = LETTERS.findall(text)
        letters += len(found)
        outside_letters += sum(not letter.isascii() for letter in found)
        outside += _outside_ascii(text)
        unlikely += len(UNLIKELY.findall(text))
    return outside_letters <= MOST_WESTERN_LETTERS * letters and unlikely <= MOST_UNLIKELY * outside


def _outside_ascii(text: str) -> int:
    return 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))


def _decode(path: Path, encoding: str) -> Iterator[tuple[str, int]]:
    """Parts of the text, and the number of bytes of each."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for chunk in _chunks(path):
        yield decoder.decode(chunk), len(chunk)
    yield decoder.decode(b"", final=True), 0


def _chunks(path: Path) -> Iterator[bytes]:
    with open_bytes(path) as file:
        while chunk := file.read(2**20):
            yield chunk
