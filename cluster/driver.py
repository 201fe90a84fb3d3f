"""The farm: one process that owns the loops, the store and the engine. The journal is the source of truth, not this process."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from agent.loop import BaselineFailed, InfrastructureFailed, LoopSettings, ResearchLoop
from agent.loop_steering import LoopPaused
from agent.proposing import BUDGET_SPENT, REPLACED
from agent.repo.repair import restore_experiments
from agent.repo.repository import TRAIN_FILE, train_py_at
from agent.researcher import BudgetSpent, OutOfIdeas
from agent.researchers.budget import budgets_of
from agent.shared_research import SharedResearch
from agent.submissions import submission_from, submit
from agent.text_reader import TextReader
from cluster.background import in_background
from cluster.branch_start import BranchStart, check_same_rule, free_memory
from cluster.dispatch import Dispatcher, NoWorkersLeft
from cluster.display import Display
from cluster.end_summary import FarmSummary, experiments_done, summarise
from cluster.engine import Engine, LocalEngine
from cluster.farm_events import FarmEvents
from cluster.farm_options import FarmOptions
from cluster.hardware import platform_identity
from cluster.history_export import HistoryExport
from cluster.home import home_option
from cluster.hooks import Hooks
from cluster.known_folders import remember
from cluster.local_api import FarmServer, Submitted
from cluster.loop_control import LoopControl
from cluster.loop_plans import LoopPlan, Planner
from cluster.loop_researcher import asked_of
from cluster.notifications import notifications_of
from cluster.person_requests import Answer, Ask, record
from cluster.results_files import update_results_tsv
from cluster.resuming import log_options
from cluster.steering_requests import unread_note
from cluster.stop_request import StopRequest, interrupt_this_process
from cluster.workqueue import WorkItem
from research.contract import Contract
from research.errors import UserError
from research.files import remove_unfinished
from research.formatting import counted, one_line
from research.profiles import profile_named
from research.result import RunResult, RunSpec
from research.starting_hyperparameters import fit_to_profile
from results.effect_prior import load_scipy
from results.experiment import Branch, Experiment
from results.foreign_import import Import, record_import
from results.journal_damage import check_whole
from results.query import Table
from results.store import Store
from results.table_rows import load_arrow
from results.tables import Audience
from results.verdict import NoisePrior, noise_prior


async def run_farm(options: FarmOptions, display: Display) -> FarmSummary:
    """Runs the farm until its limits, Ctrl-C or SIGTERM; the same call resumes where it left off. Raises UserError."""
    farm = await in_background(Farm, options, display)
    try:
        return await FarmRun(farm).run()
    finally:
        await farm.close()


class Farm:
    """A farm that holds its home: the lock, the store, the engine and its devices."""

    def __init__(self, options: FarmOptions, display: Display) -> None:
        """Raises UserError if the home is in use or can't be written, or the engine can't be started."""
        self.options, self.display = options, display
        self.began = time.monotonic()
        self.home = options.home.create()
        self._cleanup = contextlib.ExitStack()
        self._cleanup.enter_context(self.home.lock())
        try:
            self.home.record_repository(options.repo)
            remember(self.home.folder, options.cache)
            for folder in (self.home.folder, self.home.logs, *self.home.worktrees.iterdir()):
                remove_unfinished(folder)
            for folder in filter(None, (options.repo, options.source_tree)):  # a person's: only what the farm writes
                remove_unfinished(folder, ("results.tsv", "progress.png"))
                remove_unfinished((folder / TRAIN_FILE).parent, ("train.py",))
            self.store = self._cleanup.enter_context(Store.open(self.home.folder, wait_s=5.0))
            check_whole(self.home.journal, self.store.journal.damaged, home_option=home_option(self.home))
            self.export = HistoryExport(self.store, on_aside=self._on_aside, on_failure=self._on_failure)
            self.events = FarmEvents(self.home, self.store, display, self.export, show_joining=options.engine == "ray")
            self.hooks = self.events.hooks = Hooks(
                {"before-experiment": options.before_experiment, "after-experiment": options.after_experiment},
                store=self.store,
                observer=self.events,
            )
            self.events.notifications = notifications_of(options, say=display.say)
            self._working: Dispatcher | None = None
            self.has_loops = False
            """Whether loops run, rather than a single command's runs."""
            self.on_stop: Callable[[], None] = interrupt_this_process
            """What `farm stop` does; called in the local API's threads."""
            self.control: LoopControl | None = None
            """What stops single loops; None while none runs."""
            load_scipy()  # here, in a thread: these two would keep the event loop from all else
            load_arrow()
            self._serve()  # before data is prepared, which can take long
            self.planner = Planner(options, self.store, say=display.say)
            self.local_plans = self.planner.local() if options.engine == "local" else []
            self.engine = make_engine(options, self.planner, self.local_plans)
        except BaseException:
            self._cleanup.close()
            raise
        self._working = self.dispatcher = Dispatcher(self.engine, self.events)
        if restored := restore_experiments(options.repo, self.store.commits()):
            display.say(f"{counted(len(restored), 'ref')} of experiments had been deleted in git, and were made again")
        self._branch_start = BranchStart(options, self.store, say=display.say)
        self._shared: dict[str, SharedResearch] = {}
        self._budgets = budgets_of(options.max_cost, None)
        """The limits that all loops share."""
        self._reader = self._cleanup.enter_context(contextlib.closing(TextReader()))
        self._opening = threading.Lock()

    def _serve(self) -> None:
        """Answers `farm status`, `farm sql`, `farm stop` and what people ask of loops as long as this farm holds its home."""
        server = FarmServer(
            self.home,
            status=self.status,
            query=self._query,
            ask=self._ask,
            record_import=self._import,
            submit=self._submit,
            stop=lambda: self.on_stop(),
        )
        server.start()
        self._cleanup.callback(server.close)

    def status(self) -> dict[str, Any]:
        """The answer to `farm status`; called in the local API's threads."""
        working = self._working
        return {
            "tag": self.options.tag,
            "researcher": self.options.researcher,
            "home": str(self.home.folder),
            "seconds": self.seconds(),
            "loops": {name: dict(state) for name, state in list(self.events.loops.items())},
            "devices": [device.key for device in working.devices] if working else [],
            "waiting": [item.id for item in working.queue.waiting] if working else [],
            "quarantined": dict(working.quarantined) if working else {},
        }

    def _on_aside(self, branch: str, file: Path) -> None:
        self.events.on_event("picture_moved_aside", branch=branch, file=str(file))

    def _on_failure(self, file: Path, reason: str) -> None:
        self.events.on_event("view_failed", file=str(file), reason=reason)

    def seconds(self) -> float:
        """Seconds since the farm began."""
        return time.monotonic() - self.began

    def _query(self, sql: str, audience: Audience) -> Table:
        return self.store.queries.table(sql, audience=audience)

    def _ask(self, ask: Ask) -> Answer:
        """Records what a person asks; called in the local API's threads. Raises UserError."""
        if ask.what == "stop loop" and self.control is not None:
            answer = Answer(recorded=self.control.stop_from_thread(ask.branch))
        else:
            answer = record(self.store, ask)
        looping = self._looping(ask.group)
        note = unread_note(self.options.researcher, looping, self.options.mix) if ask.what == "suggest" and looping else ""
        answer = replace(answer, is_taken_up=bool(looping), note=note)
        self.display.say(f"asked by a person: {answer.recorded}")
        return answer

    def _import(self, event: dict[str, Any], replace: bool) -> Import:
        """Records another system's results; called in the local API's threads. Raises UserError."""
        done = record_import(self.store, event, replace=replace)
        if done.is_new:
            self.display.say(f"imported: {done.name}")
        return done

    def _submit(self, fields: dict[str, Any]) -> Submitted:
        """Records an idea from outside; called in the local API's threads. Raises UserError."""
        submission = submission_from(fields)
        answer = Submitted(id=submit(self.store, submission), is_taken_up=bool(self._looping(submission.group)))
        self.display.say(f"submitted from outside: {answer.id} {one_line(submission.title, 60)}")
        return answer

    def _looping(self, group: str) -> list[Branch]:
        """The branches of the group whose loops will take another step."""
        running = [name for name, state in list(self.events.loops.items()) if state.get("phase") != "ended"]
        members = [branch for branch in self.store.branches() if branch.head_branch == group]
        return [branch for branch in members if self.has_loops and branch.name in running]

    async def close(self) -> None:
        """Ends all processes, exports the history and releases the home."""
        with self._cleanup:
            await self.hooks.close()
            await self.dispatcher.close()
            await self.engine.close()
            await in_background(self.export.write_last)
            if self.events.notifications is not None:
                await in_background(self.events.notifications.close)

    async def first_devices(self) -> None:
        """Lets the devices that are there now take work, without the FarmRun that would follow later changes."""
        async for _ in self.dispatcher.changes():
            return

    def open_loop(self, plan: LoopPlan, *, in_place: bool = False) -> ResearchLoop:
        """A loop on its branch, which is started, or resumed if it exists. Raises UserError."""
        options = self.options
        # first, since a branch without a researcher is not worth starting
        loops = {branch.name: branch.loop for branch in self.store.branches(options.tag)}
        asked = asked_of(options, plan, loops=loops, shared=self._budgets)
        researcher, problem = asked.made()
        with self._opening:  # of two new loops, the second one builds on what the first one has started
            branch, worktree = self._branch_start.open(plan, in_place=in_place)
            check_same_rule(options, branch)
            shared = self._shared.setdefault(branch.head_branch, self._shared_research(branch))
            if options.given is not None:  # not before: what is refused is no way to resume
                log_options(self.home, options.tag, options.given, command=options.command,
                            experiments=options.experiments, hours=options.hours)  # fmt: skip
            self._reader.loops += 1
        if problem:
            replaced = {"branch": branch.name, "researcher": asked.name, "by": researcher.name, "reason": problem}
            self.events.on_event(REPLACED, **replaced)
            self.store.add_event(REPLACED, replaced)
        self.export.add_picture(branch.name, worktree.folder / "progress.png")
        return ResearchLoop(
            branch=branch,
            worktree=worktree,
            researcher=researcher,
            store=self.store,
            shared=shared,
            execute=partial(self.execute, plan),
            start_speculatively=self.dispatcher.start_speculatively if options.start_ahead else None,
            observer=self.events,
            settings=self._settings(plan, branch),
            stopgap=asked.stopgap(),
        )

    def _shared_research(self, branch: Branch) -> SharedResearch:
        return SharedResearch(
            store=self.store,
            repo=self.options.repo,
            group=branch.head_branch,
            baseline_commit=branch.baseline_commit,
            observer=self.events,
            reader=self._reader,
        )

    def _settings(self, plan: LoopPlan, branch: Branch) -> LoopSettings:
        return LoopSettings(
            contract=plan.contract,
            sandbox=self.options.sandbox,
            save_model=self.options.samples,
            noise=noise_prior_of(plan.contract),
            line_price=self.options.line_price,
            memory_cap_mb=self.options.memory_cap_mb,
            runs_folder=self.options.home.runs,
            rule="greedy" if branch.rule == "greedy" else self.options.rule,
            baseline_runs=self.options.baseline_runs,
            program=self.options.repo / "program.md",
            plateau_ideas=self.options.plateau_ideas,
            fit=lambda text: fit_to_profile(text, plan.contract.profile, free_memory(plan))[0],
        )

    async def execute(self, plan: LoopPlan, experiment: Experiment, train_py: str, spec: RunSpec,
                      report: Callable[[dict[str, Any]], None]) -> RunResult:  # fmt: skip
        """Executes one run of an experiment on whichever device of its platform is free first."""
        await self.hooks.before(experiment)
        item = WorkItem(
            id=spec.run_id,
            kind=experiment.kind,
            branch=experiment.branch,
            experiment=experiment.id,
            platform=platform_identity(plan.device),
            repeats=lost_since_its_last_result(self.store.record(experiment.id).runs),
        )
        baseline = self.store.baseline(experiment.branch)
        control = None if baseline is None else train_py_at(self.options.repo, baseline.experiment.commit)
        return await self.dispatcher.execute(item, train_py, spec, report, control=control)


class FarmRun:
    """A farm's loops, from the first device to the end of the last loop. Created in the event loop that runs them."""

    def __init__(self, farm: Farm) -> None:
        self._farm, self._options = farm, farm.options
        self._loops: dict[str, asyncio.Task[str]] = {}
        self._started: list[ResearchLoop] = []
        self._ended: list[ResearchLoop] = []
        self._news = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        """Tasks beside the loops. None of them may end unnoticed: the farm ends with what it raised."""
        self._control = LoopControl(self._loops, farm.events)
        self._stop = StopRequest(self._cancel_loops, say=farm.display.say)

    async def run(self) -> FarmSummary:
        """Runs all loops until the last has ended or the farm is stopped. Raises what a loop raised."""
        farm = self._farm
        farm.events.cancel_old_work()
        farm.has_loops = True
        farm.on_stop = self._stop.request_from_thread
        farm.control = self._control
        farm.events.on_event(
            "farm_started", tag=self._options.tag, engine=self._options.engine, researcher=self._options.researcher
        )
        exporting = self._in_background(farm.export.write_regularly())
        try:
            with self._stop.on_signals():
                ended = await self._until_the_end()
        except BaseException as error:
            with contextlib.suppress(UserError):  # the disk may be full, which then is the error
                farm.events.on_event("farm_ended", reason=one_line(str(error)) or type(error).__name__)
            raise
        finally:
            exporting.cancel()
        farm.events.on_event("farm_ended", reason=ended)
        branches = [plan.branch_name for plan in farm.planner.plans]
        return summarise(farm.store, branches, seconds=farm.seconds(), ended=ended)

    async def _until_the_end(self) -> str:
        """Returns why the farm ended, in words. Raises what a loop raised."""
        outcomes = await self._until_all_loops_have_ended()
        if not any(isinstance(outcome, BaseException) for outcome in outcomes):
            for loop in self._started:  # the other loops' runs may have moved the head of one that ended earlier
                loop.follow_head()
        for loop in self._ended:  # and changed its decisions
            loop.write_table()
            for line in update_results_tsv(self._farm.home, self._farm.store, loop.branch.name):
                self._farm.display.say(line)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        reasons = [outcome for outcome in outcomes if isinstance(outcome, str)]
        return self._stop.reason or "; ".join(dict.fromkeys(reasons)) or "done"

    # --- loops ------------------------------------------------------------------------------------------------------

    async def _until_all_loops_have_ended(self) -> list[str | BaseException]:
        """Returns why each loop ended, or what it raised. Raises what a task beside the loops raised."""
        following = self._in_background(self._start_loops_as_devices_join())
        self._farm.dispatcher.on_failure = self._news.set
        try:
            while not (self._loops or self._stop.reason) or not all(task.done() for task in self._loops.values()):
                await self._news.wait()
                self._news.clear()
                self._raise_failure()
        finally:
            for task in (following, *self._loops.values()):
                task.cancel()
            await asyncio.wait([following, *self._loops.values()])
        return [outcome for task in self._loops.values() if (outcome := _outcome_of(task)) is not None]

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._news.set())
        self._background.append(task)
        return task

    def _raise_failure(self) -> None:
        """Raises what a task beside the loops has raised, the dispatcher's own among them."""
        failed = [task.exception() for task in self._background if task.done() and not task.cancelled()]
        for failure in (*failed, self._farm.dispatcher.failure):
            if failure is not None:
                raise failure

    async def _start_loops_as_devices_join(self) -> None:
        """Starts loops when there is a device for them; they then run on whatever devices join and leave."""
        planner, dispatcher = self._farm.planner, self._farm.dispatcher
        plans = self._farm.local_plans
        async for joined in dispatcher.changes():
            if self._options.engine == "ray":
                plans = await in_background(planner.joining, joined, dispatcher.devices)
            for plan in plans:
                task = asyncio.create_task(self._run_loop(plan), name=plan.branch_name)
                task.add_done_callback(lambda _: self._news.set())
                self._loops[plan.branch_name] = task
            plans = []

    async def _run_loop(self, plan: LoopPlan) -> str:
        """Runs one loop from start to end; returns why it ended. A loop that fails leaves the others alone."""
        loop = await asyncio.to_thread(self._farm.open_loop, plan)
        try:
            return await self._research(loop)
        except asyncio.CancelledError:
            if not self._control.was_stopped(plan.branch_name):
                raise
            self._farm.events.on_event("loop_stopped", branch=plan.branch_name)
            return f"{plan.branch_name} was stopped"
        except (OutOfIdeas, BudgetSpent) as end:
            if isinstance(end, BudgetSpent):
                self._farm.events.on_event(BUDGET_SPENT, branch=plan.branch_name, reason=str(end))
            await loop.finish()
            return str(end) or type(end).__name__
        except NoWorkersLeft as failure:
            raise UserError(f"No device is left to work with: {failure}") from failure
        except (BaselineFailed, InfrastructureFailed) as failure:
            if len(self._loops) == 1:
                raise UserError(f"{plan.branch_name}: {failure}") from failure
            self._farm.display.say(f"{plan.branch_name} ended: {failure}")
            self._farm.events.on_event("loop_failed", branch=plan.branch_name, reason=str(failure))
            return f"{plan.branch_name}: {failure}"
        except Exception as failure:  # told at once: the other loops may go on for hours
            if len(self._loops) > 1:
                words = one_line(str(failure)) or type(failure).__name__
                self._farm.display.say(f"{plan.branch_name} ended: {words}")
                self._farm.events.on_event("loop_failed", branch=plan.branch_name, reason=words)
            raise
        finally:
            loop.steering.release()
            await loop.close()
            self._ended.append(loop)
            self._farm.events.on_loop_state(plan.branch_name, phase="ended")

    async def _research(self, loop: ResearchLoop) -> str:
        """Starts a loop and lets it take steps, but for the time that it is paused; returns which limit it has reached."""
        limit = partial(self._limit_reached, loop)
        await self._control.wait_while_paused(loop, limit)
        if loop.steering.is_paused():
            return limit() or "paused"
        await loop.start()
        self._started.append(loop)
        while (reason := limit()) is None:
            with contextlib.suppress(LoopPaused):
                await loop.step()
            await self._control.wait_while_paused(loop, limit)
        if not self._stop.reason and not loop.steering.is_paused():
            await loop.finish()
        return reason

    def _limit_reached(self, loop: ResearchLoop) -> str | None:
        """Why a loop starts no more experiments; None while it may."""
        hours, experiments = self._options.hours, self._options.experiments
        if hours is not None and self._farm.seconds() >= 3600 * hours:
            return f"{hours:g} {'hour has' if hours == 1 else 'hours have'} passed"
        done = experiments_done(self._farm.store, loop.branch.name)
        if experiments is not None and done >= experiments:
            return limit_in_words(experiments, done, is_alone=len(self._loops) == 1)
        return self._stop.reason or None

    def _cancel_loops(self) -> None:
        """Ends all loops at once; experiments that were training stay unfinished until the next start."""
        for task in self._loops.values():
            task.cancel()
        self._news.set()


def limit_in_words(limit: int, done: int, *, is_alone: bool) -> str:
    """Why a loop starts no more experiments on its branch; for the only loop that is all that the farm has done."""
    if not is_alone:
        return f"the limit of {counted(limit, 'experiment')} per branch is reached"
    beyond = f", and the limit is {limit}" if done > limit else ""
    return f"{counted(done, 'experiment')} {'is' if done == 1 else 'are'} done{beyond}"


def lost_since_its_last_result(runs: Sequence[RunResult]) -> int:
    """How many of an experiment's runs, in their order, were lost after the last one that was not."""
    return len(list(takewhile(lambda run: run.status == "lost", reversed(runs))))


def noise_prior_of(contract: Contract) -> NoisePrior:
    """The noise that the contract's profile was measured with, scaled to the contract's time budget."""
    profile = profile_named(contract.profile)
    return noise_prior(profile.sigma, measured_at=profile.contract.TIME_BUDGET, budget=contract.TIME_BUDGET)


def make_engine(options: FarmOptions, planner: Planner, local_plans: list[LoopPlan]) -> Engine:
    """The requested engine. Raises UserError if no Ray cluster can be joined."""
    if options.engine == "local":
        return LocalEngine({plan.device: plan.data.folder for plan in local_plans}, runs_folder=options.home.runs)
    from cluster.ray_cluster.engine import RayEngine

    return RayEngine(
        terms=planner.terms,
        runs_folder=options.home.runs,
        kind=options.requested.kind,
        address=options.address,
        gpus=options.requested.gpus,
        cache=options.node_cache,
        num_shards=options.num_shards,
        gpu_memory_bytes=options.gpu_memory_bytes,
    )


def _outcome_of(task: "asyncio.Task[str]") -> str | BaseException | None:
    """Why a loop ended, or what it raised; None if it was cancelled."""
    if task.cancelled():
        return None
    return task.exception() or task.result()
