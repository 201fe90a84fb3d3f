"""The farm: one process that owns the loops, the store and the engine. It holds no truth of its own: the journal does."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.loop import BaselineFailed, InfrastructureFailed, LoopSettings, ResearchLoop, now
from agent.repository import head_train_py, uncommitted_train_py
from agent.researcher import BudgetSpent, OutOfIdeas, Researcher
from agent.worktree import Worktree, branch_exists, worktree_folder
from cluster.by_hand import on_the_checkouts_branch, start_in_place, try_working_train_py
from cluster.display import Display
from cluster.engine import Engine, LocalEngine
from cluster.hardware import Device, platform_identity
from cluster.home import Home
from cluster.server import FarmServer
from research.contract import Contract, UserError, choose_profile, contract_for, profile_named
from research.hyperparameters import fit_to_profile
from research.prepare import find_prepared, prepare
from research.result import RunSpec
from research.rows import PreparedData
from results.experiment import Branch, ExperimentRecord
from results.store import Store
from results.verdict import Noise, Rule

DEFAULT_SHARDS = 10

EXPORT_SECONDS = 120.0
"""history.parquet is written this often, and whenever a verdict falls and the last writing is a few seconds ago."""


@dataclass(frozen=True, kw_only=True)
class FarmOptions:
    """What the command line asks for. None: the profile's or the hardware's own."""

    repo: Path
    """The git repository that gets the branches."""
    home: Home
    cache: Path
    tag: str
    researcher: str
    """`search`, `claude`, `command:...` or `scripted:FILE`."""
    profile: str | None = None
    budget: float | None = None
    """Seconds of training."""
    source: str | None = None
    num_shards: int | None = None
    devices: tuple[Device, ...]
    loops: int | None = None
    """In all; None: one per device."""
    experiments: int | None = None
    """Per loop, on its branch; None: until stopped."""
    hours: float | None = None
    """After these no new experiment begins."""
    max_cost: float | None = None
    """US dollars for the researcher."""
    model: str | None = None
    dirty: bool = False
    """Start from uncommitted edits of train.py too."""
    samples: bool = False
    """Keep the model of every kept run, for `farm sample`."""
    rule: Rule = "noise"
    baseline_runs: int = 2


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


@dataclass(frozen=True, kw_only=True)
class LoopPlan:
    """One loop before it starts."""

    branch_name: str
    number: int
    device: Device
    contract: Contract
    data: PreparedData


async def run_farm(options: FarmOptions, display: Display) -> FarmSummary:
    """Runs the farm until its limits, Ctrl-C or SIGTERM; the same call goes on where it was. Raises UserError."""
    farm = await asyncio.to_thread(Farm, options, display)
    try:
        return await farm.run()
    finally:
        await farm.close()


async def try_once(options: FarmOptions, message: str | None, display: Display) -> ExperimentRecord:
    """`farm try`: the working train.py of the user's checkout as one experiment. Raises UserError."""
    farm = await asyncio.to_thread(Farm, on_the_checkouts_branch(options), display)
    try:
        return await try_working_train_py(farm, message)
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
        self._cleanup = contextlib.ExitStack()
        self._last_export = 0.0
        self._cleanup.enter_context(self.home.lock())
        try:
            self.store = self._cleanup.enter_context(Store.open(self.home.folder, wait_s=5.0))
            self.plans = self._plan()
            self.engine: Engine = LocalEngine(tuple({plan.device.key: plan.device for plan in self.plans}.values()))
        except BaseException:
            self._cleanup.close()
            raise

    async def close(self) -> None:
        """Ends all processes, exports the history and lets go of the home."""
        with self._cleanup:
            await self.engine.close()
            self.export(always=True)

    # --- planning ---------------------------------------------------------------------------------------------------

    def _plan(self) -> list[LoopPlan]:
        """Which loop works on which device, with its data prepared."""
        options = self.options
        count = options.loops or len(options.devices)
        prepared: dict[str, PreparedData] = {}
        plans = []
        for number in range(count):
            device = options.devices[number % len(options.devices)]
            profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
            contract = contract_for(profile, budget=options.budget, source=options.source)
            key = contract.to_json()
            if key not in prepared:
                prepared[key] = prepared_data(contract, options, say=self.display.say)
            name = branch_for(options.tag, number, count, options.devices)
            plans.append(LoopPlan(branch_name=name, number=number, device=device, contract=contract, data=prepared[key]))
        return plans

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> FarmSummary:
        """All loops, until the last has ended or the farm is stopped."""
        server = FarmServer(self.home, status=self.status, query=self._query, stop=self._stop_from_thread())
        server.start()
        self.event("farm_started", tag=self.options.tag, loops=len(self.plans), researcher=self.options.researcher)
        tasks = [asyncio.create_task(self._run_loop(plan), name=plan.branch_name) for plan in self.plans]
        exporting = asyncio.create_task(self._export_now_and_then())
        try:
            with self._stopped_by_signals(tasks):
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
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
        except (BaselineFailed, InfrastructureFailed) as failure:
            if len(self.plans) == 1:
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
            return f"{options.hours:g} hours have passed"
        if options.experiments is not None and experiments_done(self.store, loop.branch.name) >= options.experiments:
            return f"{options.experiments} experiments are done"
        return self.stopping or None

    @contextlib.contextmanager
    def _stopped_by_signals(self, tasks: "list[asyncio.Task[str]]"):  # type: ignore[no-untyped-def]
        """Ctrl-C and SIGTERM end all loops at once; what was training stays unfinished, for the next start."""
        running = asyncio.get_running_loop()

        def stop() -> None:
            self.stopping = self.stopping or "stopped"
            for task in tasks:
                task.cancel()

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
            worktree = self._start_branch(plan, folder, in_place=in_place)
            branch = self._add_branch(plan, worktree.head())
        else:
            check_same_terms(branch, plan)
            repo, name = self.options.repo, plan.branch_name
            worktree = Worktree.in_place(repo, name) if in_place else Worktree.open(repo, folder, name)
        spec = RunSpec(
            run_id="",
            contract=plan.contract,
            seed=0,
            device=plan.device.torch_device,
            data_folder=str(plan.data.folder),
            run_folder=str(self.home.runs),
            save_model=self.options.samples,
            threads=plan.device.threads,
        )
        settings = LoopSettings(
            spec=spec,
            noise=Noise(sigma=profile_named(plan.contract.profile).sigma),
            rule=self.options.rule,
            baseline_runs=self.options.baseline_runs,
            program=self.options.repo / "program.md",
        )
        return ResearchLoop(
            branch=branch,
            worktree=worktree,
            researcher=researcher,
            store=self.store,
            execute=lambda train_py, spec, report: self.engine.execute(plan.device, train_py, spec, report),
            observer=self,
            settings=settings,
        )

    def _start_branch(self, plan: LoopPlan, folder: Path, *, in_place: bool) -> Worktree:
        options = self.options
        text = head_train_py(options.repo)
        if text is None:
            raise UserError(f"research/train.py isn't committed in {options.repo}: commit it first.")
        edited = uncommitted_train_py(options.repo)
        if edited is not None and options.dirty:
            text = edited
        elif edited is not None and not in_place:
            self.display.say("research/train.py has uncommitted edits: they are left out (--dirty takes them).")
        free_bytes = plan.device.free_bytes if plan.device.kind == "cuda" else None
        if in_place:
            return start_in_place(options.repo, plan.branch_name, plan.contract.profile, free_bytes)
        text, _ = fit_to_profile(text, plan.contract.profile, free_bytes)
        if branch_exists(options.repo, plan.branch_name) and not folder.exists():
            raise UserError(f"The branch {plan.branch_name} exists, but this home doesn't know it: use another --tag.")
        return Worktree.create(options.repo, folder, plan.branch_name, train_py=text)

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
            created=now(),
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
        self.home.log_event("verdict", branch=record.experiment.branch, experiment=record.experiment.id,
                            title=record.experiment.title, decision=record.verdict.decision, val_bpb=record.val_bpb,
                            reason=record.verdict.reason)  # fmt: skip
        self.export()

    def event(self, kind: str, **fields: Any) -> None:
        """Everything else that people may want to know later."""
        self.home.log_event(kind, **fields)
        if kind in ("proposal_failed", "proposal_dropped", "run_lost"):
            self.display.say(f"{kind.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in fields.items()))

    def status(self) -> dict[str, Any]:
        """The answer to `farm status`; called in the server's threads."""
        return {
            "tag": self.options.tag,
            "researcher": self.options.researcher,
            "home": str(self.home.folder),
            "seconds": time.monotonic() - self.began,
            "loops": {name: dict(state) for name, state in list(self.states.items())},
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
        names = tuple(plan.branch_name for plan in self.plans)
        records = [record for name in names for record in self.store.records(name) if record.verdict is not None]
        ideas = [r for r in records if r.experiment.kind != "baseline" and r.verdict and r.verdict.decision != "lost"]
        first = next((r for r in records if r.experiment.kind == "baseline"), None)
        heads = [head.mean for name in names if (head := self.store.head(name)) is not None]
        return FarmSummary(
            branches=names,
            experiments=len(ideas),
            keeps=sum(r.verdict is not None and r.verdict.decision == "keep" for r in ideas),
            baseline=first.val_bpb if first else None,
            best=min(heads, default=None),
            seconds=time.monotonic() - self.began,
            ended=ended,
        )


def prepared_data(contract: Contract, options: FarmOptions, *, say: Callable[[str], None]) -> PreparedData:
    """The data of a contract: what is there, else prepared now. Raises UserError."""
    try:
        return find_prepared(contract, cache=options.cache, num_shards=options.num_shards)
    except UserError:
        shards = DEFAULT_SHARDS if options.num_shards is None else options.num_shards
        return prepare(contract, cache=options.cache, num_shards=shards, say=say)


def branch_for(tag: str, number: int, count: int, devices: tuple[Device, ...]) -> str:
    """`autoresearch/<tag>`; with several loops `-gpu0`, `-gpu1`, ... by device, and `-gpu0-2` for a second loop on one."""
    if count == 1:
        return f"autoresearch/{tag}"
    device = devices[number % len(devices)]
    kind = "gpu" if device.kind == "cuda" else device.kind
    turn = number // len(devices) + 1
    return f"autoresearch/{tag}-{kind}{device.index}" + (f"-{turn}" if turn > 1 else "")


def check_same_terms(branch: Branch, plan: LoopPlan) -> None:
    """A branch goes on only under the terms that it began with, or its scores would not compare. Raises UserError."""
    fresh = "start afresh with another --tag"
    began, asked = json.loads(branch.contract_json), json.loads(plan.contract.to_json())
    for name, old in began.items():
        if old != asked[name]:
            raise UserError(f"{branch.name} began with {name} {old}, not {asked[name]}: ask for that again, or {fresh}.")
    if branch.score_fingerprint != plan.data.score_fingerprint(plan.contract):
        raise UserError(f"{branch.name} was scored with other evaluation rows or another judge: {fresh}.")
    if branch.platform != platform_identity(plan.device):
        raise UserError(f"{branch.name} was measured on {branch.platform}, this is {platform_identity(plan.device)}: {fresh}.")


def experiments_done(store: Store, branch: str) -> int:
    """Experiments with a verdict, baseline and lost ones left out."""
    return sum(
        record.verdict is not None and record.verdict.decision != "lost" and record.experiment.kind != "baseline"
        for record in store.records(branch)
    )


def make_researcher(options: FarmOptions, number: int) -> Researcher:
    """The researcher of loop `number` by its name on the command line. Raises UserError."""
    kind, _, rest = options.researcher.partition(":")
    if kind == "search":
        from agent.search import SearchResearcher

        return SearchResearcher(seed=number)
    if kind == "claude":
        from agent.claude import ClaudeResearcher

        if options.model is None:
            return ClaudeResearcher(max_cost_usd=options.max_cost)
        return ClaudeResearcher(max_cost_usd=options.max_cost, model=options.model)
    if kind == "command" and rest:
        from agent.command import CommandResearcher

        return CommandResearcher(rest)
    if kind == "scripted" and rest:
        from agent.scripted import ScriptedResearcher

        return ScriptedResearcher.from_file(rest)
    raise UserError(f"No researcher is called {options.researcher!r}: search, claude, command:COMMAND or scripted:FILE.")
