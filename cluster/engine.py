"""Where runs are executed: a pool of workers behind one small interface."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from cluster.hardware import Device
from cluster.worker import JUDGE_COMMAND, Progress, Worker
from research.result import RunResult, RunSpec


class Engine(Protocol):
    """Executes runs. What goes in and comes out is plain data, so that a worker can be on another machine."""

    @property
    def devices(self) -> tuple[Device, ...]: ...

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        """One run on `device`, after those that were asked for earlier. `on_progress` is called in the event loop.

        Failures of the infrastructure are results with the status `lost`. When the awaiting task is cancelled the run's
        processes are ended before CancelledError goes on (within 5 s).
        """

    async def close(self) -> None:
        """Ends all judges, the spare ones too."""


class LocalEngine:
    """One worker per device, in this process's threads."""

    def __init__(self, devices: Sequence[Device], *, judge_command: Sequence[str] = JUDGE_COMMAND) -> None:
        self.devices = tuple(devices)
        self._workers = {device.key: Worker(device, judge_command=judge_command) for device in self.devices}
        self._turns = {device.key: asyncio.Lock() for device in self.devices}  # first come, first served
        self._threads = ThreadPoolExecutor(max_workers=len(self.devices), thread_name_prefix="worker")

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        worker = self._workers[device.key]
        loop = asyncio.get_running_loop()

        def report(progress: Progress) -> None:
            loop.call_soon_threadsafe(on_progress, progress)

        async with self._turns[device.key]:
            run = loop.run_in_executor(self._threads, worker.run, train_py, spec, report)
            try:
                return await asyncio.shield(run)
            except asyncio.CancelledError:
                worker.cancel(spec.run_id)
                await asyncio.wait([run])
                raise

    async def close(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers.values()))
        await asyncio.to_thread(self._threads.shutdown)
