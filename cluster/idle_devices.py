"""The devices that have no work: one of them is woken for each run, since more would find nothing."""

import asyncio
from collections import defaultdict, deque


class IdleDevices:
    """What idle devices wait for, by their platform, in one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    async def wait(self, platform: str) -> None:
        """Waits until there may be work for an idle device of a platform."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[platform].append(news)
        try:
            await news
        except asyncio.CancelledError:
            if not news.cancelled():  # it was for this device, which leaves: another one takes it
                self.wake_one(platform)
            raise

    def wake_one(self, platform: str) -> None:
        """Lets the device of a platform that has waited longest look for work."""
        while self._waiting[platform]:
            news = self._waiting[platform].popleft()
            if not news.done():  # else its device has left
                return news.set_result(None)
