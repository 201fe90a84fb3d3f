"""The interface of engines, which execute runs, and the engine for this machine's devices."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cluster.hardware import Device
from cluster.judge_process import JUDGE_COMMAND, Progress
from cluster.worker import Worker
from research.result import RunResult, RunSpec

ALIVE_SECONDS = 1.0
"""How often an engine reports that a run's worker is alive."""

ALIVE: Progress = {"event": "alive"}
"""The report that a run's worker is alive."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A device that joined, left, or is refused."""

    kind: Literal["joined", "left", "refused"]
    name: str
    """The device's key; a refused node's name."""
    device: Device | None = None
    """The device that joined."""
    reason: str = ""
    """Why it left or was refused, in words."""


class Engine(Protocol):
    """Executes runs. It takes and returns plain data, so that a worker can be on another machine.

    An engine knows where a device's prepared data and the run folders are: a run's spec says only what to run.
    """

    def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """Yields the devices that are there now, then those that join, leave or are refused, until the engine is closed."""

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        """Executes one run on `device`, after those that were requested earlier.

        Afterwards the judge's files (log, result, model) are in the run's folder, which is named by the run's id.
        `on_progress` is called in the event loop with the judge's messages, and with ALIVE every second while the worker lives.
        Failures of the infrastructure are results with the status `lost`. When the awaiting task is cancelled, the run's
        processes are ended before CancelledError is raised (within 5 s).
        """

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        """Lets `device`, which executes a run, start the run that will probably be requested next, up to its clock.

        `execute` resumes it if that run is requested; any other request abandons it. Returns at once, and never fails.
        """

    async def close(self) -> None:
        """Ends all judges, including spare ones."""


class LocalEngine:
    """One worker per device, in this process's threads."""

    def __init__(
        self, data_folders: Mapping[Device, Path], *, runs_folder: Path, judge_command: Sequence[str] = JUDGE_COMMAND
    ) -> None:
        """`data_folders` maps each device to its prepared data. Each run gets a folder in `runs_folder`."""
        self._data_folders = {device.key: str(folder) for device, folder in data_folders.items()}
        self._devices = tuple(data_folders)
        self.runs_folder = runs_folder
        self._workers = {
            device.key: Worker(device, runs_folder=runs_folder, judge_command=judge_command) for device in self._devices
        }
        self._turns = {device.key: asyncio.Lock() for device in self._devices}  # first come, first served
        self._threads = ThreadPoolExecutor(max_workers=len(self._devices), thread_name_prefix="worker")

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        yield tuple(Change(kind="joined", name=device.key, device=device) for device in self._devices)

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        worker, data_folder = self._workers[device.key], self._data_folders[device.key]
        loop = asyncio.get_running_loop()

        def report(progress: Progress) -> None:
            loop.call_soon_threadsafe(on_progress, progress)

        async with self._turns[device.key]:
            others = [other for other in self._workers.values() if other is not worker]
            await asyncio.gather(*(asyncio.to_thread(other.abandon, spec.run_id) for other in others))
            run = loop.run_in_executor(self._threads, worker.run, train_py, spec, data_folder, report)
            try:
                while not (await asyncio.wait([run], timeout=ALIVE_SECONDS))[0]:
                    on_progress(ALIVE)
                return run.result()
            except asyncio.CancelledError:
                worker.cancel(spec.run_id)
                await asyncio.wait([run])
                raise

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        worker, data_folder = self._workers[device.key], self._data_folders[device.key]
        asyncio.get_running_loop().run_in_executor(None, worker.start_speculatively, train_py, spec, data_folder)

    async def close(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers.values()))
        await asyncio.to_thread(self._threads.shutdown)
