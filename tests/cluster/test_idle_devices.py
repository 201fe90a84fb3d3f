"""Devices without work: one is woken for each run, and none is forgotten."""

import asyncio

from cluster.idle_devices import IdleDevices


def test_one_device_is_woken_for_each_run_and_one_that_leaves_passes_it_on() -> None:
    async def story() -> list[str]:
        idle, woken = IdleDevices(), list[str]()

        async def device(name: str, platform: str = "a") -> None:
            await idle.wait(platform)
            woken.append(name)

        tasks = [asyncio.create_task(device(name)) for name in ("first", "second", "third", "fourth")]
        other = asyncio.create_task(device("other", "b"))
        await asyncio.sleep(0)
        idle.wake_one("a")
        await asyncio.sleep(0)
        assert woken == ["first"]
        tasks[1].cancel()  # before it is woken
        idle.wake_one("a")
        await asyncio.sleep(0)
        assert woken == ["first", "third"]
        idle.wake_one("a")
        idle.wake_one("b")
        tasks[3].cancel()  # right after it was woken: the next one that comes must not be needed for it
        await asyncio.gather(*tasks, other, return_exceptions=True)
        return woken

    assert asyncio.run(story())[-1] == "other"
