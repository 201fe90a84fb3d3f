"""`farm confirm`: a train.py and the untouched one, each under the same fresh seeds, for the report alone.

Both are experiments of the kind `confirm`, which no estimate takes up and no head follows from. What has run is recorded at
once, so that the same command resumes a confirmation that was interrupted.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.repo.branch_names import experiment_id
from agent.runs import MAX_TRIES
from cluster.background import in_background
from cluster.dispatch import NoWorkersLeft
from cluster.display import Display
from cluster.driver import Farm
from cluster.farm_options import FarmOptions
from cluster.home import Home
from cluster.results_files import update_results_tsv
from cluster.resuming import resuming
from cluster.stop_request import STOPPING
from research.contract import Contract
from research.errors import UserError
from research.formatting import counted, duration, utc_now
from research.result import RunResult, RunSpec
from results.confirmation import Difference, baseline_again_verdict, confirmation_lines, difference, tried_verdict
from results.expected_gain import expected_gain
from results.experiment import Branch, Experiment, ExperimentRecord
from results.group_state import seed_named
from results.machine_shares import unequal_sides
from results.store import Store
from results.verdict import scores_of

CONFIRMATION = "confirmation"
"""The kind of the events that record which experiment is confirmed, and under how many seeds."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be confirmed, and what it is compared with."""

    branch: Branch
    tried: Experiment
    """The experiment that made the commit."""
    baseline: Experiment


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two train.py of a confirmation."""

    experiment: Experiment
    train_py: str


def subject_of(store: Store, branch: Branch, experiment: str | None) -> Subject:
    """An experiment, or the head of a branch's group, with the baseline of the branch. Raises UserError."""
    baseline, head = store.baseline(branch.name), store.head(branch.name)
    if baseline is None or head is None:
        begin = resuming(Home(store.home), branch, done=0)
        raise UserError(f"{branch.name} has no baseline with a score yet: `{begin}` measures it.")
    record = store.record(experiment or head.experiment_id)
    tried = record.experiment
    if record.val_bpb is None:
        how = f"it ended as {record.runs[-1].status}" if record.runs else "it has not run"
        raise UserError(f"{tried.id} has no score to confirm: {how}.")
    untouched = store.groups.state(branch.head_branch).patches_at.get(tried.commit) == frozenset()
    if untouched or tried.commit == baseline.experiment.commit:
        what = f"{tried.id} is the baseline" if experiment else f"The head of {branch.name} is still its baseline"
        raise UserError(f"{what}: there is no gain to confirm. An experiment's id confirms that one.")
    return Subject(branch=branch, tried=tried, baseline=baseline.experiment)


async def confirm(options: FarmOptions, subject: Subject, texts: tuple[str, str], *, contract: Contract, seeds: int,
                  display: Display) -> tuple[list[str], bool]:  # fmt: skip
    """Runs what a confirmation still lacks. Returns its result as lines, and whether there is an interval. Raises UserError.

    `texts` are the train.py of the subject and of its baseline.
    """
    farm = await in_background(Farm, options, display)
    try:
        await farm.first_devices()
        confirmation = Confirmation(farm, subject, texts, contract=contract, seeds=seeds)
        await confirmation.run()
        found = confirmation.conclude()
        for line in update_results_tsv(farm.home, farm.store, subject.branch.name):
            display.say(line)
        return found
    except NoWorkersLeft as failure:
        raise UserError(str(failure)) from failure
    except asyncio.CancelledError:
        display.say(STOPPING)
        raise
    finally:
        await farm.close()


class Confirmation:
    """One confirmation: the one of its subject that was interrupted, or a new one with other seeds."""

    def __init__(self, farm: Farm, subject: Subject, texts: tuple[str, str], *, contract: Contract, seeds: int) -> None:
        self._farm, self._store, self._subject, self._contract = farm, farm.store, subject, contract
        interrupted = self._interrupted()
        self.number, self.seeds = interrupted or self._begun(seeds)
        if interrupted is not None and self.seeds != seeds:
            self._say(f"it resumes under {counted(self.seeds, 'seed')}, as it began, and not under {seeds}")
        name, words = subject.tried.id, f"under {counted(self.seeds, 'fresh seed')}"
        self._tried = Side(experiment=self._again(subject.tried, f"{name} {words}"), train_py=texts[0])
        self._baseline = Side(experiment=self._again(subject.baseline, f"the baseline {words}"), train_py=texts[1])

    async def run(self) -> None:
        """Executes the runs that are still due, the two sides in turn, on all devices. Raises UserError or NoWorkersLeft."""
        due = [(side, index) for index in range(self.seeds) for side in (self._tried, self._baseline)
               if not self._is_done(side, index)]  # fmt: skip
        self._say(f"{counted(len(due), 'run')} of {2 * self.seeds} to go{self._time_left(len(due))}")
        runs = [asyncio.create_task(self._run(side, index)) for side, index in due]
        try:
            await asyncio.gather(*runs)
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    def conclude(self) -> tuple[list[str], bool]:
        """Records the verdicts. Returns the result as lines, and whether there is an interval."""
        tried, baseline = (self._store.record(side.experiment.id) for side in (self._tried, self._baseline))
        state = self._store.groups.state(self._subject.branch.head_branch)
        found = expected_gain(state, self._subject.tried.commit)
        assert found is not None, "it has run"
        verdict = tried_verdict(tried.runs, baseline.runs, expected=found.gain, sigma=found.sigma)
        self._store.add_verdict(tried.experiment.id, verdict)
        self._store.add_verdict(baseline.experiment.id, baseline_again_verdict(baseline.runs, sigma=found.sigma))
        scores = scores_of(tried.runs), scores_of(baseline.runs)
        expected = Difference(gain=found.gain, low=found.low, high=found.high)
        lines = confirmation_lines(*scores, expected, name=self._subject.tried.id, sigma=found.sigma)
        unequal = unequal_sides({self._subject.tried.id: tried.runs, "the baseline": baseline.runs})
        return [*lines, *filter(None, [unequal])], difference(*scores) is not None

    # --- one run ----------------------------------------------------------------------------------------------------

    async def _run(self, side: Side, index: int) -> None:
        """Executes a side's run under one seed, again if it is lost. Raises UserError if that happens MAX_TRIES times."""
        experiment, plan = side.experiment, self._farm.local_plans[0]
        for _ in range(MAX_TRIES):
            tries = sum(run.seed == self._seed(index) for run in self._runs(side))
            spec = RunSpec(
                run_id=f"{experiment.id}-{index + 1 + tries * self.seeds}",
                contract=self._contract,
                seed=self._seed(index),
                sandbox=self._farm.options.sandbox,
            )
            report = partial(self._tell, spec.run_id, experiment.title, index)
            try:
                result = await self._farm.execute(plan, experiment, side.train_py, spec, report)
            finally:
                self._farm.events.on_loop_state(spec.run_id, phase="ended")
            self._store.add_run(experiment.id, result)
            if result.status != "lost":
                outcome = result.status if result.val_bpb is None else f"val_bpb {result.val_bpb:.6f}"
                return self._say(f"{experiment.parents[0]}, seed {index + 1} of {self.seeds}: {outcome}")
            self._farm.events.on_event("run_lost", branch=experiment.branch, run=spec.run_id, reason=result.reason)
        raise UserError(f"{experiment.id} was lost {MAX_TRIES} times in a row: {result.reason}; the same command resumes it.")

    def _tell(self, run_id: str, title: str, index: int, progress: dict[str, Any]) -> None:
        self._farm.events.on_loop_state(run_id, **progress, title=title, run=index + 1)

    def _runs(self, side: Side) -> Sequence[RunResult]:
        return self._store.record(side.experiment.id).runs

    def _is_done(self, side: Side, index: int) -> bool:
        return any(run.seed == self._seed(index) and run.status != "lost" for run in self._runs(side))

    def _seed(self, index: int) -> int:
        """A seed that nothing else uses, the same for both sides."""
        return seed_named(f"{self._subject.branch.name} confirm {self.number} {index}")

    def _say(self, text: str) -> None:
        self._farm.display.say(f"confirm {self.number}: {text}")

    def _time_left(self, runs: int) -> str:
        """How long this many runs will take, by those of the subject."""
        seconds = [run.total_seconds for run in self._store.record(self._subject.tried.id).runs if run.total_seconds]
        if not seconds or not runs:
            return ""
        rounds = -(-runs // len(self._farm.local_plans))
        return f", about {duration(rounds * seconds[-1])}"

    # --- what is recorded -------------------------------------------------------------------------------------------

    def _interrupted(self) -> tuple[int, int] | None:
        """The number and the seeds of the subject's confirmation that was interrupted; None if there is none."""
        for event in self._store.events(CONFIRMATION, self._subject.branch.name):
            prefix = f"confirm {event['number']}: "
            sides = [record for record in self._records() if record.experiment.title.startswith(prefix)]
            decided = [record.verdict.decision for record in sides if record.verdict is not None]
            is_over = len(decided) == 2 or "lost" in decided  # a person has abandoned it
            if event["experiment"] == self._subject.tried.id and not is_over:
                return event["number"], event["seeds"]
        return None

    def _begun(self, seeds: int) -> tuple[int, int]:
        """The number and the seeds of a new confirmation, which is recorded now."""
        branch = self._subject.branch.name
        number = len(self._store.events(CONFIRMATION, branch)) + 1
        details = {"branch": branch, "number": number, "experiment": self._subject.tried.id, "seeds": seeds}
        self._store.add_event(CONFIRMATION, details, id=f"{CONFIRMATION} {branch} {number}")
        return number, seeds

    def _records(self) -> list[ExperimentRecord]:
        return [r for r in self._store.records(self._subject.branch.name) if r.experiment.kind == "confirm"]

    def _again(self, experiment: Experiment, what: str) -> Experiment:
        """The experiment that runs a commit again, which is recorded now unless it is already."""
        title, branch = f"confirm {self.number}: {what}", self._subject.branch.name
        for record in self._records():
            if record.experiment.title == title:
                return record.experiment
        number = self._store.next_number(branch)
        new = Experiment(
            id=experiment_id(branch, number),
            branch=branch,
            number=number,
            kind="confirm",
            commit=experiment.commit,
            parent_commit=experiment.commit,
            title=title,
            hypothesis="Whether the gain shows under seeds that have decided nothing.",
            researcher="farm",
            parents=(experiment.id,),
            patches=experiment.patches,
            created=utc_now(),
        )
        self._store.add_experiment(new)
        return new
