"""One research loop: propose, commit, train, decide, record, keep or discard, repeat."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.adoption import check_not_reset, is_by_hand
from agent.decisions import BASELINE_AGAIN, Decisions
from agent.duplicate_edits import programs_on_same_terms, refusals
from agent.follow_ups import next_follow_up
from agent.head_following import HeadFollower
from agent.loop_steering import LoopPaused, LoopSteering
from agent.new_experiments import NewExperiments
from agent.observer import LoopObserver
from agent.proposing import RETRY_PAUSES_S, Proposer
from agent.repo.worktree import Worktree
from agent.researcher import Context, OutOfIdeas, ProposalFailed, Researcher
from agent.runs import MAX_TRIES, Execute, ExperimentRuns
from agent.shared_research import SharedResearch
from agent.speculation import StartSpeculatively
from agent.submissions import SubmissionQueue
from research.contract import Contract
from research.formatting import counted
from research.result import RunResult, SandboxMode
from results import policy
from results.experiment import Branch, Experiment, ExperimentKind, ExperimentRecord, Head, Proposal
from results.group_entries import COMMITTED_BY_A_PERSON
from results.steering import PLATEAU_IDEAS
from results.store import Store
from results.tsv import write_results_tsv
from results.verdict import (
    LINE_PRICE,
    NoisePrior,
    Rule,
    software_changes,
)

SHOWN: tuple[ExperimentKind, ...] = ("baseline", "explore", "manual", "merge", "wave")
"""The kinds of experiments that researchers are shown. Controls try nothing new, and no idea may be chosen by fresh seeds."""

LATEST = 16
"""How many of a branch's latest experiments tell which software there is now."""

TABLE_SHARE = 0.05
"""The share of the time that writing results.tsv may take; it is always written when the loop ends."""


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
                 settings: LoopSettings) -> None:  # fmt: skip
        """`shared` is that of the branch's group. If `start_speculatively` is None, no run starts before it is requested."""
        self.branch, self.worktree, self.store, self.shared = branch, worktree, store, shared
        self.observer, self.settings = observer, settings
        self.steering = LoopSteering(branch=branch.name, group=shared.group, researcher=researcher.name, store=store,
                                     suggestions=shared.suggestions, plateau_ideas=settings.plateau_ideas)  # fmt: skip
        self._is_table_behind, self._table_due = False, 0.0
        self._follower = HeadFollower(branch=branch, worktree=worktree, store=store, shared=shared, observer=observer)
        self._new = NewExperiments(branch=branch, store=store, worktree=worktree, shared=shared,
                                   line_price=settings.line_price, fit=settings.fit)  # fmt: skip
        self._decisions = Decisions(branch=branch.name, store=store, shared=shared, observer=observer,
                                    noise=settings.noise, rule=settings.rule, baseline_runs=settings.baseline_runs,
                                    memory_cap_mb=settings.memory_cap_mb, runs_folder=settings.runs_folder)  # fmt: skip
        self._proposer = Proposer(branch=branch.name, researcher=researcher, store=store, observer=observer,
                                  context=self.context, reader=shared.reader,
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
        unfinished = self.store.unfinished(self.branch.name)
        finished = [await self._train_and_conclude(record.experiment, record.runs) for record in unfinished]
        if self.store.baseline(self.branch.name) is None:
            await self._measure_baseline()
        self.shared.settle()
        adopted = await self.adopt()
        self._follower.take(self.head())
        self.write_table([] if self.worktree.owned else records_of_others(self.store, self.branch.name))
        return [*finished, *adopted]

    async def step(self) -> ExperimentRecord:
        """One experiment: a run that the policy asks for, else an idea. Raises OutOfIdeas, BudgetSpent or LoopPaused.

        If the software has changed since the baseline was measured, the experiment is a control: the baseline again.
        """
        self._follower.mend()
        await self.adopt()
        self._follower.follow()
        experiment = self._control_of_software() or self._requested() or await self._idea()
        return await self._train_and_conclude(experiment, ())

    async def finish(self) -> ExperimentRecord | None:
        """Verifies what has been put together and is not verified yet, since a head is not left for the next session; and runs
        the baseline again where a person asks for that. Returns the last record; None if nothing was due.
        """
        last = None
        while (request := self.shared.last_run()) is not None:
            last = await self._train_and_conclude(self._new.of_request(request), ())
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
        if self._is_table_behind:
            self.write_table()

    def head(self) -> Head:
        """The head of the branch's group."""
        head = self.shared.head()
        assert head is not None, "the baseline comes first"
        return head

    def context(self) -> Context:
        """What the researcher is shown. Raises ProposalFailed if program.md can't be read."""
        head, experiments = self.head(), self.store.experiments
        return Context(
            branch=self.branch,
            head=head,
            train_py=self.worktree.train_py(head.commit),
            records=experiments.of_branch(self.branch.name, SHOWN),
            others=self.shared.tried.records_but_of(self.branch.name),
            near_misses=tuple(experiments.with_ids(policy.near_misses(self.shared.state().farm))),
            sigma=self._decisions.sigma(),
            program=self.steering.noted(read_policy(self.settings.program)),
            query=self.store.queries.text,
            charge=partial(self.store.add_answer, self.branch.name),
            spent_usd=partial(self.store.spent_usd, self.branch.tag),
            programs=programs_on_same_terms(self.store, self.branch),
            crashes=self.shared.tried.crash_patterns(head.commit),
            refused=refusals(self.store, self.branch.name),
            guidance=self.steering.guidance(),
        )

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
            proposal = await self._proposer.submitted() or self._follow_up() or await self._proposer.next()
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

    def _follow_up(self) -> Proposal | None:
        """What the farm itself tries next of an earlier idea; None if nothing is due."""
        try:
            known = self.shared.tried.known_beside(self.branch.name)
            return next_follow_up(self.shared.state(), self.context(), self.worktree.train_py, known)
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
            self.shared.rule("pin", experiment.id, COMMITTED_BY_A_PERSON)
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
        await self._write_table_if_due()
        return record

    # --- the branch -------------------------------------------------------------------------------------------------

    def _is_by_hand(self, experiment: Experiment) -> bool:
        """Whether a person has put an experiment on the branch. Once it is decided it may be there by the rule, and the record
        of that tells.
        """
        if self.store.record(experiment.id).verdict is None:
            return is_by_hand(self.worktree, experiment)
        return self.shared.state().why_ruled.get(experiment.id) == COMMITTED_BY_A_PERSON

    # --- what is known ----------------------------------------------------------------------------------------------

    def write_table(self, others: Sequence[ExperimentRecord] = ()) -> None:
        """Writes results.tsv into the worktree, untracked, without the rows of `others`, which are another branch's.

        It is only a view: if it can't be written, that is an event, and it is tried again.
        """
        path, began = self.worktree.folder / "results.tsv", time.monotonic()
        try:
            aside = write_results_tsv(path, self.store.records(self.branch.name), others=others)
        except OSError as error:
            self.observer.on_event("view_failed", branch=self.branch.name, file=str(path), reason=str(error.strerror))
            aside = None
        if aside is not None:
            self.observer.on_event("moved_aside", branch=self.branch.name, file=str(aside))
        self._is_table_behind, ended = False, time.monotonic()
        self._table_due = ended + (ended - began) / TABLE_SHARE

    async def _write_table_if_due(self) -> None:
        """Writes results.tsv beside the event loop, unless that has lately taken too large a share of the time."""
        self._is_table_behind = True
        if time.monotonic() >= self._table_due:
            await asyncio.to_thread(self.write_table)


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
