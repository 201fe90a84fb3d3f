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
from results.journal import JournalReader


class TrackerFeed:
    """Sends one home's records to one tracker. What the tracker doesn't take stays first in the queue.

    The journal is read on only when all of that is sent, so that no more than one step of it is in memory.
    """

    def __init__(self, home: Home, name: str, tracker: Tracker) -> None:
        self._tracker = tracker
        self._reader = JournalReader(home.journal)
        self._tracking = Tracking()
        self._waiting: deque[tuple[int, Tracked]] = deque()
        self._state = state_file(home, name)
        self._sent_to = _position(self._state)
        self.sent = 0
        """Runs that were sent."""
        self.sent_before = 0
        """Runs that an earlier feed has sent."""

    def send_on(self) -> None:
        """Sends everything that is recorded by now. Raises what the tracker raises; the next call resumes there."""
        self._send_waiting()
        position = len(self._reader)
        for record in self._reader.read_on():
            position += 1
            for one in self._tracking.take(record):
                if position > self._sent_to:
                    self._waiting.append((position, one))
                else:
                    self.sent_before += isinstance(one, TrackedRun)
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            position, one = self._waiting[0]
            if isinstance(one, TrackedRun):
                self._tracker.log_run(one)
                self.sent += 1
            else:
                self._tracker.log_gain(one)
            self._waiting.popleft()
            if not self._waiting or self._waiting[0][0] > position:
                self._sent_to = position
                write_atomically(self._state, json.dumps({"records": position}) + "\n")


def state_file(home: Home, name: str) -> Path:
    """The file that says how many records of a home a tracker has got; without it all are sent again."""
    return home.folder / "trackers" / f"{name}.json"


def _position(state: Path) -> int:
    try:
        return int(json.loads(state.read_text())["records"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


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
