"""Where runs are executed: a pool of workers behind one small interface."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cluster.hardware import Device
from cluster.judge_process import JUDGE_COMMAND, Progress
from cluster.worker import Worker
from research.result import RunResult, RunSpec

ALIVE_SECONDS = 1.0
"""How often an engine says that a run's worker lives."""

ALIVE: Progress = {"event": "alive"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A device that came, went, or may not work here."""

    kind: Literal["joined", "left", "refused"]
    name: str
    """The device's key; of a refused node its name."""
    device: Device | None = None
    """What joined."""
    reason: str = ""
    """Why it left or was refused, in words."""


class Engine(Protocol):
    """Executes runs. What goes in and comes out is plain data, so that a worker can be on another machine."""

    def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """What devices there are: first all that are there now, then whatever changes, until the engine is closed."""

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        """One run on `device`, after those that were asked for earlier.

        The spec's device, threads, limit of GPU memory and data folder are replaced by the worker's own; what the judge leaves
        in the run folder (log, result, model) is in the spec's run folder afterwards. `on_progress` is called in the event loop
        with the judge's messages, and with ALIVE every second while the worker lives. Failures of the infrastructure are
        results with the status `lost`. When the awaiting task is cancelled the run's processes are ended before CancelledError
        goes on (within 5 s).
        """

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        """Lets `device`, which executes a run, get the one ready that will probably be asked for next: `execute` goes on from
        there if it is asked for just that, else what was started is ended and forgotten. Returns at once, and never fails.
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

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        yield tuple(Change(kind="joined", name=device.key, device=device) for device in self.devices)

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        worker, spec = self._workers[device.key], _on_device(spec, device)
        loop = asyncio.get_running_loop()

        def report(progress: Progress) -> None:
            loop.call_soon_threadsafe(on_progress, progress)

        async with self._turns[device.key]:
            others = [other for other in self._workers.values() if other is not worker]
            await asyncio.gather(*(asyncio.to_thread(other.abandon, spec.run_id) for other in others))
            run = loop.run_in_executor(self._threads, worker.run, train_py, spec, report)
            try:
                while not (await asyncio.wait([run], timeout=ALIVE_SECONDS))[0]:
                    on_progress(ALIVE)
                return run.result()
            except asyncio.CancelledError:
                worker.cancel(spec.run_id)
                await asyncio.wait([run])
                raise

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        worker = self._workers[device.key]
        asyncio.get_running_loop().run_in_executor(None, worker.start_speculatively, train_py, _on_device(spec, device))

    async def close(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers.values()))
        await asyncio.to_thread(self._threads.shutdown)


def _on_device(spec: RunSpec, device: Device) -> RunSpec:
    return replace(spec, device=device.torch_device, threads=device.threads, gpu_memory_bytes=device.gpu_memory_bytes)
