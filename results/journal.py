"""The journal: append-only JSON lines, one for each change of state. It is the source of truth; every table is made from it.

Guaranteed: a record whose `append` returned is on disk and survives a kill -9 or a power cut (a few kinds, NOT_WAITED_FOR,
survive a kill -9, and are on disk with the next other record); an id is written at most once; one process writes at a time; a
line that was damaged later is named and never used; a file that others have changed, replaced or removed meanwhile is noticed
by the next `append`.

Not guaranteed: whether a record whose `append` did not return is in the file. And one writer at a time relies on flock, which
some network file systems (NFS among them) support only if their lock service runs, and others not at all: keep a farm's home on
a local disk if you can.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

import msgspec

from research.command_hints import to_type
from research.errors import UserError
from results import journal_index
from results.journal_index import CHECKSUM_BYTES, CHECKSUM_FIELD_LENGTH, JournalIndex, checksum_field

RecordKind = Literal["branch", "experiment", "run", "verdict", "event"]

RECORD_KINDS: tuple[RecordKind, ...] = get_args(RecordKind)


@dataclass(frozen=True, kw_only=True)
class JournalRecord:
    """One change of state."""

    id: str
    """Unique over the whole journal."""
    kind: RecordKind
    time: str
    """ISO 8601, UTC."""
    body: Mapping[str, Any]
    """Plain JSON data."""
    text: str = field(default="", compare=False, repr=False)
    """The body as it stands in the journal; empty for a record that was not read there."""

    @classmethod
    def unread(cls, id: str, kind: str, time: str, text: str) -> "JournalRecord":
        """A record whose body is read when it is looked at: not all of millions are."""
        record = object.__new__(cls)
        record.__dict__.update(id=id, kind=kind, time=time, text=text)
        return record

    @property
    def is_read(self) -> bool:
        """Whether its body is in memory."""
        return "body" in self.__dict__

    def __getattr__(self, name: str) -> Any:
        if name != "body":
            raise AttributeError(name)
        body = self.__dict__["body"] = _plain_data(self.text)
        return body

    def body_text(self) -> str:
        """The body as JSON."""
        return self.text or json.dumps(self.body)


@dataclass(frozen=True, kw_only=True)
class DamagedLine:
    """A complete line that was damaged after it was written."""

    number: int
    """Line number, from 1."""
    problem: str
    is_telemetry: bool = False
    """Whether what is left of it says that it was telemetry, from which nothing follows."""


def read_journal(path: Path, *, on_damage: Callable[[DamagedLine], None] | None = None) -> Iterator[JournalRecord]:
    """The records in order; safe while a farm writes.

    A torn last line (no newline yet) is left out. So are damaged lines, which are passed to `on_damage`; without it the first
    one raises UserError with its line number.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            record = decoded(line, number)
            if isinstance(record, JournalRecord):
                yield record
            elif on_damage is None:
                raise UserError(f"{path}, line {number}: {record.problem}.") from None
            else:
                on_damage(record)


def _pass_over(opened: int, index: JournalIndex, *, on_damage: Callable[[DamagedLine], None]) -> None:
    """Takes the complete lines of an open journal that an index lacks into it. Of one whose checksum matches only the beginning
    is read.
    """
    with open(opened, "rb", closefd=False) as file:
        file.seek(index.end)
        for line in file:
            if not line.endswith(b"\n"):
                return
            begins = _BEGINNING.match(line)
            if begins is not None and _is_whole(line):
                index.take(line, begins[1].decode())
            elif isinstance(record := decoded(line, index.lines + 1), JournalRecord):
                index.take(line, record.id)
            else:
                on_damage(record)
                index.take(line, None)


_BEGINNING = re.compile(
    rb'\{"id": "([\x20-\x21\x23-\x5b\x5d-\x7e]*)", "kind": "(?:branch|experiment|run|verdict|event)", '
    rb'"time": "[^"\\]*", "body": \{'
)
"""How a line begins that the farm wrote, with an id that needs no escapes."""


def decoded(line: bytes, number: int) -> JournalRecord | DamagedLine:
    """The record in a complete line, or what is wrong with it. An editor may have ended the line by CR LF."""
    line = line[:-2] + b"\n" if line.endswith(b"\r\n") else line
    try:
        return _decode(line)
    except ValueError as problem:
        is_telemetry = any(kind in line for kind in _TELEMETRY)
        return DamagedLine(number=number, problem=str(problem), is_telemetry=is_telemetry)


TELEMETRY = frozenset({"work", "worker"})
"""The kinds of events from which nothing follows: the states of the work and of the workers."""

NOT_WAITED_FOR = TELEMETRY | {"gain"}
"""The kinds of events that need not be on disk before anything else happens: telemetry, and what is computed anew where it is
missing. There are several for each run."""

_TELEMETRY = tuple(b'"body": {"kind": "%s", "details": {' % kind.encode() for kind in sorted(TELEMETRY))


class JournalChanged(UserError):
    """A journal holds something else than what was read of it."""


class Records(Protocol):
    """The usable records of a journal, each at its position, from 1."""

    def __len__(self) -> int: ...

    def position(self, id: str) -> int | None: ...

    def checksum(self, position: int) -> int | None: ...

    def records(self, *, after: int = 0) -> Iterator[tuple[int, JournalRecord]]: ...


class JournalReader:
    """Follows a journal that another process writes. What is read stands in the order and at the positions of the writer's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[DamagedLine] = []
        self._index = JournalIndex()
        self._file: tuple[int, int] | None = None
        self._is_stale = False  # once it was seen to hold something else than what was read

    def __len__(self) -> int:
        return len(self._index)

    def position(self, id: str) -> int | None:
        """The record's place among the usable records, from 1; None if there is no such record."""
        return self._index.position(id)

    def checksum(self, position: int) -> int | None:
        """A checksum over all usable records up to a position; None if there are fewer."""
        return self._index.checksum(position)

    def is_same_file(self) -> bool:
        """Whether the journal is the one that was read so far, no shorter, with the same record last."""
        try:
            with self.path.open("rb") as file:
                return self._is_same(file)
        except FileNotFoundError:
            return self._file is None

    def _is_same(self, file: BinaryIO) -> bool:
        found, last = os.fstat(file.fileno()), len(self._index)
        if self._file not in (None, (found.st_dev, found.st_ino)) or found.st_size < self._index.end or self._is_stale:
            return False
        file.seek(self._index.start(last) if last else 0)
        return not last or self._index.is_at(last, file.readline())

    def read_on(self) -> list[JournalRecord]:
        """The complete lines that were added since the last call, as records."""
        return list(self.one_by_one())

    def one_by_one(self) -> Iterator[JournalRecord]:
        """What `read_on` returns, each as it is read: of a long journal not all need be held. Raises JournalChanged."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            self._begin(file)
            file.seek(self._index.end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                record = decoded(line, self._index.lines + 1)
                if isinstance(record, DamagedLine):
                    self.damaged.append(record)
                    self._index.take(line, None)
                elif self._index.take(line, record.id):
                    yield record

    def pass_over(self) -> None:
        """Takes note of the lines that nobody has read yet, without their records; by the home's index, as far as it goes.

        Raises JournalChanged.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            self._begin(file)
            if not self._index.end:
                self._index = journal_index.load(self.path, file.fileno())
            _pass_over(file.fileno(), self._index, on_damage=self.damaged.append)

    def _begin(self, file: BinaryIO) -> None:
        """Takes note of which file is read, or finds that it is still the one that was read."""
        found = os.fstat(file.fileno())
        if not self._is_same(file):
            raise self._changed()
        if self._file is None:
            self._file = (found.st_dev, found.st_ino)
            self._index.note_file(found)

    def at(self, positions: Sequence[int]) -> list[JournalRecord]:
        """The records at some positions. Raises JournalChanged if others stand there by now."""
        found: list[JournalRecord] = []
        try:
            with self.path.open("rb") as file:
                for position in positions:
                    file.seek(self._index.start(position))
                    line = file.readline()
                    record = decoded(line, 0)
                    if isinstance(record, DamagedLine) or not self._index.is_at(position, line):
                        raise self._changed()
                    found.append(record)
        except FileNotFoundError:
            raise self._changed() from None
        return found

    def _changed(self) -> JournalChanged:
        self._is_stale = True
        return _changed(self.path)

    def save_index(self) -> None:
        """Writes the home's index, if much of it is new: the next reader need not read these lines."""
        self._index.save(self.path, is_writer=False)

    def records(self, *, after: int = 0) -> Iterator[tuple[int, JournalRecord]]:
        """Positions and records in order, starting after position `after`."""
        return _placed(self.path, self._index, after)


def _changed(path: Path) -> JournalChanged:
    """An error for a line that is another one than when it was indexed. The next command indexes all lines anew."""
    with contextlib.suppress(OSError):
        path.with_name(journal_index.FILE).unlink(missing_ok=True)
    return JournalChanged(f"{path} was changed since it was read: run the command again.")


def _placed(path: Path, index: JournalIndex, after: int) -> Iterator[tuple[int, JournalRecord]]:
    """The records after a position, each of them. Raises JournalChanged if the file holds others by now."""
    if after >= len(index):
        return
    if not path.exists():
        raise _changed(path)
    count, last = after, len(index)
    at = wanted = index.start(count + 1)
    with path.open("rb") as file:
        file.seek(at)
        for line in file:
            if at == wanted:  # else it is a damaged line, or one that somebody pasted twice
                record = decoded(line, 0)
                if isinstance(record, DamagedLine) or not index.is_at(count + 1, line):
                    raise _changed(path)
                count += 1
                yield count, record
                if count == last:
                    return
                wanted = index.start(count + 1)
            at += len(line)
    raise _changed(path)


class Journal:
    """The one writer of a journal file."""

    def __init__(self, path: Path) -> None:
        """Opens or creates `path` and cuts off a torn last line. Raises UserError when another process holds it, or the disk is
        full.
        """
        self.path = path
        self.damaged: list[DamagedLine] = []
        """Complete lines that can't be used; they stay in the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            try:
                self._size = self._cut_torn_tail()
                _sync_folder(path.parent)
            except OSError as problem:
                raise UserError(f"Cannot write {path}: {problem.strerror}.") from problem
            self._index = journal_index.load(path, self._file)
            _pass_over(self._file, self._index, on_damage=self.damaged.append)
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        """The number of usable records."""
        return len(self._index)

    def position(self, id: str) -> int | None:
        """The record's place among the usable records, from 1; None if there is no such record."""
        return self._index.position(id)

    def checksum(self, position: int) -> int | None:
        """A checksum over all usable records up to a position; None if there are fewer."""
        return self._index.checksum(position)

    def append(self, record: JournalRecord) -> bool:
        """Writes a record and waits until it is on disk, but for a few kinds. Writes nothing and returns False if its id is
        there already.

        Raises UserError when the disk is full or fails; the journal is then as it was before. Also if another program has
        changed, replaced or removed the file: what was recorded so far may be gone, and what follows would not be found.
        """
        if self._index.position(record.id) is not None:
            return False
        before = self._check_unchanged()
        line = encoded(record)
        try:
            left = line
            while left:
                left = left[os.write(self._file, left) :]
            if record.kind != "event" or record.body.get("kind") not in NOT_WAITED_FOR:
                os.fsync(self._file)
        except OSError as problem:
            os.ftruncate(self._file, self._size)
            raise UserError(f"Cannot write {self.path}: {problem.strerror}.") from problem
        self._size += len(line)
        self._index.take(line, record.id)
        self._index.note_written(before, os.fstat(self._file))
        return True

    def records(self, *, after: int = 0) -> Iterator[tuple[int, JournalRecord]]:
        """Positions and records in order, starting after position `after`."""
        return _placed(self.path, self._index, after)

    def close(self) -> None:
        """Writes the index and releases the lock. A second call does nothing."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # the file may be gone
                if os.fstat(self._file).st_size == self._size:
                    self._index.save(self.path, is_writer=True)
            os.close(self._file)
            self._file = -1

    def _check_unchanged(self) -> os.stat_result:
        """The state of the file, which nobody else has replaced, and whose size nobody else has changed."""
        mine = os.fstat(self._file)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            there = None
        if there is not None and (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            what = "was replaced"
        else:
            what = "was removed" if there is None else "was changed" if mine.st_size != self._size else ""
        if what:
            saved = self._saved() if mine.st_size >= self._size else None
            kept = f"what it held is in {saved}" if saved else "restore it from a copy"
            raise UserError(
                f"{self.path} {what} by another program while the farm ran: {kept}, and `{to_type('farm doctor')}` checks it."
            )
        return mine

    def _saved(self) -> Path | None:
        """A copy of what this process has the only way to, under a name of its own; None if it can't be written."""
        copy = self.path.with_name(f"{self.path.name}.saved")
        try:
            with copy.open("xb") as file:
                for start in range(0, self._size, 2**20):
                    file.write(os.pread(self._file, min(2**20, self._size - start), start))
                os.fsync(file.fileno())
        except OSError:
            return None
        return copy

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            home = self.path.parent
            raise UserError(f"A farm is already running in {home}: stop it, or choose another --home.") from None

    def _cut_torn_tail(self) -> int:
        """Cuts off what follows the last newline, which was never acknowledged. Returns the file's size in bytes."""
        size = os.fstat(self._file).st_size
        end = size
        while end > 0:
            start = max(0, end - 65_536)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return end


def encoded(record: JournalRecord) -> bytes:
    """The record's line, with its checksum."""
    text = json.dumps({"id": record.id, "kind": record.kind, "time": record.time, "body": record.body}).encode()
    return text[:-1] + checksum_field(text) + b"\n"


def _decode(line: bytes) -> JournalRecord:
    """The record in a line. Raises ValueError, in words, for a line that was damaged after it was written."""
    if not _is_whole(line):
        raise ValueError("the checksum does not match")
    try:
        found = _LINE.decode(line)
        record = JournalRecord.unread(found.id, found.kind, found.time, bytes(found.body).decode())
    except msgspec.MsgspecError:  # or one that the quick decoder refuses
        record = _decoded_slowly(line)
    if record.kind not in RECORD_KINDS:
        raise ValueError(f"unknown kind {record.kind!r}")
    return record


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line's fields, of which the body is not read yet."""

    id: str
    kind: str
    time: str
    body: msgspec.Raw
    checksum: str


_LINE = msgspec.json.Decoder(_Line)


def _decoded_slowly(line: bytes) -> JournalRecord:
    begins = _BEGINNING.match(line)
    try:
        text = (line[: -CHECKSUM_FIELD_LENGTH - 1] + b"}").decode()
        return JournalRecord(**_plain_data(text), text="" if begins is None else text[begins.end() - 1 : -1])
    except (ValueError, TypeError) as problem:
        raise ValueError("not a journal record") from problem


def _plain_data(text: str) -> Any:
    """What JSON text says. The quick decoder refuses what Python writes beyond the standard, such as NaN."""
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return json.loads(text)


def _is_whole(line: bytes) -> bool:
    """Whether a line ends in the checksum of what precedes it."""
    digest = hashlib.blake2b(memoryview(line)[: -CHECKSUM_FIELD_LENGTH - 1], digest_size=CHECKSUM_BYTES)
    digest.update(b"}")
    return line[-CHECKSUM_FIELD_LENGTH - 1 : -1] == b', "checksum": "%s"}' % digest.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Makes the name of a new file survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
