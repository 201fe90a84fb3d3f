"""The ways to stop a farm: Ctrl-C, SIGTERM, or `farm stop` through the local API."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the farm was told to stop, and what happens then. Created in the event loop that it stops."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        """`on_stop` is called in the event loop at each request."""
        self.reason = ""
        """Why the farm is stopping; empty while it runs."""
        self._on_stop = on_stop
        self._loop = asyncio.get_running_loop()

    def request(self) -> None:
        """Stops the farm; called in its event loop."""
        self.reason = "stopped"
        self._on_stop()

    def request_from_thread(self) -> None:
        """Stops the farm; called in any other thread."""
        self._loop.call_soon_threadsafe(self.request)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Lets Ctrl-C and SIGTERM stop the farm."""
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self.request)
        try:
            yield
        finally:
            for number in SIGNALS:
                self._loop.remove_signal_handler(number)
