"""The farm: one process that owns the loops, the store and the engine. It holds no truth of its own: the journal does."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.loop import BaselineFailed, InfrastructureFailed, LoopSettings, ResearchLoop
from agent.repo.worktree import Worktree, worktree_folder
from agent.researcher import BudgetSpent, OutOfIdeas
from cluster.branch_start import failed_start, first_train_py, siblings_to_start_from, start_branch, start_in_place
from cluster.dispatch import Dispatcher, NoWorkersLeft
from cluster.display import Display
from cluster.engine import Engine, LocalEngine
from cluster.hardware import platform_identity
from cluster.local_api import FarmServer
from cluster.loop_plans import LoopPlan, Planner, check_same_scoring, check_same_terms
from cluster.options import FarmOptions
from cluster.ray_cluster.metrics import FarmMetrics
from cluster.researchers import make_researcher
from cluster.workqueue import WorkItem
from research.contract import Contract
from research.errors import UserError
from research.profiles import profile_named
from research.result import RunResult, RunSpec
from research.text import counted, utc_now
from results.experiment import Branch, Experiment, ExperimentRecord
from results.store import Store
from results.verdict import NoisePrior, noise_prior

EXPORT_SECONDS = 120.0
"""history.parquet is written this often, and whenever a verdict falls and the last writing is a few seconds ago."""


@dataclass(frozen=True, kw_only=True)
class FarmSummary:
    """What a farm did until it ended."""

    branches: tuple[str, ...]
    experiments: int
    keeps: int
    baseline: float | None
    """val_bpb of the first branch's baseline."""
    best: float | None
    seconds: float
    ended: str
    """Why, in words."""


SAID = {
    "proposal_dropped": "{branch}: {title} was dropped: the last keep changed the same thing",
    "proposal_failed": "{branch}: no proposal, asking again in {again_in_s:g} s: {reason}",
    "run_lost": "{branch}: run {run} was lost: {reason}",
}
"""Of the events that are only logged otherwise, those that the user is told, and in which words."""


async def run_farm(options: FarmOptions, display: Display) -> FarmSummary:
    """Runs the farm until its limits, Ctrl-C or SIGTERM; the same call goes on where it was. Raises UserError."""
    farm = await asyncio.to_thread(Farm, options, display)
    try:
        return await farm.run()
    finally:
        await farm.close()


class Farm:
    """A farm that holds its home: lock, store, engine and the HTTP end."""

    def __init__(self, options: FarmOptions, display: Display) -> None:
        self.options, self.display = options, display
        self.home = options.home.create()
        self.began = time.monotonic()
        self.stopping = ""
        """Why the farm is ending, in words; empty while it goes on."""
        self.states: dict[str, dict[str, Any]] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._cleanup = contextlib.ExitStack()
        self._last_export = 0.0
        self._cleanup.enter_context(self.home.lock())
        try:
            self.home.record_repository(options.repo)
            self.store = self._cleanup.enter_context(Store.open(self.home.folder, wait_s=5.0))
            self.planner = Planner(options, self.store, say=display.say)
            local = self.planner.local() if options.engine == "local" else []
            self.engine = make_engine(options, self.planner, local)
        except BaseException:
            self._cleanup.close()
            raise
        self.metrics = FarmMetrics() if options.engine == "ray" else None
        self.dispatcher = Dispatcher(self.engine, self)
        self._loops: dict[str, asyncio.Task[str]] = {}
        self._news = asyncio.Event()
        self._starting = local
        """Loops that begin with the first devices."""

    async def close(self) -> None:
        """Ends all processes, exports the history and lets go of the home."""
        with self._cleanup:
            await self.dispatcher.close()
            await self.engine.close()
            self.export(always=True)

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> FarmSummary:
        """All loops, until the last has ended or the farm is stopped."""
        self._drop_old_work()
        server = FarmServer(self.home, status=self.status, query=self._query, stop=self._stop_from_thread())
        server.start()
        self.event("farm_started", tag=self.options.tag, engine=self.options.engine, researcher=self.options.researcher)
        exporting = asyncio.create_task(self._export_now_and_then())
        try:
            with self._stopped_by_signals():
                outcomes = await self._until_all_loops_have_ended()
        finally:
            exporting.cancel()
            server.close()
        reasons = [str(outcome) for outcome in outcomes if isinstance(outcome, str)]
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        ended = self.stopping or "; ".join(dict.fromkeys(reasons)) or "done"
        self.event("farm_ended", reason=ended)
        return self.summary(ended)

    async def first_devices(self) -> None:
        """Lets the devices that are there now take work: for one who runs no loops."""
        async for _ in self.dispatcher.changes():
            return

    async def _until_all_loops_have_ended(self) -> list[str | BaseException]:
        """What each loop ended with. Raises what following the devices raised."""
        following = asyncio.create_task(self._start_loops_as_devices_join())
        following.add_done_callback(lambda _: self._news.set())
        try:
            while not (self._loops or self.stopping) or not all(task.done() for task in self._loops.values()):
                await self._news.wait()
                self._news.clear()
                if following.done() and following.exception() is not None:
                    raise following.exception() or AssertionError
        finally:
            for task in (following, *self._loops.values()):
                task.cancel()
            await asyncio.wait([following, *self._loops.values()])
        return [outcome for task in self._loops.values() if (outcome := _outcome_of(task)) is not None]

    async def _start_loops_as_devices_join(self) -> None:
        """Loops begin when there is a device for them, and go on whatever devices come and go."""
        async for joined in self.dispatcher.changes():
            if self.options.engine == "ray":
                self._starting = await asyncio.to_thread(self.planner.joining, joined, self.dispatcher.devices)
            for plan in self._starting:
                task = asyncio.create_task(self._run_loop(plan), name=plan.branch_name)
                task.add_done_callback(lambda _: self._news.set())
                self._loops[plan.branch_name] = task
            self._starting = []

    async def _run_loop(self, plan: LoopPlan) -> str:
        """One loop from start to end; returns why it ended. A loop that fails leaves the others alone."""
        loop = await asyncio.to_thread(self.open_loop, plan)
        try:
            await loop.start()
            while (reason := self._limit_reached(loop)) is None:
                await loop.step()
            return reason
        except (OutOfIdeas, BudgetSpent) as end:
            return str(end) or type(end).__name__
        except NoWorkersLeft as failure:
            raise UserError(f"No device is left to work with: {failure}") from failure
        except (BaselineFailed, InfrastructureFailed) as failure:
            if len(self._loops) == 1:
                raise UserError(f"{plan.branch_name}: {failure}") from failure
            self.display.say(f"{plan.branch_name} ended: {failure}")
            self.event("loop_failed", branch=plan.branch_name, reason=str(failure))
            return f"{plan.branch_name}: {failure}"
        finally:
            await loop.close()
            self.loop_state(plan.branch_name, phase="ended")

    def _limit_reached(self, loop: ResearchLoop) -> str | None:
        options = self.options
        if options.hours is not None and time.monotonic() - self.began >= 3600 * options.hours:
            return f"{options.hours:g} {'hour has' if options.hours == 1 else 'hours have'} passed"
        if options.experiments is not None and experiments_done(self.store, loop.branch.name) >= options.experiments:
            return f"{counted(options.experiments, 'experiment')} {'is' if options.experiments == 1 else 'are'} done"
        return self.stopping or None

    @contextlib.contextmanager
    def _stopped_by_signals(self):  # type: ignore[no-untyped-def]
        """Ctrl-C and SIGTERM end all loops at once; what was training stays unfinished, for the next start."""
        running = asyncio.get_running_loop()

        def stop() -> None:
            self.stopping = self.stopping or "stopped"
            for task in self._loops.values():
                task.cancel()
            self._news.set()

        self._stop = stop
        for number in (signal.SIGINT, signal.SIGTERM):
            running.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                running.remove_signal_handler(number)

    def _stop_from_thread(self) -> Callable[[], None]:
        running = asyncio.get_running_loop()
        return lambda: (running.call_soon_threadsafe(self._stop), None)[1]

    # --- loops ------------------------------------------------------------------------------------------------------

    def open_loop(self, plan: LoopPlan, *, in_place: bool = False) -> ResearchLoop:
        """A loop that starts its branch, or goes on with it."""
        researcher = make_researcher(self.options, plan.number)  # first: without it nothing is worth starting
        branch = self.store.branch(plan.branch_name)
        folder = worktree_folder(self.home.folder, plan.branch_name)
        if branch is None:
            worktree = self._start_in_place(plan) if in_place else self._start_in(folder, plan)
            branch = self._add_branch(plan, worktree.head())
        else:
            check_same_terms(branch, plan.device, plan.contract)
            check_same_scoring(branch, plan)
            worktree = self._go_on_in_place(plan) if in_place else self._go_on_in(folder, plan)
        spec = RunSpec(
            run_id="",
            contract=plan.contract,
            seed=0,
            device=plan.device.torch_device,
            data_folder=str(plan.data.folder),
            run_folder=str(self.home.runs),
            save_model=self.options.samples,
            threads=plan.device.threads,
            sandbox=self.options.sandbox,
        )
        settings = LoopSettings(
            spec=spec,
            noise=noise_prior_of(plan.contract),
            rule=self.options.rule,
            baseline_runs=self.options.baseline_runs,
            program=self.options.repo / "program.md",
        )
        return ResearchLoop(
            branch=branch,
            worktree=worktree,
            researcher=researcher,
            store=self.store,
            execute=lambda experiment, train_py, spec, report: self._execute(plan, experiment, train_py, spec, report),
            start_ahead=self.dispatcher.start_ahead if self.options.start_ahead else None,
            observer=self,
            settings=settings,
        )

    async def _execute(self, plan: LoopPlan, experiment: Experiment, train_py: str, spec: RunSpec,
                       report: Callable[[dict[str, Any]], None]) -> RunResult:  # fmt: skip
        """A loop's run, by whichever device of its platform is free first."""
        lost = sum(run.status == "lost" for run in self.store.record(experiment.id).runs)
        item = WorkItem(
            id=spec.run_id,
            kind=experiment.kind,
            branch=experiment.branch,
            experiment=experiment.id,
            platform=platform_identity(plan.device),
            repeats=lost,
        )
        return await self.dispatcher.execute(item, train_py, spec, report)

    def _start_in(self, folder: Path, plan: LoopPlan) -> Worktree:
        siblings = siblings_to_start_from(self.store, self.options.tag)
        return start_branch(self.options, plan, folder, siblings=siblings, say=self._say_once)

    def _say_once(self, text: str) -> None:
        """What several loops find out at once, each in its thread, concerns the user once."""
        with self._lock:
            new = text not in self._said
            self._said.add(text)
        if new:
            self.display.say(text)

    def _start_in_place(self, plan: LoopPlan) -> Worktree:
        return start_in_place(self.options.repo, plan, self.options.recipe, say=self.display.say)

    def _go_on_in(self, folder: Path, plan: LoopPlan) -> Worktree:
        """The branch at its head. Where only a failed baseline is on it, at what is committed in the checkout by now."""
        worktree = Worktree.open(self.options.repo, folder, plan.branch_name)
        failed = failed_start(self.store, plan.branch_name)
        if failed is None:
            self._say_that_no_recipe_counts(plan)
        elif worktree.head() == failed:  # otherwise it was mended on the branch itself
            siblings = siblings_to_start_from(self.store, self.options.tag)
            worktree.begin_again(first_train_py(self.options, plan, siblings=siblings, say=self._say_once))
        return worktree

    def _go_on_in_place(self, plan: LoopPlan) -> Worktree:
        """The checkout on its branch; started once more where only a failed baseline is on it."""
        if failed_start(self.store, plan.branch_name) is not None:
            return self._start_in_place(plan)
        self._say_that_no_recipe_counts(plan)
        return Worktree.in_place(self.options.repo, plan.branch_name)

    def _say_that_no_recipe_counts(self, plan: LoopPlan) -> None:
        if self.options.recipe is not None:
            name = plan.branch_name
            self.display.say(f"{name} goes on from its head: --recipe is for new branches, so give it another --tag")

    def _add_branch(self, plan: LoopPlan, baseline_commit: str) -> Branch:
        branch = Branch(
            name=plan.branch_name,
            tag=self.options.tag,
            loop=plan.number,
            profile=plan.contract.profile,
            contract_json=plan.contract.to_json(),
            score_fingerprint=plan.data.score_fingerprint(plan.contract),
            data_fingerprint=plan.data.data_fingerprint,
            platform=platform_identity(plan.device),
            baseline_commit=baseline_commit,
            created=utc_now(),
        )
        self.store.add_branch(branch)
        return branch

    # --- observing --------------------------------------------------------------------------------------------------

    def loop_state(self, branch: str, **fields: Any) -> None:
        """What a loop is doing: for the display and for `farm status`."""
        fields.pop("event", None)
        self.states.setdefault(branch, {}).update(fields)
        self.display.loop_state(branch, **fields)

    def verdict(self, record: ExperimentRecord) -> None:
        """An experiment is decided."""
        self.display.verdict(record)
        assert record.verdict is not None
        if self.metrics is not None:
            self.metrics.verdict(record, self.store.head(record.experiment.branch))
        self.home.log_event("verdict", branch=record.experiment.branch, experiment=record.experiment.id,
                            title=record.experiment.title, decision=record.verdict.decision, val_bpb=record.val_bpb,
                            reason=record.verdict.reason)  # fmt: skip
        self.export()

    def event(self, kind: str, **fields: Any) -> None:
        """Everything else that people may want to know later."""
        self.home.log_event(kind, **fields)
        if kind in SAID:
            self.display.say(SAID[kind].format(**fields))

    def work(self, item: WorkItem, state: str, **details: Any) -> None:
        """A run that was put in line, begun, done or lost."""
        told = {"run": item.id, "work": item.kind, "branch": item.branch, "experiment": item.experiment}
        self.store.add_event("work", {**told, "platform": item.platform, "repeats": item.repeats, "state": state, **details})
        if self.metrics is not None:
            self.metrics.work(item, state, str(details.get("worker", "")), len(self.dispatcher.queue.waiting))

    def worker(self, name: str, state: str, **details: Any) -> None:
        """A device that came, went, was refused or is given no more work."""
        self.store.add_event("worker", {"worker": name, "state": state, **details})
        self.home.log_event("worker", worker=name, state=state, **details)
        if state != "joined" or self.options.engine == "ray":
            self.display.say(f"{name} {state}" + "".join(f": {value}" for value in details.values()))

    def _drop_old_work(self) -> None:
        """What was in line when the last farm on this home ended is in line no more: its loops ask anew."""
        for run, *_ in self.store.query("SELECT run, state FROM work WHERE state IN ('waiting', 'running')").rows:
            self.store.add_event("work", {"run": run, "state": "dropped", "reason": "the farm ended"})

    def status(self) -> dict[str, Any]:
        """The answer to `farm status`; called in the server's threads."""
        return {
            "tag": self.options.tag,
            "researcher": self.options.researcher,
            "home": str(self.home.folder),
            "seconds": time.monotonic() - self.began,
            "loops": {name: dict(state) for name, state in list(self.states.items())},
            "devices": [device.key for device in self.dispatcher.devices],
            "waiting": [item.id for item in self.dispatcher.queue.waiting],
            "quarantined": dict(self.dispatcher.quarantined),
        }

    def _query(self, sql: str, audience: str) -> Any:
        return self.store.query(sql, audience="person" if audience == "person" else "agent")

    def export(self, *, always: bool = False) -> None:
        """Writes history.parquet, unless it was written a moment ago."""
        if always or time.monotonic() - self._last_export > 5.0:
            self.store.export_parquet()
            self._last_export = time.monotonic()

    async def _export_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            self.export()

    def summary(self, ended: str) -> FarmSummary:
        """Over all branches of this call."""
        names = tuple(plan.branch_name for plan in self.planner.plans)
        records = [record for name in names for record in self.store.records(name) if record.verdict is not None]
        done = [record for record in records if record.is_done]
        first = self.store.baseline(names[0]) if names else None
        heads = [head.mean for name in names if (head := self.store.head(name)) is not None]
        return FarmSummary(
            branches=names,
            experiments=len(done),
            keeps=sum(record.verdict is not None and record.verdict.decision == "keep" for record in done),
            baseline=first.val_bpb if first else None,
            best=min(heads, default=None),
            seconds=time.monotonic() - self.began,
            ended=ended,
        )


def noise_prior_of(contract: Contract) -> NoisePrior:
    """Its profile's, for its budget."""
    profile = profile_named(contract.profile)
    return noise_prior(profile.sigma, measured_at=profile.contract.TIME_BUDGET, budget=contract.TIME_BUDGET)


def experiments_done(store: Store, branch: str) -> int:
    """A branch's ideas with a verdict, lost ones left out."""
    return sum(record.is_done for record in store.records(branch))


def make_engine(options: FarmOptions, planner: Planner, local: list[LoopPlan]) -> Engine:
    """The engine that was asked for. Raises UserError where no Ray cluster can be joined."""
    if options.engine == "local":
        return LocalEngine(tuple({plan.device.key: plan.device for plan in local}.values()))
    from cluster.ray_cluster.engine import RayEngine

    return RayEngine(
        terms=planner.terms,
        kind=options.device_kind,
        address=options.address,
        gpus=options.gpu_indices,
        cache=options.cache_asked_for,
        num_shards=options.num_shards,
        gpu_memory_bytes=options.gpu_memory_bytes,
    )


def _outcome_of(task: "asyncio.Task[str]") -> str | BaseException | None:
    """A loop's word why it ended, or its error; None where it was stopped."""
    if task.cancelled():
        return None
    return task.exception() or task.result()
