"""Compressed files of the user's own.

Compression is recognised by a file's first bytes, never by its name, since a server may have decompressed what is still called
`.gz`.
"""

import bz2
import gzip
import lzma
from pathlib import Path
from typing import IO, cast

COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
"""The first bytes of a compressed file, and its compression."""

COMPRESSED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4"})
"""Suffixes of compressed files, before which a file's own suffix stands."""


def open_bytes(path: Path) -> IO[bytes]:
    """The content of a file, decompressed."""
    with path.open("rb") as file:
        head = file.read(6)
    compression = next((name for start, name in COMPRESSIONS.items() if head.startswith(start)), None)
    match compression:
        case None:
            return path.open("rb")
        case "gzip":
            return cast(IO[bytes], gzip.open(path))
        case "bz2":
            return bz2.open(path)
        case "xz":
            return lzma.open(path)
        case name:
            import pyarrow

            return cast(IO[bytes], pyarrow.CompressedInputStream(path.open("rb"), name))
