"""One research loop: propose, commit, train, decide, record, keep or discard, repeat."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.adoption import check_not_reset, is_by_hand, put_in_by, taken_out_by, was_committed
from agent.decisions import BASELINE_AGAIN, Decisions
from agent.follow_ups import next_follow_up
from agent.head_following import HeadFollower
from agent.loop_context import LoopContext
from agent.loop_steering import LoopPaused, LoopSteering
from agent.new_experiments import NewExperiments
from agent.observer import LoopObserver
from agent.proposing import RETRY_PAUSES_S, Proposer
from agent.repo.worktree import Worktree
from agent.researcher import Context, OutOfIdeas, ProposalFailed, Researcher
from agent.results_table import ResultsTable, write_due
from agent.runs import MAX_TRIES, Execute, ExperimentRuns
from agent.shared_research import SharedResearch, is_still_wanted, read_due_merge
from agent.speculation import StartSpeculatively
from agent.submissions import SubmissionQueue
from research.contract import Contract
from research.formatting import counted
from research.result import RunResult, SandboxMode
from results.experiment import Branch, Experiment, ExperimentRecord, Head, Proposal
from results.group_entries import COMMITTED_BY_A_PERSON, DROPPED_BY_A_PERSON
from results.steering import PLATEAU_IDEAS
from results.store import Store
from results.verdict import (
    LINE_PRICE,
    NoisePrior,
    Rule,
    no_longer_wanted,
    software_changes,
)

LATEST = 16
"""How many of a branch's latest experiments tell which software there is now."""


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
    line_price: float = LINE_PRICE
    """The gain in bpb that each net added line must bring."""
    memory_cap_mb: float | None = None
    """The most peak memory in MiB that an idea may need to be kept; None: no cap."""
    runs_folder: Path
    """The folder of the runs' files, each in a folder named by its run's id."""
    program: Path
    """program.md; read again for every proposal, so that people can edit it while the farm runs."""
    retry_pauses_s: tuple[float, float] = RETRY_PAUSES_S
    """Seconds before a researcher that failed is asked again: at first, and at most."""
    plateau_ideas: int = PLATEAU_IDEAS
    """How many ideas of the group without a keep are a plateau."""
    fit: Callable[[str], str] = str
    """Sets the profile's starting hyperparameters in a train.py that a person committed for another profile."""


class ResearchLoop:
    """A branch's loop. All of its state is in the store, so it can be killed at any line and resumed."""

    def __init__(self, *, branch: Branch, worktree: Worktree, researcher: Researcher, store: Store, shared: SharedResearch,
                 execute: Execute, start_speculatively: StartSpeculatively | None, observer: LoopObserver,
                 settings: LoopSettings, stopgap: Researcher | None = None) -> None:  # fmt: skip
        """`shared` is that of the branch's group. If `start_speculatively` is None, no run starts before it is requested.

        The `stopgap` has ideas while the researcher fails or is slow; None: the loop waits.
        """
        self.branch, self.worktree, self.store, self.shared = branch, worktree, store, shared
        self.observer, self.settings = observer, settings
        self.steering = LoopSteering(branch=branch.name, group=shared.group, researcher=researcher.name, store=store,
                                     suggestions=shared.suggestions, plateau_ideas=settings.plateau_ideas)  # fmt: skip
        self._table = ResultsTable(branch=branch.name, folder=worktree.folder, store=store, observer=observer)
        shared.tables[branch.name] = self._table
        self._follower = HeadFollower(branch=branch, worktree=worktree, store=store, shared=shared, observer=observer)
        self._new = NewExperiments(branch=branch, store=store, worktree=worktree, shared=shared,
                                   line_price=settings.line_price, fit=settings.fit)  # fmt: skip
        self._decisions = Decisions(branch=branch.name, store=store, shared=shared, observer=observer,
                                    noise=settings.noise, rule=settings.rule, baseline_runs=settings.baseline_runs,
                                    memory_cap_mb=settings.memory_cap_mb, runs_folder=settings.runs_folder)  # fmt: skip
        self._shown = LoopContext(branch=branch, worktree=worktree, store=store, shared=shared, steering=self.steering,
                                  sigma=self._decisions.sigma, program=settings.program,
                                  runs_folder=settings.runs_folder, memory_cap_mb=settings.memory_cap_mb)  # fmt: skip
        self._proposer = Proposer(branch=branch.name, researcher=researcher, store=store, observer=observer,
                                  context=self.context, stopgap=stopgap, reader=shared.reader,
                                  head_train_py=lambda: worktree.train_py(self.head().commit),
                                  submissions=SubmissionQueue(branch=branch, store=store, observer=observer,
                                                              text_at=worktree.train_py, reader=shared.reader),
                                  pauses_s=settings.retry_pauses_s)  # fmt: skip
        self._runs = ExperimentRuns(branch=branch, store=store, worktree=worktree, proposer=self._proposer,
                                    observer=observer, contract=settings.contract, sandbox=settings.sandbox,
                                    save_model=settings.save_model, execute=execute,
                                    start_speculatively=start_speculatively, keep_below=self._decisions.keep_below)  # fmt: skip

    async def start(self) -> list[ExperimentRecord]:
        """Resumes the loop: finishes experiments that were cut off, moves the branch to its head again, measures the
        baseline if there is none, and adopts a person's commits. Returns what had been cut off, and what was adopted.

        Raises BaselineFailed or InfrastructureFailed, and UserError if somebody has reset the branch.
        """
        head = self.shared.head()
        if head is not None:
            check_not_reset(self.worktree, (head, *reversed(self.store.groups.heads(self.shared.group))))
        unfinished = []
        for record in self.store.unfinished(self.branch.name):
            if is_still_wanted(self.shared, record):
                unfinished.append(record)
            else:
                self.store.add_verdict(record.experiment.id, no_longer_wanted())
        finished = [await self._train_and_conclude(record.experiment, record.runs) for record in unfinished]
        if self.store.baseline(self.branch.name) is None:
            await self._measure_baseline()
        self.shared.settle()
        adopted = await self.adopt()
        self._follower.take(self.head())
        self._table.write([] if self.worktree.owned else records_of_others(self.store, self.branch.name))
        return [*finished, *adopted]

    async def step(self) -> ExperimentRecord:
        """One experiment: a run that the policy asks for, else an idea. Raises OutOfIdeas, BudgetSpent or LoopPaused.

        If the software has changed since the baseline was measured, the experiment is a control: the baseline again.
        """
        self._follower.mend()
        await self.adopt()
        self._follower.follow()
        await read_due_merge(self.shared)
        experiment = self._control_of_software() or self._requested() or await self._idea()
        return await self._train_and_conclude(experiment, ())

    async def finish(self) -> ExperimentRecord | None:
        """Verifies what has been put together and is not verified yet, since a head is not left for the next session; and runs
        the baseline again where a person asks for that. Returns the last record; None if nothing was due.
        """
        last = None
        await read_due_merge(self.shared, last=True)
        while (request := self.shared.last_run()) is not None:
            last = await self._train_and_conclude(self._new.of_request(request), ())
            await read_due_merge(self.shared, last=True)
        return last

    async def run_requested(self) -> ExperimentRecord | None:
        """The next run that a person has asked for, or that what they asked for leads to; None if there is none."""
        experiment = self._requested()
        return None if experiment is None else await self._train_and_conclude(experiment, ())

    async def try_now(self, proposal: Proposal) -> ExperimentRecord:
        """One experiment with an idea from outside: `farm try`."""
        return await self._train_and_conclude(self._new.of_proposal(proposal, kind="manual"), ())

    async def try_again(self, earlier: ExperimentRecord, proposal: Proposal) -> ExperimentRecord:
        """Another run of the program that `earlier` tried, under another seed.

        It becomes a run of that experiment where that is of this group; a new experiment elsewhere.
        """
        experiment = earlier.experiment
        if self.is_of_group(experiment):
            return await self._train_and_conclude(experiment, earlier.runs, again=True)
        return await self.try_now(replace(proposal, parents=(experiment.id,)))

    def is_of_group(self, experiment: Experiment) -> bool:
        """Whether a loop of this loop's group made an experiment."""
        return experiment.branch in [branch.name for branch in self.store.groups.members(self.shared.group)]

    async def adopt(self) -> list[ExperimentRecord]:
        """Makes an experiment of each commit that a person made on the branch: runs it once, keeps it if it has a score."""
        commits = self._follower.commits_to_adopt()
        if commits:
            self.observer.on_event("adopting", branch=self.branch.name, commits=counted(len(commits), "commit"))
        new = (self._new.of_commit_by_hand(commit, on=self._follower.own_head() or self.head()) for commit in commits)
        return [await self._train_and_conclude(experiment, ()) for experiment in new]

    def follow_head(self) -> None:
        """Moves the branch to the head of its group, which other loops may have moved since this one's last step."""
        self._follower.follow()

    async def close(self) -> None:
        """Withdraws the prepared proposal. An experiment that was training stays unfinished until the next start."""
        await self._proposer.close()
        self._table.close()

    def head(self) -> Head:
        """The head of the branch's group."""
        head = self.shared.head()
        assert head is not None, "the baseline comes first"
        return head

    def context(self) -> Context:
        """What the researcher is shown. Raises ProposalFailed if program.md can't be read."""
        return self._shown.on(self.head())

    # --- what comes next --------------------------------------------------------------------------------------------

    def _control_of_software(self) -> Experiment | None:
        """The baseline again, if the software has changed since it was measured."""
        changes = latest_software_changes(self.store, self.branch.name)
        if not changes:
            return None
        title, commit = f"{BASELINE_AGAIN}: {changes}", self._decisions.baseline().experiment.commit
        return self._new.of_commit("control", title, commit, hypothesis="Whether earlier scores still compare.")

    def _requested(self) -> Experiment | None:
        """The run that the policy or a person asks for now."""
        request = self.shared.next_run()
        return None if request is None else self._new.of_request(request)

    async def _idea(self) -> Experiment:
        """A submitted idea, a follow-up, the researcher's or the first run of a wave. Raises OutOfIdeas, LoopPaused."""
        try:
            proposal = await self._proposer.submitted() or await self._follow_up() or await self._proposer.next()
        except OutOfIdeas:
            experiment = self._requested() if self.shared.start_wave() else None
            if experiment is None:
                raise
            return experiment
        if self.steering.is_paused():
            self._proposer.put_back(proposal)
            raise LoopPaused
        self._follower.follow()  # it may have moved in the meantime
        experiment = self._new.of_proposal(proposal, kind="explore")
        self._proposer.prepare()
        return experiment

    async def _follow_up(self) -> Proposal | None:
        """What the farm itself tries next of an earlier idea; None if nothing is due. Texts are read beside the event loop."""
        known = self.shared.tried.known_beside(self.branch.name)
        try:
            return await self.shared.reader.with_answers(
                lambda reads: next_follow_up(self.shared.state(), self.context(), self.worktree.train_py, known, reads=reads)
            )
        except ProposalFailed:  # program.md can't be read: the researcher will say so
            return None

    async def _measure_baseline(self) -> None:
        first = not self.store.experiments.lines_of(self.branch.name)  # later, one that failed has been mended on the branch
        commit = self.branch.baseline_commit if first else self.worktree.head()
        experiment = self._new.of_commit("baseline", "baseline", commit, hypothesis="The score to beat.")
        await self._train_and_conclude(experiment, ())

    # --- running and deciding ---------------------------------------------------------------------------------------

    async def _train_and_conclude(
        self, experiment: Experiment, runs: tuple[RunResult, ...], *, again: bool = False
    ) -> ExperimentRecord:
        """Does the runs that are still due, one more with `again`, decides, records, and takes the head that follows."""
        runs = tuple(run for run in runs if run.status != "lost")
        with self.shared.running(experiment):
            while again or self._decisions.is_due(experiment, runs):
                again = False
                if runs:
                    self.shared.tell_gain()  # what it gains by the runs so far, while there is no verdict
                run = await self._runs.run(experiment, len(runs))
                if experiment.kind == "baseline" and run.status == "lost":
                    raise InfrastructureFailed(f"{experiment.id} was lost {MAX_TRIES} times in a row: {run.reason}")
                runs = (*runs, run)
        self._follower.mend()  # a run takes minutes, in which somebody may have tidied up
        self._decisions.bar_if_unfit(experiment, runs)
        by_hand = self._is_by_hand(experiment)
        verdict = self._decisions.verdict(experiment, runs, by_hand=by_hand)
        if by_hand:
            self._rule_by_hand(experiment)
        self.store.add_verdict(experiment.id, verdict)
        if experiment.kind == "baseline" and verdict.decision != "keep":
            raise BaselineFailed(
                f"the committed research/train.py ({experiment.commit[:7]}) can't be measured: {verdict.reason}; "
                "fix and commit it, then run the same command again"
            )
        record = self.store.record(experiment.id)
        self.observer.on_verdict(record)
        self.shared.settle()
        self._follower.follow()
        await self._write_tables_if_due()
        return record

    # --- the branch -------------------------------------------------------------------------------------------------

    def _is_by_hand(self, experiment: Experiment) -> bool:
        """Whether a person has put an experiment on the branch. Once it is decided it may be there by the rule, and the record
        of that tells.
        """
        if self.store.record(experiment.id).verdict is None:
            return is_by_hand(self.worktree, experiment)
        return was_committed(self.shared.state(), experiment)

    def _rule_by_hand(self, experiment: Experiment) -> None:
        """Rules that what a person has put into the head by a commit stays in, and that what they took out stays out."""
        state = self.shared.state()
        for idea in sorted(taken_out_by(state, experiment)):
            self.shared.rule("bar", idea, DROPPED_BY_A_PERSON)
        for idea in sorted(put_in_by(state, experiment)):
            self.shared.rule("pin", idea, COMMITTED_BY_A_PERSON)

    # --- what is known ----------------------------------------------------------------------------------------------

    def write_table(self) -> None:
        """Brings the branch's results.tsv up to date."""
        self._table.write()

    async def _write_tables_if_due(self) -> None:
        """Writes the group's tables of which records have changed: a run may change what was decided on other branches."""
        self._table.is_behind = True
        await write_due(self.shared.tables.values())


def latest_software_changes(store: Store, branch: str) -> str:
    """How the software of a branch's latest runs differs from that of its baseline and controls; empty if it doesn't."""
    known = store.experiments.of_branch(branch, ("baseline", "control"))
    latest = store.experiments.of_branch(branch)[-LATEST:]
    differs = software_changes([*known[-1:], *latest])  # nearly always the last control had what there is now
    return software_changes([*known, *latest]) if differs else ""


def records_of_others(store: Store, branch: str) -> list[ExperimentRecord]:
    """The experiments of all other branches, whose rows a user's own checkout may have."""
    names = [other.name for other in store.branches() if other.name != branch]
    return [record for name in names for record in store.records(name)]
