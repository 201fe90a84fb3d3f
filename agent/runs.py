"""The runs of a loop's experiments: their specs, their repetition when they are lost, and the next one's speculative start."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from agent.observer import LoopObserver
from agent.proposing import Proposer
from agent.repo.branch_names import experiment_id
from agent.repo.worktree import Worktree
from agent.speculation import SpeculativeStart, StartSpeculatively
from research.contract import Contract
from research.result import RunResult, RunSpec, SandboxMode
from results.experiment import Branch, Experiment
from results.group_state import common_seed
from results.store import Store
from results.time_caps import time_caps

Execute = Callable[[Experiment, str, RunSpec, Callable[[dict[str, Any]], None]], Awaitable[RunResult]]
"""Runs an experiment's train.py with a spec on a device of the branch's platform; calls the function with progress events."""

MAX_TRIES = 5
"""A run that the infrastructure loses is tried this many times; then its experiment is abandoned. One that ends its judge comes
back as a crash before that (cluster/blame.py)."""

TELL_TIMES = 64
"""How many experiments of a branch, its first and its latest, tell how long a run may take to start and to answer."""


class ExperimentRuns:
    """Executes the runs of a branch's experiments."""

    def __init__(self, *, branch: Branch, store: Store, worktree: Worktree, proposer: Proposer, observer: LoopObserver,
                 contract: Contract, sandbox: SandboxMode, save_model: bool, execute: Execute,
                 start_speculatively: StartSpeculatively | None,
                 keep_below: Callable[[int], float | None]) -> None:  # fmt: skip
        """`keep_below` returns the val_bpb above which an idea is not kept under a seed; None without a baseline."""
        self._loop, self._group, self._branch = branch.loop, branch.head_branch, branch.name
        self._store, self._worktree, self._proposer = store, worktree, proposer
        self._observer, self._execute, self._keep_below = observer, execute, keep_below
        self._contract, self._sandbox, self._save_model = contract, sandbox, save_model
        start = start_speculatively
        self._speculation = None if start is None else SpeculativeStart(start, self._next_run)

    async def run(self, experiment: Experiment, index: int) -> RunResult:
        """The experiment's run `index`, under a common seed; `lost` if the infrastructure lost it MAX_TRIES times."""
        train_py = self._worktree.train_py(experiment.commit)
        is_idea = experiment.kind == "explore"
        for _ in range(MAX_TRIES):
            tries = len(self._store.record(experiment.id).runs)
            spec = self._spec(experiment.id, number=experiment.number, index=index, tries=tries, is_idea=is_idea)
            self._observer.on_loop_state(
                self._branch, phase="starting", experiment=experiment.id, title=experiment.title, run=index + 1
            )
            result = await self._execute(experiment, train_py, spec, partial(self._on_progress, spec.run_id))
            self._store.add_run(experiment.id, result)
            if result.status != "lost":
                break
            self._observer.on_event("run_lost", branch=self._branch, run=spec.run_id, reason=result.reason)
        return result

    def _spec(self, experiment: str, *, number: int, index: int, tries: int, is_idea: bool) -> RunSpec:
        """The spec of the experiment's run `index`; `tries` counts its runs so far, lost ones included."""
        seed = common_seed(self._group, self._loop, number, index)
        caps = time_caps(self._runs_that_tell_times() if is_idea else [])
        return RunSpec(
            run_id=f"{experiment}-{tries + 1}",
            contract=self._contract,
            seed=seed,
            keep_below=self._keep_below(seed) if is_idea else None,
            startup_cap=caps.startup,
            answer_cap=caps.answers,
            save_model=self._save_model,
            sandbox=self._sandbox,
        )

    def _runs_that_tell_times(self) -> list[RunResult]:
        """The runs of the branch that `time_caps` follow from: the first ones with a score, and the latest."""
        records = self._store.experiments.of_branch(self._branch)
        half = TELL_TIMES // 2
        told = [*records] if len(records) <= TELL_TIMES else [*records[:half], *records[-half:]]
        return [run for record in told for run in record.runs]

    def _next_run(self) -> tuple[str, RunSpec] | None:
        """The prepared proposal's train.py and the spec that its run will have if the current experiment is discarded."""
        if self._proposer.prepared is None:
            return None
        proposal, _ = self._proposer.prepared
        number = self._store.next_number(self._branch)
        name = experiment_id(self._branch, number)
        return proposal.train_py, self._spec(name, number=number, index=0, tries=0, is_idea=True)

    def _on_progress(self, run_id: str, progress: dict[str, Any]) -> None:
        self._observer.on_loop_state(self._branch, **progress)
        if self._speculation is not None:
            self._speculation.on_progress(run_id, progress)
