"""What has changed, as server-sent events: the journal has grown, or the running farm says something new."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from cluster.dashboard.reader import HomeReader

LOOK_SECONDS = 0.5
"""How often the journal's size is looked at."""

ASK_EVERY = 4
"""Looks between two questions to the running farm, which are asked only while a page listens."""

TELL_SECONDS = 1.0
"""The least time between two events of a kind, however fast the journal grows."""


PAGE_SECONDS = 4.0
"""The least time between two events by which whole pages are made again, the last of which follows the last record."""


class Changes:
    """Watches one home for all pages that listen."""

    def __init__(self, reader: HomeReader) -> None:
        self._reader = reader
        self._listeners: set[asyncio.Event] = set()
        self._numbers = {"journal": 0, "page": 0, "farm": 0}
        """How often each kind of thing has changed."""

    async def watch(self) -> None:
        """Watches until it is cancelled."""
        journal, farm, looks = self._reader.version(), "", 0
        paged, is_behind = time.monotonic(), False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = self._reader.version()
            if found != journal:
                journal = found
                self._tell("journal")
                is_behind = True
            if is_behind and time.monotonic() - paged >= PAGE_SECONDS:
                paged, is_behind = time.monotonic(), False
                self._tell("page")
            looks += 1
            if self._listeners and looks % ASK_EVERY == 0:
                now = _without_clock(await asyncio.to_thread(self._reader.running))
                if now != farm:
                    farm = now
                    self._tell("farm")

    async def events(self) -> AsyncIterator[dict[str, str]]:
        """An event at once that says that all is well, then one for each change, until the page goes."""
        yield {"event": "hello", "data": "1"}
        seen = dict(self._numbers)
        with self._listening() as changed:
            while True:
                await changed.wait()
                changed.clear()
                for kind, number in self._numbers.items():
                    if number != seen[kind]:
                        seen[kind] = number
                        yield {"event": kind, "data": str(number)}
                await asyncio.sleep(TELL_SECONDS)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            yield changed
        finally:
            self._listeners.discard(changed)

    def _tell(self, kind: str) -> None:
        self._numbers[kind] += 1
        for listener in self._listeners:
            listener.set()


def _without_clock(status: dict[str, Any] | None) -> str:
    """What a farm says of itself without how long it has run, which always changes."""
    return json.dumps({name: value for name, value in (status or {}).items() if name != "seconds"}, default=str)
