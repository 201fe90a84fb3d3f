"""The store's events of the kinds that loops ask for at each step, kept in memory once they have been asked for."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from results.growing import GrowingSequence

Rows = Callable[..., list[tuple[Any, ...]]]
"""The rows of a query with parameters."""

Details = dict[str, Any]

_NONE: GrowingSequence[Details] = GrowingSequence()


class StoredEvents:
    """The details of events, by their kind and by what they are about. Any thread may ask."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, GrowingSequence[Details]]] = {}
        """The events of a kind by the value of a field: what that field names, and which of the kind are about it."""
        self._last: dict[tuple[str, str], int] = {}
        """The place in the journal of the last event that is known of each."""

    def of(self, kind: str, about: str, *, field: str = "branch") -> Sequence[Details]:
        """The details of the events of a kind whose field has the value `about`, oldest first."""
        with self._lock:
            if (kind, field) not in self._known:
                self._known[kind, field], self._last[kind, field] = {}, 0
                for seq, details in self._rows("SELECT seq, record FROM events WHERE kind = ? ORDER BY seq", kind):
                    self._take(kind, field, json.loads(details), seq)
            return self._known[kind, field].get(about, _NONE)

    def add(self, kind: str, details: Mapping[str, Any], *, position: int) -> None:
        """Takes note of an event that has been added, the one at `position` of the journal."""
        with self._lock:
            for known, field in self._known:
                if known == kind:
                    self._take(kind, field, json.loads(json.dumps(details)), position)

    def _take(self, kind: str, field: str, details: Details, seq: int) -> None:
        if seq <= self._last[kind, field]:  # it was read before it was told
            return
        self._last[kind, field] = seq
        known, about = self._known[kind, field], details.get(field)
        if isinstance(about, str):
            known[about] = known.get(about, _NONE).with_item(details)
