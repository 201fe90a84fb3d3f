"""Brings runs and devices together: loops put runs in line, each device takes the most urgent one that it can do.

A run that a worker lost comes back to its loop as `lost`; the loop puts it in line again. Whoever fails several times in a
row without a fault of the code is given no more work.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.engine import Change, Engine
from cluster.hardware import Device, platform_identity
from cluster.judge_process import Progress
from cluster.workqueue import Lease, WorkItem, WorkQueue
from research.result import RunResult, RunSpec

QUARANTINE_AFTER = 3
"""Runs in a row that a worker lost before it gets no more."""

PAUSE_SECONDS = 1.0
"""After a lost run."""

EXPIRY_SECONDS = 5.0
"""How often leases are looked at."""


class WorkObserver(Protocol):
    """Is told of work and workers, to put it on record."""

    def on_work(self, item: WorkItem, state: str, **details: Any) -> None:
        """A run is `waiting`, `running`, `done` or `lost`."""

    def on_worker(self, name: str, state: str, **details: Any) -> None:
        """A device has `joined` or `left`, or is `refused` or `quarantined`."""


class NoWorkersLeft(Exception):
    """Every device is quarantined. The text says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Assignment:
    """A run in line, with whoever waits for it."""

    item: WorkItem
    train_py: str
    spec: RunSpec
    report: Callable[[Progress], None]
    outcome: "asyncio.Future[RunResult]"


class Dispatcher:
    """Serves an engine's devices from one queue, in one event loop."""

    def __init__(self, engine: Engine, observer: WorkObserver, *, queue: WorkQueue | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.engine = engine
        self.queue = queue or WorkQueue()
        self._observer = observer
        self._clock = clock
        self._assignments: dict[str, _Assignment] = {}
        self._devices: dict[str, Device] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[RunResult]] = {}
        self._executing: dict[str, Device] = {}
        self._failures: Counter[str] = Counter()
        self._quarantined: dict[str, str] = {}
        self._news = asyncio.Condition()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Those that take work now."""
        return tuple(self._devices.values())

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Devices that get no more work, and why."""
        return self._quarantined

    async def changes(self) -> AsyncIterator[tuple[Device, ...]]:
        """Follows the engine: what joins is served and yielded, in the groups in which it came. Ends with the engine."""
        watching = asyncio.create_task(self._expire_now_and_then())
        try:
            async for group in self.engine.changes():
                joined = [device for change in group if (device := await self._apply(change)) is not None]
                if joined:
                    yield tuple(joined)
        finally:
            watching.cancel()

    async def execute(self, item: WorkItem, train_py: str, spec: RunSpec, report: Callable[[Progress], None]) -> RunResult:
        """Waits in line, then for the run. Failures of the infrastructure are results with the status `lost`.

        Raises NoWorkersLeft. Cancelling takes the run out of line or ends its processes.
        """
        self._require_workers()
        outcome: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.queue.add(item)
        self._assignments[item.id] = _Assignment(item=item, train_py=train_py, spec=spec, report=report, outcome=outcome)
        self._observer.on_work(item, "waiting")
        await self._tell()
        try:
            result = await outcome
        except asyncio.CancelledError:
            self.queue.withdraw(item.id)
            await self._cancel_run(item.id)
            raise
        finally:
            self._assignments.pop(item.id, None)
        lost = result.status == "lost"
        self._observer.on_work(item, "lost" if lost else "done", **({"reason": result.reason} if lost else {}))
        return result

    def start_speculatively(self, after: str, train_py: str, spec: RunSpec) -> None:
        """Tells the device that executes run `after` which run will probably be its next, so that it gets that ready meanwhile.

        Only on a GPU of which a run may take all, where nothing else is in line: a CPU is busy with the run that it has.
        """
        device = self._executing.get(after)
        if spec.run_id in self._assignments:  # asked for already
            return
        if device is not None and device.kind == "cuda" and device.gpu_memory_bytes is None and not self.queue.waiting:
            self.engine.start_speculatively(device, train_py, spec)

    async def close(self) -> None:
        """Ends what runs."""
        for task in self._serving.values():
            task.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)

    # --- devices ----------------------------------------------------------------------------------------------------

    async def _apply(self, change: Change) -> Device | None:
        """The device, where one joined that may work."""
        if change.kind == "joined" and change.name in self._quarantined:
            return None
        details = {"reason": change.reason} if change.reason else {}
        if change.device is None:
            self._observer.on_worker(change.name, change.kind, **details)
            await self._stop_serving(change.name)
            return None
        self._observer.on_worker(change.name, change.kind, platform=platform_identity(change.device))
        self._devices[change.name] = change.device
        self._serving[change.name] = asyncio.create_task(self._serve(change.device), name=f"serve {change.name}")
        return change.device

    async def _stop_serving(self, name: str) -> None:
        self._devices.pop(name, None)
        task = self._serving.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _quarantine(self, device: Device, reason: str) -> None:
        words = f"{QUARANTINE_AFTER} runs in a row were lost, the last one because {reason}"
        self._quarantined[device.key] = words
        self._devices.pop(device.key, None)
        self._serving.pop(device.key, None)
        self._observer.on_worker(device.key, "quarantined", reason=words)
        if not self._devices:
            for assignment in self._assignments.values():
                if not assignment.outcome.done() and self.queue.withdraw(assignment.item.id):
                    assignment.outcome.set_exception(self._no_workers())

    def _require_workers(self) -> None:
        if self._quarantined and not self._devices:
            raise self._no_workers()

    def _no_workers(self) -> NoWorkersLeft:
        return NoWorkersLeft("; ".join(f"{name}: {reason}" for name, reason in self._quarantined.items()))

    # --- serving ----------------------------------------------------------------------------------------------------

    async def _serve(self, device: Device) -> None:
        """One device's life: claim, run, report; until it leaves or is quarantined."""
        platform = platform_identity(device)
        while True:
            async with self._news:
                while (lease := self.queue.claim(device.key, platform, self._clock())) is None:
                    await self._news.wait()
            result = await self._run(device, lease)
            if result is None:
                continue
            if result.status != "lost":
                self._failures[device.key] = 0
                continue
            self._failures[device.key] += 1
            if self._failures[device.key] >= QUARANTINE_AFTER:
                return self._quarantine(device, result.reason)
            await asyncio.sleep(PAUSE_SECONDS)  # a worker that died is about to leave: it must not take the next run, too

    async def _run(self, device: Device, lease: Lease) -> RunResult | None:
        """Executes a leased run and hands the result to whoever waits for it; where the device goes meanwhile, `lost`.

        None where the loop that wanted the run has cancelled it.
        """
        assignment = self._assignments[lease.item.id]
        self._observer.on_work(lease.item, "running", worker=device.key)

        def on_progress(progress: Progress) -> None:
            if self.queue.renew(lease, self._clock()):
                assignment.report(progress)

        spec = assignment.spec
        run = asyncio.create_task(self.engine.execute(device, assignment.train_py, spec, on_progress))
        self._running[lease.item.id] = run
        self._executing[lease.item.id] = device
        try:
            result = await asyncio.shield(run)
        except asyncio.CancelledError:
            run.cancel()
            await asyncio.wait([run])
            leaving = (task := asyncio.current_task()) is not None and task.cancelling() > 0
            if assignment.outcome.cancelled() and not leaving:
                self.queue.finish(lease)
                return None
            reason = f"{device.key} went away" if leaving else f"{device.key} said nothing for too long"
            result = RunResult.lost(spec, reason, device=device.key)
            self._hand_over(lease, assignment, result)
            if leaving:
                raise
            return result
        finally:
            self._running.pop(lease.item.id, None)
            self._executing.pop(lease.item.id, None)
        self._hand_over(lease, assignment, result)
        return result

    def _hand_over(self, lease: Lease, assignment: _Assignment, result: RunResult) -> None:
        """A result counts only while the lease does."""
        if self.queue.finish(lease) and not assignment.outcome.done():
            assignment.outcome.set_result(result)

    async def _cancel_run(self, item_id: str) -> None:
        """Ends the run, if it has begun, and waits until its processes are gone."""
        run = self._running.get(item_id)
        if run is not None:
            run.cancel()
            await asyncio.wait([run])

    async def _expire_now_and_then(self) -> None:
        """Gives runs back whose worker has said nothing for the time of a lease."""
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            for lease in self.queue.expire(self._clock()):
                assignment = self._assignments.get(lease.item.id)
                if assignment is not None and not assignment.outcome.done():
                    silence = f"{lease.worker} said nothing for {self.queue.lease_seconds:.0f} s"
                    assignment.outcome.set_result(RunResult.lost(assignment.spec, silence, device=lease.worker))
                if run := self._running.get(lease.item.id):
                    run.cancel()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()
