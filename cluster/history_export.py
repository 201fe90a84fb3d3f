"""The schedule on which history.parquet, the file for notebooks, is written."""

import asyncio
import time

from results.store import Store

EXPORT_SECONDS = 120.0
"""history.parquet is written at least this often."""

LEAST_SECONDS = 5.0
"""Verdicts that follow one another faster than this are written together."""


class HistoryExport:
    """Keeps history.parquet up to date."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = 0.0

    def write(self) -> None:
        """Writes the history now."""
        self._store.export_parquet()
        self._last = time.monotonic()

    def write_if_due(self) -> None:
        """Writes the history, unless it was written a moment ago."""
        if time.monotonic() - self._last > LEAST_SECONDS:
            self.write()

    async def write_regularly(self) -> None:
        """Writes the history every EXPORT_SECONDS until it is cancelled."""
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            self.write_if_due()
