"""Brings runs and devices together: loops enqueue runs, and each device leases the most urgent one for its platform.

A run that a worker lost is returned to its loop as `lost`, and the loop enqueues it again. Who is to blame for lost runs, a
worker or a train.py, is decided in cluster/blame.py.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cluster.blame import Blame
from cluster.engine import Change, Engine
from cluster.hardware import Device, platform_identity
from cluster.idle_devices import IdleDevices
from cluster.judge_process import Progress
from cluster.workqueue import Lease, WorkItem, WorkQueue
from research.result import RunResult, RunSpec

PAUSE_SECONDS = 1.0
"""How long a worker that lost a run waits before it gets another: one that died will leave soon."""

EXPIRY_SECONDS = 5.0
"""How often leases are checked."""


class WorkObserver(Protocol):
    """Receives what happens to runs and workers, to record it."""

    def on_work(self, item: WorkItem, state: str, **details: Any) -> None:
        """A run is `waiting`, `running`, `done` or `lost`."""

    def on_worker(self, name: str, state: str, **details: Any) -> None:
        """A device has `joined` or `left`, or is `refused` or `quarantined`."""

    def on_control(self, worker: str, found: str) -> None:
        """A control has found, in words, whether a device or a train.py is to blame for lost runs."""


class NoWorkersLeft(Exception):
    """All devices are quarantined. The text says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Assignment:
    """A requested run, and the future that gets its result."""

    item: WorkItem
    train_py: str
    spec: RunSpec
    report: Callable[[Progress], None]
    control: str | None
    """The train.py of the branch's baseline; None before it is measured."""
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
        self._blame = Blame()
        self._idle = IdleDevices()
        self._failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        """Called when a task of this dispatcher has failed, which `failure` then tells."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that take work now."""
        return tuple(self._devices.values())

    @property
    def quarantined(self) -> Mapping[str, str]:
        """The devices that get no more work, and why."""
        return self._blame.quarantined

    @property
    def failure(self) -> BaseException | None:
        """What a task that serves a device, or watches the leases, has raised: no run can be relied on any more."""
        return self._failure

    async def changes(self) -> AsyncIterator[tuple[Device, ...]]:
        """Serves the devices of the engine, and yields those that join, in groups. Ends when the engine is closed."""
        watching = asyncio.create_task(self._expire_regularly())
        watching.add_done_callback(self._note_end)
        try:
            async for group in self.engine.changes():
                joined = [device for change in group if (device := await self._apply(change)) is not None]
                if joined:
                    yield tuple(joined)
        finally:
            watching.cancel()

    async def execute(self, item: WorkItem, train_py: str, spec: RunSpec, report: Callable[[Progress], None], *,
                      control: str | None = None) -> RunResult:  # fmt: skip
        """Enqueues a run and waits for its result. Failures of the infrastructure are results with the status `lost`.

        `control` is the train.py of the branch's baseline; None before it is measured. Raises NoWorkersLeft. Cancelling removes
        the run from the queue, or ends its processes. Raises what a task of this dispatcher has raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._blame.quarantined and not self._devices:
            raise NoWorkersLeft(self._blame.describe())
        outcome: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.queue.add(item)
        self._assignments[item.id] = _Assignment(
            item=item, train_py=train_py, spec=spec, report=report, control=control, outcome=outcome
        )
        try:
            self._observer.on_work(item, "waiting")
            self._idle.wake_one(item.platform)
            result = await outcome
        except BaseException:  # cancelled, or what happens can't be recorded: nobody waits for it any more
            self.queue.withdraw(item.id)
            await self._cancel_run(item.id)
            raise
        finally:
            self._assignments.pop(item.id, None)
        lost = result.status == "lost"
        self._observer.on_work(item, "lost" if lost else "done", **({"reason": result.reason} if lost else {}))
        return result

    def start_speculatively(self, after: str, train_py: str, spec: RunSpec) -> None:
        """Lets the device that executes run `after` start the run that will probably be requested next.

        It does so only on a GPU without a memory limit, and only while nothing is queued: a CPU is busy with its current run.
        """
        device = self._executing.get(after)
        if spec.run_id in self._assignments:  # it is requested already
            return
        if device is not None and device.kind == "cuda" and device.gpu_memory_bytes is None and not self.queue.waiting:
            self.engine.start_speculatively(device, train_py, spec)

    async def close(self) -> None:
        """Ends the runs in progress."""
        for task in self._serving.values():
            task.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)

    # --- devices ----------------------------------------------------------------------------------------------------

    async def _apply(self, change: Change) -> Device | None:
        """Applies a change; returns the device if one joined and may work."""
        if change.kind == "joined" and change.name in self._blame.quarantined:
            return None
        details = {"reason": change.reason} if change.reason else {}
        if change.device is None:
            self._observer.on_worker(change.name, change.kind, **details)
            await self._stop_serving(change.name)
            return None
        self._observer.on_worker(change.name, change.kind, platform=platform_identity(change.device))
        self._devices[change.name] = change.device
        serving = asyncio.create_task(self._serve(change.device), name=f"serve {change.name}")
        serving.add_done_callback(self._note_end)
        self._serving[change.name] = serving
        return change.device

    async def _stop_serving(self, name: str) -> None:
        self._devices.pop(name, None)
        task = self._serving.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        """Fails all requested runs if one of the dispatcher's own tasks has failed: nobody else would notice it."""
        error = None if task.cancelled() else task.exception()
        if error is None or self._failure is not None:
            return
        self._failure = error
        for assignment in self._assignments.values():
            if not assignment.outcome.done():
                assignment.outcome.set_exception(error)
        self.on_failure()

    def _drop_quarantined(self, device: Device) -> None:
        """Stops serving a quarantined device; fails all queued runs if it was the last."""
        self._devices.pop(device.key, None)
        self._serving.pop(device.key, None)
        self._observer.on_worker(device.key, "quarantined", reason=self._blame.quarantined[device.key])
        if not self._devices:
            for assignment in self._assignments.values():
                if not assignment.outcome.done() and self.queue.withdraw(assignment.item.id):
                    assignment.outcome.set_exception(NoWorkersLeft(self._blame.describe()))

    # --- serving ----------------------------------------------------------------------------------------------------

    async def _serve(self, device: Device) -> None:
        """Serves one device: claims a run, executes it, returns its result; until the device leaves or is quarantined."""
        platform = platform_identity(device)
        while True:
            while (lease := self.queue.claim(device.key, platform, self._clock())) is None:
                await self._idle.wait(platform)
            result = await self._run(device, lease)
            if result is None:
                continue
            if device.key in self._blame.quarantined:
                return self._drop_quarantined(device)
            if result.status == "lost":
                await asyncio.sleep(PAUSE_SECONDS)

    async def _run(self, device: Device, lease: Lease) -> RunResult | None:
        """Executes a leased run and hands its result to whoever waits for it; `lost` if the device leaves meanwhile.

        Returns None if the loop that requested the run has cancelled it.
        """
        assignment = self._assignments[lease.item.id]
        self._observer.on_work(lease.item, "running", worker=device.key)

        def on_progress(progress: Progress) -> None:
            if self.queue.renew(lease, self._clock()):
                assignment.report(progress)

        spec = assignment.spec
        run = asyncio.create_task(self._executed(device, lease, assignment, on_progress))
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
            reason = f"{device.key} left" if leaving else f"{device.key} said nothing for too long"
            result = RunResult.lost(spec, reason, device=device.key)
            self._return(lease, assignment, result)
            if leaving:
                raise
            self._blame.note(device.key, lease.item, result, has_control=False)
            return result
        finally:
            self._running.pop(lease.item.id, None)
            self._executing.pop(lease.item.id, None)
        self._return(lease, assignment, result)
        return result

    async def _executed(self, device: Device, lease: Lease, assignment: _Assignment,
                        on_progress: Callable[[Progress], None]) -> RunResult:  # fmt: skip
        """Executes a run, and a control after it if the run was lost and it is open who is to blame."""
        spec, text = assignment.spec, assignment.control
        result = await self.engine.execute(device, assignment.train_py, spec, on_progress)
        is_open = self._blame.note(device.key, lease.item, result, has_control=text is not None)
        if text is None or not is_open:
            return result
        await asyncio.sleep(PAUSE_SECONDS)
        again = replace(spec, run_id=f"{spec.run_id}-control", keep_below=None, save_model=False)
        control = await self.engine.execute(device, text, again, lambda _: self._keep(lease))
        decided = self._blame.decide(device.key, lease.item, result, control)
        is_idea = control.status != "lost"
        found = f"the baseline {'works, so the device is' if is_idea else 'is lost, too, so the device is not'} in order"
        self._observer.on_control(device.key, f"{spec.run_id} was lost; {found}")
        return decided

    def _keep(self, lease: Lease) -> None:
        """Renews a lease, since its worker lives."""
        self.queue.renew(lease, self._clock())

    def _return(self, lease: Lease, assignment: _Assignment, result: RunResult) -> None:
        """Hands a result to whoever waits for it, unless the lease has expired."""
        if self.queue.finish(lease) and not assignment.outcome.done():
            assignment.outcome.set_result(result)

    async def _cancel_run(self, item_id: str) -> None:
        """Ends the run, if it has started, and waits until its processes are gone."""
        run = self._running.get(item_id)
        if run is not None:
            run.cancel()
            await asyncio.wait([run])

    async def _expire_regularly(self) -> None:
        """Reports a run as lost if its worker has said nothing for the length of a lease."""
        while True:
            began = self._clock()
            await asyncio.sleep(EXPIRY_SECONDS)
            self.queue.extend(max(0.0, self._clock() - began - EXPIRY_SECONDS))  # this process was busy, or was paused
            for lease in self.queue.expire(self._clock()):
                assignment = self._assignments.get(lease.item.id)
                if assignment is not None and not assignment.outcome.done():
                    silence = f"{lease.worker} said nothing for {self.queue.lease_seconds:.0f} s"
                    assignment.outcome.set_result(RunResult.lost(assignment.spec, silence, device=lease.worker))
                if run := self._running.get(lease.item.id):
                    run.cancel()
