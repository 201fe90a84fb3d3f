"""Work that may take a small share of the time only, such as what a live view shows of a growing history."""

import asyncio
import time
from collections.abc import Callable

SHARE = 0.05
"""The share of the time that the work may take."""


class PacedWork:
    """Does something when it is requested: at once, or later, for all requests until then, if it has lately taken long."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._due = 0.0
        self._later: asyncio.TimerHandle | None = None

    def request(self) -> None:
        """Has the work done; called in the event loop."""
        wait = self._due - time.monotonic()
        if wait <= 0:
            self._do()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(wait, self._do)

    def _do(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._later, began = None, time.monotonic()
        self._work()
        ended = time.monotonic()
        self._due = ended + (ended - began) / SHARE
