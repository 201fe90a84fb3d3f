"""The queue of runs: which worker may take which run, in which order, and for how long. Pure: callers pass the time.

A worker leases an item, renews the lease while it lives, and finishes it. A lease that was not renewed in time has expired:
whoever waits for the run may enqueue it again, and what the silent worker reports later is ignored.
"""

import heapq
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal, get_args

WorkKind = Literal["baseline", "manual", "confirm", "merge", "wave", "control", "explore"]
"""Kinds of work, most urgent first. Nothing can be compared without a `baseline`; a person waits for a `manual` run; `confirm`
and `merge` (its verification) settle what is nearly known; a `wave` combines near-misses; `control` runs a baseline again;
`explore` tries a new idea."""

WORK_KINDS: tuple[WorkKind, ...] = get_args(WorkKind)

LEASE_SECONDS = 60.0
"""A lease that is not renewed for this long expires."""


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One requested run."""

    id: str
    """The run's id."""
    kind: WorkKind
    branch: str
    experiment: str
    platform: str
    """Only devices of this platform may take it."""
    repeats: int = 0
    """How often the run was lost before; a repeated run takes precedence over others of its kind."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """An item that a worker executes. A renewed lease is a new object with the same number."""

    item: WorkItem
    worker: str
    number: int
    until: float
    """The time at which it expires, unless it is renewed."""


class WorkQueue:
    """Queued and leased items. Times are seconds of any monotonic clock."""

    def __init__(self, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.lease_seconds = lease_seconds
        self._waiting: dict[str, WorkItem] = {}
        self._urgent: dict[str, list[tuple[int, int, int, str]]] = defaultdict(list)
        """Heaps of what waits for each platform, the most urgent first; what was withdrawn is still in them."""
        self._exploring: set[str] = set()
        """The branches that have an exploration waiting."""
        self._places: dict[str, int] = {}
        """When each waiting item was added: first come, first served."""
        self._added = 0
        self._leases: dict[str, Lease] = {}
        self._numbers = 0

    @property
    def waiting(self) -> tuple[WorkItem, ...]:
        """The queued items of all platforms, in the order in which they will be leased."""
        return tuple(sorted(self._waiting.values(), key=_urgency))  # sorting is stable: first come, first served

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases that have not expired."""
        return tuple(self._leases.values())

    def add(self, item: WorkItem) -> None:
        """Enqueues an item. Raises ValueError for an id that is already there, or a branch's second queued exploration."""
        if item.id in self._waiting or item.id in self._leases:
            raise ValueError(f"{item.id} is in the queue already")
        if item.kind == "explore" and item.branch in self._exploring:
            raise ValueError(f"{item.branch} has an exploration waiting already")
        if item.kind == "explore":
            self._exploring.add(item.branch)
        self._waiting[item.id] = item
        self._added += 1
        self._places[item.id] = self._added
        heapq.heappush(self._urgent[item.platform], (*_urgency(item), self._added, item.id))

    def claim(self, worker: str, platform: str, now: float) -> Lease | None:
        """Leases the most urgent item of the worker's platform; None if none is queued."""
        heap = self._urgent[platform]
        while heap and self._places.get(heap[0][-1]) != heap[0][-2]:
            heapq.heappop(heap)
        if not heap:
            return None
        item = self._waiting[heap[0][-1]]
        self._remove(item)
        self._numbers += 1
        lease = Lease(item=item, worker=worker, number=self._numbers, until=now + self.lease_seconds)
        self._leases[item.id] = lease
        return lease

    def renew(self, lease: Lease, now: float) -> bool:
        """Extends a lease, since its worker lives. Returns False if it has expired."""
        held = self._held(lease)
        if held:
            self._leases[lease.item.id] = Lease(
                item=lease.item, worker=lease.worker, number=lease.number, until=now + self.lease_seconds
            )
        return held

    def extend(self, seconds: float) -> None:
        """Extends all leases, since for so long nobody could have been heard."""
        for name, lease in self._leases.items():
            self._leases[name] = replace(lease, until=lease.until + seconds)

    def finish(self, lease: Lease) -> bool:
        """Ends a lease: its item is done or abandoned. Returns False if it has expired: the outcome must not be used."""
        held = self._held(lease)
        if held:
            del self._leases[lease.item.id]
        return held

    def withdraw(self, item_id: str) -> bool:
        """Removes a queued item. Returns False if it isn't queued."""
        item = self._waiting.get(item_id)
        if item is not None:
            self._remove(item)
        return item is not None

    def expire(self, now: float) -> tuple[Lease, ...]:
        """Removes the leases that have expired, and returns them."""
        over = tuple(lease for lease in self._leases.values() if lease.until < now)
        for lease in over:
            del self._leases[lease.item.id]
        return over

    def _remove(self, item: WorkItem) -> None:
        del self._waiting[item.id], self._places[item.id]
        if item.kind == "explore":
            self._exploring.discard(item.branch)

    def _held(self, lease: Lease) -> bool:
        current = self._leases.get(lease.item.id)
        return current is not None and current.number == lease.number


def _urgency(item: WorkItem) -> tuple[int, int]:
    return WORK_KINDS.index(item.kind), -item.repeats
