"""One research loop: propose, commit, train, decide, record, keep or discard; again."""

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agent.patch import changed_constants, count_lines, unified_diff
from agent.rebase import rebased
from agent.repo.worktree import Worktree
from agent.researcher import Context, ProposalFailed, Researcher
from research.result import RunResult, RunSpec
from research.text import utc_now
from results.experiment import Branch, Experiment, ExperimentKind, ExperimentRecord, Head, Proposal
from results.plot import write_progress_png
from results.store import Store
from results.tsv import write_results_tsv
from results.verdict import (
    Noise,
    NoisePrior,
    Rule,
    baseline_verdict,
    control_verdict,
    decide,
    estimate_noise,
    keep_threshold,
    replicates_among,
    software_changes,
)

Execute = Callable[[Experiment, str, RunSpec, Callable[[dict[str, Any]], None]], Awaitable[RunResult]]
"""Runs an experiment's train.py by a spec on a device of the branch's platform; is called with progress events meanwhile."""

StartAhead = Callable[[str, str, RunSpec], None]
"""Gets a run ready, by its train.py and spec, that will probably be asked for when the run of that id has ended."""

LOST_RETRIES = 5
"""A run that the infrastructure lost is put in line this often before its experiment is given up."""

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
"""Seconds between questions to a researcher that failed; doubled each time."""


class InfrastructureFailed(Exception):
    """A baseline was lost LOST_RETRIES times in a row: not its fault, and not the loop's to mend."""


class Observer(Protocol):
    """Who is told what a loop does. `cluster/display.py` shows it, the driver logs it."""

    def loop_state(self, branch: str, **fields: Any) -> None: ...

    def verdict(self, record: ExperimentRecord) -> None: ...

    def event(self, kind: str, **fields: Any) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What a loop is given beside its parts."""

    spec: RunSpec
    """Contract, device, data and threads of every run; its run_folder is where run folders are made."""
    noise: NoisePrior
    rule: Rule
    baseline_runs: int
    program: Path
    """program.md: read anew for every proposal, so that people can edit it while the farm runs."""


class ResearchLoop:
    """A branch's loop. Everything that it knows is in the store, so that it can be stopped at any line and go on."""

    def __init__(self, *, branch: Branch, worktree: Worktree, researcher: Researcher, store: Store, execute: Execute,
                 start_ahead: StartAhead | None, observer: Observer, settings: LoopSettings) -> None:  # fmt: skip
        self.branch, self.worktree, self.researcher, self.store = branch, worktree, researcher, store
        self.execute, self.start_ahead, self.observer, self.settings = execute, start_ahead, observer, settings
        self._prepared: asyncio.Task[tuple[Proposal, str]] | None = None
        self._ahead_of = ""
        """The run that the next one was announced beside."""

    async def start(self) -> list[ExperimentRecord]:
        """Goes on where the loop was: finishes what was cut off, redoes the last keep, measures the baseline.

        Returns what had been cut off.
        """
        unfinished = self.store.unfinished(self.branch.name)
        finished = [await self._train_and_conclude(record.experiment, record.runs) for record in unfinished]
        if self.store.head(self.branch.name) is None:
            await self._train_and_conclude(self._add_unchanged("baseline", "baseline", self.worktree.head()), ())
        head = self.head()
        self.worktree.advance(head.commit)
        self._write_files()
        self._state(baseline=self._baseline().val_bpb, best=head.mean)
        return finished

    async def step(self) -> ExperimentRecord:
        """One experiment, from the idea to the verdict. Raises OutOfIdeas or BudgetSpent when there is no next idea.

        Where the software has changed since the baseline was measured, the experiment is the baseline once more.
        """
        changes = software_changes(self.store.records(self.branch.name))
        if changes:
            again = self._add_unchanged("control", f"baseline again: {changes}", self._baseline().experiment.commit)
            return await self._train_and_conclude(again, ())
        proposal = await self._next_proposal()
        experiment = self.commit(proposal, kind="explore")
        self._prepare_next()
        return await self._train_and_conclude(experiment, ())

    async def try_now(self, proposal: Proposal) -> ExperimentRecord:
        """One experiment with an idea from outside: `farm try`."""
        return await self._train_and_conclude(self.commit(proposal, kind="manual"), ())

    async def close(self) -> None:
        """Drops the prepared proposal. The experiment that was training stays unfinished, for the next start."""
        if self._prepared is not None:
            self._prepared.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._prepared
        await self.researcher.close()

    def head(self) -> Head:
        """The branch's head."""
        head = self.store.head(self.branch.name)
        assert head is not None, "the baseline comes first"
        return head

    def noise(self) -> Noise:
        """What chance does to a score here: what was expected, and what the branch's replicates show."""
        return estimate_noise(self.settings.noise, replicates_among(self.store.records(self.branch.name)))

    def _baseline(self) -> ExperimentRecord:
        """The baseline as it was measured."""
        baseline = self.store.baseline(self.branch.name)
        assert baseline is not None, "the baseline comes first"
        return baseline

    # --- proposing --------------------------------------------------------------------------------------------------

    async def _next_proposal(self) -> Proposal:
        """The proposal that was prepared while the last run trained, moved onto the head where that has changed; else a
        new one."""
        if self._prepared is not None:
            prepared, self._prepared = self._prepared, None
            self._state(phase="proposing")
            proposal, base = await prepared
            moved = rebased(proposal, self.worktree.train_py(base), self.worktree.train_py(self.head().commit))
            if moved is not None:
                return moved
            self.observer.event("proposal_dropped", branch=self.branch.name, title=proposal.title)
            self.store.add_event("proposal_dropped", {"branch": self.branch.name, "title": proposal.title,
                                                      "cost_usd": proposal.usage.cost_usd})  # fmt: skip
        self._state(phase="proposing")
        return (await self._propose())[0]

    def _prepare_next(self) -> None:
        """Asks for the next proposal while this one trains, on the guess that it is discarded (most are)."""
        self._prepared = asyncio.create_task(self._propose())

    async def _propose(self) -> tuple[Proposal, str]:
        """A proposal and the commit that it edits; asks again, ever more slowly, while the researcher fails."""
        pause = FIRST_PAUSE
        while True:
            context = self.context()
            try:
                return await self.researcher.propose(context), context.head.commit
            except ProposalFailed as failure:
                self.observer.event("proposal_failed", branch=self.branch.name, reason=str(failure), again_in_s=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def context(self) -> Context:
        """What the researcher is shown."""
        head = self.head()
        return Context(
            branch=self.branch,
            head=head,
            train_py=self.worktree.train_py(head.commit),
            records=tuple(r for r in self.store.records(self.branch.name) if r.experiment.kind != "control"),
            sigma=self.noise().sigma,
            program=self.settings.program.read_text() if self.settings.program.is_file() else "",
            query=self._query,
        )

    def _query(self, sql: str) -> str:
        return self.store.query(sql, audience="agent").to_text()

    # --- experiments ------------------------------------------------------------------------------------------------

    def commit(self, proposal: Proposal, *, kind: ExperimentKind) -> Experiment:
        """Commits a proposal under refs/experiments/<id>, and puts it on record."""
        head = self.head()
        number = self.store.next_number(self.branch.name)
        experiment_id = self._experiment_id(number)
        commit = self.worktree.commit(
            proposal.train_py, message=commit_message(proposal), parent=head.commit, experiment_id=experiment_id
        )
        before = self.worktree.train_py(head.commit)
        diff = unified_diff(before, proposal.train_py)
        added, removed = count_lines(diff)
        experiment = Experiment(
            id=experiment_id,
            branch=self.branch.name,
            number=number,
            kind=kind,
            commit=commit,
            parent_commit=head.commit,
            title=proposal.title,
            hypothesis=proposal.hypothesis,
            researcher=proposal.researcher,
            parents=proposal.parents,
            changes=proposal.changes or constants_changed(before, proposal.train_py),
            diff=diff,
            lines_added=added,
            lines_removed=removed,
            usage=proposal.usage,
            created=utc_now(),
        )
        self.store.add_experiment(experiment)
        return experiment

    def _add_unchanged(self, kind: ExperimentKind, title: str, commit: str) -> Experiment:
        """The commit that the branch starts from as an experiment."""
        number = self.store.next_number(self.branch.name)  # 0, unless an earlier baseline failed
        experiment = Experiment(
            id=self._experiment_id(number),
            branch=self.branch.name,
            number=number,
            kind=kind,
            commit=commit,
            parent_commit=commit,
            title=title,
            hypothesis="The score to beat.",
            researcher="farm",
            created=utc_now(),
        )
        self.store.add_experiment(experiment)
        return experiment

    def _experiment_id(self, number: int) -> str:
        return f"{self.branch.name.removeprefix('autoresearch/')}-{number:04d}"

    async def _train_and_conclude(self, experiment: Experiment, runs: tuple[RunResult, ...]) -> ExperimentRecord:
        """Does the runs that are still due, decides, records, and keeps or discards."""
        runs = tuple(run for run in runs if run.status != "lost")
        due = self.settings.baseline_runs if experiment.kind == "baseline" else 1
        while len(runs) < due and all(run.status == "ok" for run in runs):
            run = await self._run(experiment, len(runs))
            runs = (*runs, run)
        record = self._decide(experiment, runs)
        if record.verdict is not None and record.verdict.decision == "keep":
            self.worktree.advance(experiment.commit)
        self._write_files()
        self.observer.verdict(record)
        return record

    async def _run(self, experiment: Experiment, index: int) -> RunResult:
        """One run with a seed of its own; repeated when the infrastructure loses it."""
        train_py = self.worktree.train_py(experiment.commit)
        for _ in range(LOST_RETRIES):
            tries = len(self.store.record(experiment.id).runs)
            net_lines = experiment.lines_added - experiment.lines_removed
            spec = self._spec(experiment.id, index=index, tries=tries, net_lines=net_lines)
            run_id = spec.run_id
            self._state(phase="starting", experiment=experiment.id, title=experiment.title, run=index + 1)
            result = await self.execute(experiment, train_py, spec, partial(self._note_progress, run_id))
            self.store.add_run(experiment.id, result)
            if result.status != "lost":
                return result
            self.observer.event("run_lost", branch=self.branch.name, run=run_id, reason=result.reason)
        if experiment.kind == "baseline":
            raise InfrastructureFailed(f"{experiment.id} was lost {LOST_RETRIES} times in a row: {result.reason}")
        return result

    def _spec(self, experiment_id: str, *, index: int, tries: int, net_lines: int) -> RunSpec:
        """Of an experiment's run number `index`, with a seed of its own, after `tries` runs of any end."""
        run_id = f"{experiment_id}-{tries + 1}"
        head = self.store.head(self.branch.name)
        return replace(
            self.settings.spec,
            run_id=run_id,
            run_folder=str(Path(self.settings.spec.run_folder) / run_id),
            seed=zlib.crc32(f"{experiment_id} {index}".encode()),
            # the score that would be kept; None (check everything) for a baseline
            keep_below=None if head is None else keep_threshold(head, self.noise(), net_lines, rule=self.settings.rule),
        )

    def _note_progress(self, run_id: str, progress: dict[str, Any]) -> None:
        self._state(**progress)
        if self.start_ahead is not None and progress.get("phase") == "scoring" and run_id != self._ahead_of:
            self._announce_next(run_id, self.start_ahead)

    def _announce_next(self, run_id: str, start_ahead: StartAhead) -> None:
        """While a run is scored, has the prepared proposal's run started ahead, on the guess that this one is discarded."""
        prepared = self._prepared
        if prepared is None or not prepared.done() or prepared.cancelled() or prepared.exception():
            return
        proposal, base = prepared.result()
        added, removed = count_lines(unified_diff(self.worktree.train_py(base), proposal.train_py))
        next_id = self._experiment_id(self.store.next_number(self.branch.name))
        self._ahead_of = run_id
        start_ahead(run_id, proposal.train_py, self._spec(next_id, index=0, tries=0, net_lines=added - removed))

    def _decide(self, experiment: Experiment, runs: tuple[RunResult, ...]) -> ExperimentRecord:
        if experiment.kind == "baseline":
            verdict = baseline_verdict(runs, self.settings.noise)
        elif experiment.kind == "control":
            verdict = control_verdict(runs, self._baseline(), self.noise())
        else:
            verdict = decide(
                runs,
                self.head(),
                self.noise(),
                net_lines=experiment.lines_added - experiment.lines_removed,
                rule=self.settings.rule,
            )
        self.store.add_verdict(experiment.id, verdict)
        if experiment.kind == "baseline" and verdict.decision != "keep":
            raise BaselineFailed(
                f"research/train.py as it is committed ({experiment.commit[:7]}) can't be measured: {verdict.reason}; "
                "mend and commit it, then give the same command again"
            )
        return self.store.record(experiment.id)

    def _write_files(self) -> None:
        """results.tsv and progress.png in the worktree, untracked."""
        records = self.store.records(self.branch.name)
        write_results_tsv(self.worktree.folder / "results.tsv", records)
        write_progress_png(self.worktree.folder / "progress.png", records, title=self.branch.name)

    def _state(self, **fields: Any) -> None:
        self.observer.loop_state(self.branch.name, **fields)


class BaselineFailed(Exception):
    """Nothing can be compared with a baseline that has no score."""


def commit_message(proposal: Proposal) -> str:
    """Title, hypothesis, and who proposed it."""
    return f"{proposal.title}\n\n{proposal.hypothesis}\n\nResearcher: {proposal.researcher}\n"


def constants_changed(before: str, after: str) -> dict[str, Any]:
    """Constants that an edit changed; empty where a text doesn't parse."""
    try:
        return changed_constants(before, after)
    except SyntaxError:
        return {}
