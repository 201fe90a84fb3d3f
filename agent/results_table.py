"""The results.tsv in a loop's worktree: a view of the branch's records, which is brought up to date at a small cost."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.observer import LoopObserver
from results.experiment import ExperimentRecord
from results.store import Store
from results.tsv import write_results_tsv

TABLE_SHARE = 0.05
"""The share of the time that writing a table may take; it is always written when its loop ends."""


class ResultsTable:
    """The results.tsv of one branch, untracked. A table that can't be written is an event, and is tried again."""

    def __init__(self, *, branch: str, folder: Path, store: Store, observer: LoopObserver) -> None:
        self._branch, self._path, self._store, self._observer = branch, folder / "results.tsv", store, observer
        self.is_behind = False
        """Whether records have changed since the table was written."""
        self._due = 0.0

    def write(self, others: Sequence[ExperimentRecord] = ()) -> None:
        """Writes the branch's rows, without those of `others`, which are another branch's."""
        self.is_behind, began = False, time.monotonic()
        try:
            aside = write_results_tsv(self._path, self._store.records(self._branch), others=others)
        except OSError as error:
            self._observer.on_event("view_failed", branch=self._branch, file=str(self._path), reason=str(error.strerror))
            aside = None
        if aside is not None:
            self._observer.on_event("moved_aside", branch=self._branch, file=str(aside))
        ended = time.monotonic()
        self._due = ended + (ended - began) / TABLE_SHARE

    async def write_if_due(self) -> None:
        """Writes the table beside the event loop if it is behind, unless that has lately taken too much of the time."""
        if self.is_behind and time.monotonic() >= self._due:
            self.is_behind = False  # another loop may ask before the thread has begun
            await asyncio.to_thread(self.write)

    def close(self) -> None:
        """Writes the table if it is behind."""
        if self.is_behind:
            self.write()


async def write_due(tables: Iterable[ResultsTable]) -> None:
    """Writes those of these tables that are behind and due."""
    for table in list(tables):
        await table.write_if_due()
