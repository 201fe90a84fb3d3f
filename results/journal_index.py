"""Where each record of a journal stands, in memory and in a file of the home: a long journal need not be read at each start.

The file is a cache of what the journal's lines say. It has a checksum of its own, and one over all bytes of the journal that it
was made from. Those are read again (two gigabytes in a second) unless the file system says that nothing has touched the journal
since: device, inode, size and times are what they were before its lines were read. It is not used for a journal that begins
with other bytes, and is not written for one with a damaged line.
"""

import hashlib
import json
import logging
import os
import sys
import time
import zlib
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

from research.files import write_atomically

log = logging.getLogger(__name__)

FILE = "journal.index"

VERSION = 2

FEWEST_TO_SAVE = 5_000
"""A journal of fewer records is read in less time than anybody notices."""

SHARE_TO_SAVE = 0.05
"""A process that only reads writes the file again after this share of new records."""

SETTLED_NS = 50_000_000
"""Nanoseconds after which another change of a file gets another time: clocks of file systems tick every few milliseconds."""

READ_AT_ONCE = 2**20
"""Bytes."""

CHECKSUM_BYTES = 8


def checksum_field(text: bytes) -> bytes:
    """The last field of a journal's line: a checksum over the bytes of all other fields, so that no parsing is needed to verify
    it.
    """
    return b', "checksum": "%s"}' % hashlib.blake2b(text, digest_size=CHECKSUM_BYTES).hexdigest().encode()


CHECKSUM_FIELD_LENGTH = len(checksum_field(b""))

HEAD_SUM = b"%08x "
"""How the file's first line begins, which precedes the arrays: by a checksum over the rest of the line."""


class JournalIndex:
    """The places of the records in a journal's lines. One thread at a time takes lines, any may ask.

    Ids that were read from the file are known by 64 bits of their hash: with three million others a new id is taken for one
    of them with a probability of 2e-13.
    """

    def __init__(self) -> None:
        self._keys, self._places = array("Q"), array("I")
        """The hashes of the ids in the file, sorted, and the position of each record."""
        self._new: dict[str, int] = {}
        """The positions of all other records by their ids."""
        self._starts = array("Q")
        """Where each record's line begins, in bytes."""
        self._sums = array("I", [0])
        """A checksum over the records up to each position, from 0 on."""
        self.end = self.lines = 0
        """How many bytes and lines of the journal are in it."""
        self._sum_of_bytes = 0
        self._is_whole = True
        self._file: list[int] | None = None
        """The state of the journal's file before its lines were read; None if others may have changed it without a trace."""
        self._saved = -1
        """How many records the file holds; below 0 if it isn't known to hold these."""

    def __len__(self) -> int:
        return len(self._starts)

    def position(self, id: str) -> int | None:
        """The record's place among the usable records, from 1; None if there is no such record."""
        found = self._new.get(id)
        if found is None and self._keys:
            key = _key(id)
            at = bisect_left(self._keys, key)
            found = self._places[at] if at < len(self._keys) and self._keys[at] == key else None
        return found

    def checksum(self, position: int) -> int | None:
        """A checksum over all usable records up to a position; None if there are fewer."""
        return self._sums[position] if position < len(self._sums) else None

    def start(self, position: int) -> int:
        """Where the line of a record begins, in bytes."""
        return self._starts[position - 1]

    def is_at(self, position: int, line: bytes) -> bool:
        """Whether a line ends in the checksum of the record that was taken for this position."""
        return self._sums[position] == _next_sum(line, self._sums[position - 1])

    def note_file(self, found: os.stat_result) -> None:
        """Takes note of the state of the journal's file. To be called before any of its lines is taken."""
        self._file = _identity(found) if not found.st_size or _left_to_settle(found) <= 0 else None

    def note_written(self, before: os.stat_result, after: os.stat_result) -> None:
        """Takes note of the file's states right before and after this process has written a line."""
        self._file = _identity(after) if self._file == _identity(before) else None

    def take(self, line: bytes, id: str | None) -> bool:
        """Takes the next complete line with its record's id; None for a damaged one. Returns whether the record is new."""
        start = self.end
        self.end, self.lines, self._sum_of_bytes = start + len(line), self.lines + 1, zlib.crc32(line, self._sum_of_bytes)
        if id is None:
            self._is_whole = False
            return False
        if self.position(id) is not None:
            return False
        self._sums.append(_next_sum(line, self._sums[-1]))
        self._starts.append(start)
        self._new[id] = len(self._starts)
        return True

    def save(self, journal: Path, *, is_writer: bool) -> None:
        """Replaces the file beside a journal, if enough is new, and the journal is long and has no damaged line.

        A failure to write it is logged by its writer and otherwise ignored, since nothing depends on the file.
        """
        new, least = len(self) - self._saved, 1 if is_writer else SHARE_TO_SAVE * len(self)
        if len(self) < FEWEST_TO_SAVE or not self._is_whole or new < least:
            return
        try:
            parts = self._parts()
            if parts is None:
                return
            data, sum_of_parts = b"".join(parts), 0
            for part in parts:
                sum_of_parts = zlib.crc32(part, sum_of_parts)
            found = _identity(_settled(journal))
            file = found if found == self._file else None
            head = {"version": VERSION, "order": sys.byteorder, "records": len(self), "end": self.end, "lines": self.lines,
                    "sum": self._sum_of_bytes, "parts": sum_of_parts, "file": file}  # fmt: skip
            line = json.dumps(head).encode() + b"\n"
            write_atomically(journal.with_name(FILE), HEAD_SUM % zlib.crc32(line) + line + data, private=True)
            self._saved = len(self)
        except OSError as problem:
            if is_writer:
                log.warning("%s can't be written: %s", journal.with_name(FILE), problem.strerror)

    def _parts(self) -> list[bytes] | None:
        """The arrays as bytes; None if two ids have one hash."""
        import numpy as np  # whoever reads a short journal needs none of it

        keys = np.concatenate([np.frombuffer(self._keys, np.uint64), np.array([_key(id) for id in self._new], np.uint64)])
        places = np.concatenate([np.frombuffer(self._places, np.uint32), np.array(list(self._new.values()), np.uint32)])
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        if bool((keys[1:] == keys[:-1]).any()):
            return None
        return [keys.tobytes(), places.tobytes(), self._starts.tobytes(), self._sums.tobytes()]


def load(journal: Path, opened: int) -> JournalIndex:
    """The index of the first lines of a journal, which is open; an empty one without a file, or with one that is damaged or of
    another journal.
    """
    found = os.fstat(opened)
    index = _loaded(journal.with_name(FILE), opened, found) or JournalIndex()
    index.note_file(found)
    return index


def _loaded(path: Path, opened: int, found: os.stat_result) -> JournalIndex | None:
    try:
        with path.open("rb") as file:
            line = file.readline()
            data = file.read()
        mark = len(HEAD_SUM % 0)
        if line[:mark] != HEAD_SUM % zlib.crc32(line[mark:]):
            raise ValueError("its checksum does not match")
        head = json.loads(line[mark:])
        if (head["version"], head["order"], head["parts"]) != (VERSION, sys.byteorder, zlib.crc32(data)):
            return None
        return _filled(head, data) if _is_of(opened, found, head) else None
    except (FileNotFoundError, PermissionError):  # another user's home
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:  # whatever stands in a damaged file
        log.warning("%s can't be read and is left out: %s", path, problem)
        return None


def _filled(head: dict[str, Any], data: bytes) -> JournalIndex:
    index, count, at = JournalIndex(), head["records"], 0
    index._sums = array("I")
    for values, length in ((index._keys, count), (index._places, count), (index._starts, count), (index._sums, count + 1)):
        size = length * values.itemsize
        values.frombytes(memoryview(data)[at : at + size])
        at += size
    if at != len(data):
        raise ValueError("its length is wrong")
    index.end, index.lines, index._sum_of_bytes, index._saved = head["end"], head["lines"], head["sum"], count
    return index


def _is_of(opened: int, found: os.stat_result, head: dict[str, Any]) -> bool:
    """Whether an open journal begins with the bytes that an index was made from."""
    if _identity(found) == head["file"] and found.st_size == head["end"]:
        return True
    if found.st_size < head["end"]:
        return False
    total, at = 0, 0
    while at < head["end"] and (part := os.pread(opened, min(head["end"] - at, READ_AT_ONCE), at)):
        total, at = zlib.crc32(part, total), at + len(part)
    return (at, total) == (head["end"], head["sum"])


def _identity(found: os.stat_result) -> list[int]:
    """What changes whenever a program changes a file."""
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _settled(journal: Path) -> os.stat_result:
    """A journal's state, so long after its last change that a later one has another time."""
    while (left := _left_to_settle(found := journal.stat())) > 0:
        if left > SETTLED_NS:  # the file's clock is another one's
            break
        time.sleep(left / 1e9)
    return found


def _left_to_settle(found: os.stat_result) -> int:
    """The nanoseconds until another change of a file would give it another time."""
    return SETTLED_NS - (time.time_ns() - found.st_ctime_ns)


def _next_sum(line: bytes, before: int) -> int:
    """The checksum over the records up to that of a line, by the one over those before it."""
    return zlib.crc32(line.rstrip()[-CHECKSUM_FIELD_LENGTH:], before)


def _key(id: str) -> int:
    """64 bits of an id's hash."""
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
