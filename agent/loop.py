"""One research loop: propose, commit, train, decide, record, keep or discard, repeat."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.adoption import check_not_reset, commits_to_adopt, is_by_hand, place_on_branch
from agent.compare_programs import changed_constants, program_of
from agent.diff import count_lines, unified_diff
from agent.observer import LoopObserver
from agent.proposing import RETRY_PAUSES_S, Proposer
from agent.refusals import programs_on_same_terms, refusals
from agent.repo.branch_log import FITTED_FROM, message_of
from agent.repo.branch_names import experiment_id
from agent.repo.worktree import Worktree
from agent.researcher import Context, ProposalFailed, Researcher
from agent.runs import MAX_TRIES, Execute, ExperimentRuns
from agent.speculation import StartSpeculatively
from research.contract import Contract
from research.result import RunResult, SandboxMode
from research.text import counted, plain_lines, utc_now
from results.experiment import Branch, Experiment, ExperimentKind, ExperimentRecord, Head, Proposal, Verdict
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
    kept_by_hand,
    replicates_among,
    software_changes,
)

MAX_HYPOTHESIS = 4000
"""Characters of a hypothesis; the rest is cut off."""


class BaselineFailed(Exception):
    """The baseline has no score, so nothing can be compared with it. The text says what to do."""


class InfrastructureFailed(Exception):
    """A baseline was lost MAX_TRIES times in a row, which is not the fault of its train.py."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The settings of a loop."""

    contract: Contract
    sandbox: SandboxMode
    save_model: bool
    """Whether a run that would be kept leaves its model in the run folder."""
    noise: NoisePrior
    rule: Rule
    baseline_runs: int
    program: Path
    """program.md; read again for every proposal, so that people can edit it while the farm runs."""
    retry_pauses_s: tuple[float, float] = RETRY_PAUSES_S
    """Seconds before a researcher that failed is asked again: at first, and at most."""
    fit: Callable[[str], str] = str
    """Sets the profile's starting hyperparameters in a train.py that a person committed for another profile."""


class ResearchLoop:
    """A branch's loop. All of its state is in the store, so it can be killed at any line and resumed."""

    def __init__(self, *, branch: Branch, worktree: Worktree, researcher: Researcher, store: Store, execute: Execute,
                 start_speculatively: StartSpeculatively | None, observer: LoopObserver,
                 settings: LoopSettings) -> None:  # fmt: skip
        """If `start_speculatively` is None, no run is started before it is requested."""
        self.branch, self.worktree, self.store = branch, worktree, store
        self.observer, self.settings = observer, settings
        self._proposer = Proposer(branch=branch.name, researcher=researcher, worktree=worktree, store=store,
                                  observer=observer, context=self.context,
                                  head_train_py=lambda: worktree.train_py(self.head().commit),
                                  pauses_s=settings.retry_pauses_s)  # fmt: skip
        self._runs = ExperimentRuns(branch=branch.name, store=store, worktree=worktree, proposer=self._proposer,
                                    observer=observer, contract=settings.contract, sandbox=settings.sandbox,
                                    save_model=settings.save_model, execute=execute,
                                    start_speculatively=start_speculatively, keep_below=self._keep_below)  # fmt: skip

    async def start(self) -> list[ExperimentRecord]:
        """Resumes the loop: finishes experiments that were cut off, moves the branch to its last keep again, measures the
        baseline if there is none, and adopts a person's commits. Returns what had been cut off, and what was adopted.

        Raises BaselineFailed or InfrastructureFailed, and UserError if somebody has reset the branch.
        """
        measured = self.store.head(self.branch.name)
        if measured is not None:
            check_not_reset(self.worktree, measured)
        unfinished = self.store.unfinished(self.branch.name)
        finished = [await self._train_and_conclude(record.experiment, record.runs) for record in unfinished]
        if self.store.head(self.branch.name) is None:
            first = not self.store.records(self.branch.name)  # later, one that failed has been mended on the branch
            commit = self.branch.baseline_commit if first else self.worktree.head()
            await self._train_and_conclude(self._add_unchanged("baseline", "baseline", commit), ())
        adopted = await self.adopt()
        head = self.head()
        self._move_to(head.commit)
        self._write_results_tsv()
        self.observer.on_loop_state(self.branch.name, baseline=self._baseline().val_bpb, best=head.mean)
        return [*finished, *adopted]

    async def step(self) -> ExperimentRecord:
        """One experiment, from the idea to the verdict. Raises OutOfIdeas or BudgetSpent when there is no next idea.

        If the software has changed since the baseline was measured, the experiment is a control: the baseline again.
        """
        await self.adopt()
        changes = software_changes(self.store.records(self.branch.name))
        if changes:
            again = self._add_unchanged("control", f"baseline again: {changes}", self._baseline().experiment.commit)
            return await self._train_and_conclude(again, ())
        proposal = await self._proposer.next()
        experiment = self.commit(proposal, kind="explore")
        self._proposer.prepare()
        return await self._train_and_conclude(experiment, ())

    async def try_now(self, proposal: Proposal) -> ExperimentRecord:
        """One experiment with an idea from outside: `farm try`."""
        return await self._train_and_conclude(self.commit(proposal, kind="manual"), ())

    async def try_again(self, earlier: ExperimentRecord, proposal: Proposal) -> ExperimentRecord:
        """Another run of the program that `earlier` tried, under another seed.

        It becomes a run of that experiment where that is the head or was tried on it; a new experiment elsewhere.
        """
        head, experiment = self.head(), earlier.experiment
        if experiment.commit == head.commit and experiment.kind != "baseline":  # it was decided against another head
            await self._runs.run(experiment, len(earlier.runs))
            self._write_results_tsv()
            return self.store.record(experiment.id)
        if head.commit in (experiment.commit, experiment.parent_commit) and experiment.branch == self.branch.name:
            return await self._train_and_conclude(experiment, earlier.runs, again=True)
        return await self.try_now(replace(proposal, parents=(experiment.id,)))

    async def adopt(self) -> list[ExperimentRecord]:
        """Makes an experiment of each commit that a person made on the branch: runs it once, keeps it if it has a score."""
        commits = commits_to_adopt(self.worktree, self.head(), self.store.records(self.branch.name))
        if commits:
            self.observer.on_event("adopting", branch=self.branch.name, commits=counted(len(commits), "commit"))
        return [await self._train_and_conclude(self._add_by_hand(commit), ()) for commit in commits]

    async def close(self) -> None:
        """Drops the prepared proposal. An experiment that was training stays unfinished until the next start."""
        await self._proposer.close()

    def head(self) -> Head:
        """The branch's head."""
        head = self.store.head(self.branch.name)
        assert head is not None, "the baseline comes first"
        return head

    def noise(self) -> Noise:
        """The noise of a score on this branch: the prior, updated by the branch's replicates."""
        return estimate_noise(self.settings.noise, replicates_among(self.store.records(self.branch.name)))

    def context(self) -> Context:
        """What the researcher is shown. Raises ProposalFailed if program.md can't be read."""
        head = self.head()
        return Context(
            branch=self.branch,
            head=head,
            train_py=self.worktree.train_py(head.commit),
            records=tuple(r for r in self.store.records(self.branch.name) if r.experiment.kind != "control"),
            sigma=self.noise().sigma,
            program=read_policy(self.settings.program),
            query=lambda sql: self.store.query(sql, audience="agent").to_text(),
            charge=partial(self.store.add_answer, self.branch.name),
            spent_usd=partial(self.store.spent_usd, self.branch.tag),
            programs=programs_on_same_terms(self.store, self.branch),
            refused=refusals(self.store, self.branch.name),
        )

    # --- experiments ------------------------------------------------------------------------------------------------

    def commit(self, proposal: Proposal, *, kind: ExperimentKind) -> Experiment:
        """Commits a proposal under refs/experiments/<id>, and records it."""
        proposal = replace(proposal, hypothesis=plain_lines(proposal.hypothesis, MAX_HYPOTHESIS))
        name = experiment_id(self.branch.name, self.store.next_number(self.branch.name))
        parent = self.worktree.head()  # the head, or a person's commits on it that have no score or leave train.py alone
        commit = self.worktree.commit(proposal.train_py, message=commit_message(proposal), parent=parent, experiment_id=name)
        return self._add_idea(proposal, commit, kind=kind)

    def _add_by_hand(self, commit: str) -> Experiment:
        """Records a person's commit as an experiment, fitted to the profile by a commit on top if it was made for another."""
        name = experiment_id(self.branch.name, self.store.next_number(self.branch.name))
        title, hypothesis = message_of(self.worktree.repo, commit)
        text = self.worktree.train_py(commit)
        fitted = self.settings.fit(text)
        if fitted == text:
            self.worktree.name_experiment(commit, name)
        else:
            message = f"{title}: the profile's starting hyperparameters\n\n{FITTED_FROM}: {commit}\n"
            commit = self.worktree.commit(fitted, message=message, parent=commit, experiment_id=name)
        hypothesis = plain_lines(hypothesis, MAX_HYPOTHESIS)
        proposal = Proposal(title=title or commit[:7], hypothesis=hypothesis, train_py=fitted, researcher="you")
        return self._add_idea(proposal, commit, kind="manual")

    def _add_idea(self, proposal: Proposal, commit: str, *, kind: ExperimentKind) -> Experiment:
        """Records a commit as an experiment on the head."""
        head = self.head()
        number = self.store.next_number(self.branch.name)
        before = self.worktree.train_py(head.commit)
        diff = unified_diff(before, proposal.train_py)
        added, removed = count_lines(diff)
        experiment = Experiment(
            id=experiment_id(self.branch.name, number),
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
            program=program_of(proposal.train_py),
            lines_added=added,
            lines_removed=removed,
            usage=proposal.usage,
            created=utc_now(),
        )
        self.store.add_experiment(experiment)
        return experiment

    def _add_unchanged(self, kind: ExperimentKind, title: str, commit: str) -> Experiment:
        """Records an existing commit as an experiment: a baseline or a control."""
        number = self.store.next_number(self.branch.name)  # 0, unless an earlier baseline failed
        experiment = Experiment(
            id=experiment_id(self.branch.name, number),
            branch=self.branch.name,
            number=number,
            kind=kind,
            commit=commit,
            parent_commit=commit,
            title=title,
            hypothesis="The score to beat.",
            program=program_of(self.worktree.train_py(commit)),
            researcher="farm",
            created=utc_now(),
        )
        self.store.add_experiment(experiment)
        return experiment

    async def _train_and_conclude(
        self, experiment: Experiment, runs: tuple[RunResult, ...], *, again: bool = False
    ) -> ExperimentRecord:
        """Does the runs that are still due, one more with `again`, decides, records, and keeps or discards."""
        runs = tuple(run for run in runs if run.status != "lost")
        due = self.settings.baseline_runs if experiment.kind == "baseline" else 1
        while again or (len(runs) < due and all(run.status == "ok" for run in runs)):
            again = False
            run = await self._runs.run(experiment, len(runs))
            if experiment.kind == "baseline" and run.status == "lost":
                raise InfrastructureFailed(f"{experiment.id} was lost {MAX_TRIES} times in a row: {run.reason}")
            runs = (*runs, run)
        verdict = self._decide(experiment, runs)
        if is_by_hand(self.worktree, experiment):
            verdict = kept_by_hand(verdict)
        self.store.add_verdict(experiment.id, verdict)
        if experiment.kind == "baseline" and verdict.decision != "keep":
            raise BaselineFailed(
                f"the committed research/train.py ({experiment.commit[:7]}) can't be measured: {verdict.reason}; "
                "fix and commit it, then run the same command again"
            )
        if verdict.decision == "keep":
            self._move_to(experiment.commit)
        self._write_results_tsv()
        record = self.store.record(experiment.id)
        self.observer.on_verdict(record)
        return record

    def _move_to(self, commit: str) -> None:
        """Moves the branch to a keep, unless a person's commits on top of it are there already."""
        if place_on_branch(self.worktree, commit) in (None, self.worktree.head()):
            self.worktree.advance(commit)

    def _decide(self, experiment: Experiment, runs: tuple[RunResult, ...]) -> Verdict:
        if experiment.kind == "baseline":
            return baseline_verdict(runs, self.settings.noise)
        if experiment.kind == "control":
            return control_verdict(runs, self._baseline(), self.noise())
        net_lines = experiment.lines_added - experiment.lines_removed
        return decide(runs, self.head(), self.noise(), net_lines=net_lines, rule=self.settings.rule)

    def _keep_below(self, net_lines: int) -> float | None:
        """The val_bpb below which an edit is kept that adds `net_lines` lines; None while there is no baseline."""
        head = self.store.head(self.branch.name)
        return None if head is None else keep_threshold(head, self.noise(), net_lines, rule=self.settings.rule)

    # --- what is known ----------------------------------------------------------------------------------------------

    def _baseline(self) -> ExperimentRecord:
        """The branch's baseline as it was measured."""
        baseline = self.store.baseline(self.branch.name)
        assert baseline is not None, "the baseline comes first"
        return baseline

    def _write_results_tsv(self) -> None:
        """Writes results.tsv into the worktree, untracked."""
        records = self.store.records(self.branch.name)
        aside = write_results_tsv(self.worktree.folder / "results.tsv", records)
        if aside is not None:
            self.observer.on_event("moved_aside", branch=self.branch.name, file=str(aside))


def read_policy(path: Path) -> str:
    """The text of program.md, empty if there is none. Bytes that are not UTF-8 are read as Latin-1.

    Raises ProposalFailed if the file is there and can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ProposalFailed(f"{path} can't be read ({error.strerror}): mend it, and the loop goes on.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin-1", errors="replace")


def commit_message(proposal: Proposal) -> str:
    """The title, the hypothesis, and who proposed it."""
    return f"{proposal.title}\n\n{proposal.hypothesis}\n\nResearcher: {proposal.researcher}\n"


def constants_changed(before: str, after: str) -> dict[str, Any]:
    """The constants that an edit changed; empty if either text doesn't parse."""
    try:
        return changed_constants(before, after)
    except SyntaxError:
        return {}
