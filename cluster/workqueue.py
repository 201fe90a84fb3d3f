"""The work that waits for devices: who may take what, in which order, and for how long. Pure: the time is told.

A worker leases an item, renews the lease while it lives, and finishes it. A lease that was not renewed in time is over: the
item goes to whoever asks next, and what the silent worker says of it later counts for nothing.
"""

from dataclasses import dataclass
from typing import Literal, get_args

WorkKind = Literal["baseline", "manual", "confirm", "merge", "wave", "control", "explore"]
"""Most urgent first. Without a baseline nothing compares; `manual` has a person waiting for it; `confirm` and `merge` (its
verification) settle what is nearly known; a `wave` combines near-misses; `control` runs a baseline again; `explore` is a new
idea."""

WORK_KINDS: tuple[WorkKind, ...] = get_args(WorkKind)

LEASE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One run that is to be executed."""

    id: str
    """The run's."""
    kind: WorkKind
    branch: str
    experiment: str
    platform: str
    """Only devices of this platform may take it."""
    repeats: int = 0
    """How often it was lost before: it goes before others of its kind."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """An item in a worker's hands. A renewed lease is a new object; the number says which lease it is."""

    item: WorkItem
    worker: str
    number: int
    until: float


class WorkQueue:
    """Waiting and leased items. Times are seconds of any clock that doesn't go back."""

    def __init__(self, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.lease_seconds = lease_seconds
        self._waiting: dict[str, WorkItem] = {}
        self._leases: dict[str, Lease] = {}
        self._numbers = 0

    @property
    def waiting(self) -> tuple[WorkItem, ...]:
        """In the order in which they will be taken, all platforms together."""
        return tuple(sorted(self._waiting.values(), key=_urgency))  # sorting is stable: first come, first served

    @property
    def leases(self) -> tuple[Lease, ...]:
        return tuple(self._leases.values())

    def add(self, item: WorkItem) -> None:
        """Puts an item in line. Raises ValueError for an id that is there, or a branch's second waiting exploration."""
        if item.id in self._waiting or item.id in self._leases:
            raise ValueError(f"{item.id} is in the queue already")
        if item.kind == "explore" and any(o.kind == "explore" and o.branch == item.branch for o in self._waiting.values()):
            raise ValueError(f"{item.branch} has an exploration waiting already")
        self._waiting[item.id] = item

    def claim(self, worker: str, platform: str, now: float) -> Lease | None:
        """The most urgent item that `worker` can do; None where nothing waits for its platform."""
        item = next((item for item in self.waiting if item.platform == platform), None)
        if item is None:
            return None
        del self._waiting[item.id]
        self._numbers += 1
        lease = Lease(item=item, worker=worker, number=self._numbers, until=now + self.lease_seconds)
        self._leases[item.id] = lease
        return lease

    def renew(self, lease: Lease, now: float) -> bool:
        """The worker lives. False where the lease is over."""
        held = self._held(lease)
        if held:
            self._leases[lease.item.id] = Lease(
                item=lease.item, worker=lease.worker, number=lease.number, until=now + self.lease_seconds
            )
        return held

    def finish(self, lease: Lease) -> bool:
        """The item is done, or given up. False where the lease is over: the outcome must not be used."""
        held = self._held(lease)
        if held:
            del self._leases[lease.item.id]
        return held

    def withdraw(self, item_id: str) -> bool:
        """Takes a waiting item out. False where it isn't waiting."""
        return self._waiting.pop(item_id, None) is not None

    def expire(self, now: float) -> tuple[Lease, ...]:
        """Ends the leases whose time is over, and returns them."""
        over = tuple(lease for lease in self._leases.values() if lease.until < now)
        for lease in over:
            del self._leases[lease.item.id]
        return over

    def _held(self, lease: Lease) -> bool:
        current = self._leases.get(lease.item.id)
        return current is not None and current.number == lease.number


def _urgency(item: WorkItem) -> tuple[int, int]:
    return WORK_KINDS.index(item.kind), -item.repeats
