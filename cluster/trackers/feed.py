"""Sends what a journal records to one tracker, each record once, and remembers how far it came."""

import contextlib
import fcntl
import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from cluster.home import Home
from cluster.trackers.clients import Tracker
from cluster.trackers.tracked import Tracked, TrackedRun, Tracking
from research.errors import UserError
from research.files import write_atomically
from results.journal import JournalChanged, JournalReader, JournalRecord


class TrackerFeed:
    """Sends one home's records to one tracker. What the tracker doesn't take stays first in the queue.

    The journal is read on only when all of that is sent, so that no more than one record of it is in memory.
    """

    def __init__(self, home: Home, name: str, tracker: Tracker) -> None:
        self._tracker = tracker
        self._journal = home.journal
        self._waiting: deque[tuple[int, Tracked]] = deque()
        self._state = state_file(home, name)
        self._sent_to = _position(self._state, home.journal)
        self._known: set[tuple[str, int]] = set()
        """What this feed or one before it has sent: a journal that is another one by now may hold it as well."""
        self.sent = 0
        """Runs that were sent."""
        self.sent_before = 0
        """Runs that an earlier feed has sent."""
        self._begin()

    def _begin(self) -> None:
        self._reader, self._tracking = JournalReader(self._journal), Tracking()
        self._waiting.clear()

    def send_on(self) -> None:
        """Sends everything that is recorded by now. Raises what the tracker raises; the next call resumes there.

        A journal that was replaced is read from its beginning, and what it has more than the one before is sent.
        """
        try:
            self._send_new()
        except JournalChanged:  # while it was read
            self._begin_again()
            self._send_new()

    def _begin_again(self) -> None:
        self._sent_to = 0
        self._begin()

    def _send_new(self) -> None:
        if not self._reader.is_same_file():
            self._begin_again()
        self._send_waiting()
        for record in self._reader.one_by_one():
            self._take(record, len(self._reader))
            self._send_waiting()

    def _take(self, record: JournalRecord, position: int) -> None:
        for one in self._tracking.take(record):
            if _key(one) in self._known:
                continue
            if position > self._sent_to:
                self._waiting.append((position, one))
            else:
                self._known.add(_key(one))
                self.sent_before += isinstance(one, TrackedRun)

    def _send_waiting(self) -> None:
        while self._waiting:
            position, one = self._waiting[0]
            if isinstance(one, TrackedRun):
                self._tracker.log_run(one)
                self.sent += 1
            else:
                self._tracker.log_gain(one)
            self._known.add(_key(one))
            self._waiting.popleft()
            if not self._waiting or self._waiting[0][0] > position:
                self._sent_to = position
                told = {"records": position, "checksum": self._reader.checksum(position)}
                write_atomically(self._state, json.dumps(told) + "\n")


def _key(one: Tracked) -> tuple[str, int]:
    """What tells apart all that is sent: a head's gain is sent once for each step."""
    return (one.id, -1 if isinstance(one, TrackedRun) else one.step)


def state_file(home: Home, name: str) -> Path:
    """The file that says how many records of a home a tracker has got; without it all are sent again."""
    return home.folder / "trackers" / f"{name}.json"


def _position(state: Path, journal: Path) -> int:
    """How many records of a journal an earlier feed has sent; 0 if they were another journal's."""
    try:
        told = json.loads(state.read_text())
        records, checksum = int(told["records"]), told.get("checksum")  # a state of an earlier version has none
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0
    if checksum is None:
        return records
    reader = JournalReader(journal)
    reader.pass_over()
    return records if reader.checksum(records) == checksum else 0


@contextlib.contextmanager
def sending(home: Home, name: str) -> Iterator[None]:
    """Keeps two processes from sending one home's records to one tracker. Raises UserError if another does."""
    lock = state_file(home, name).with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{lock} can't be written ({error.strerror}): a home that is sent to a tracker must be.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(
            f"Another process sends {home.folder} to {name} already: a farm that was started with --track."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
