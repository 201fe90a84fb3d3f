"""Work that takes long is done seldom, and for the last request, too."""

import asyncio
import time

from cluster.paced import PacedWork


def test_requests_of_quick_work_are_all_done_and_of_slow_work_together() -> None:
    done: list[float] = []

    async def requests(work: PacedWork, number: int) -> int:
        for _ in range(number):
            work.request()
        at_once = len(done)
        while len(done) == at_once and at_once < number:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        return at_once

    slow = PacedWork(lambda: (time.sleep(0.02), done.append(time.monotonic()))[0])
    assert asyncio.run(requests(slow, 10)) == 1 and len(done) == 2
    assert done[1] - done[0] > 0.3
