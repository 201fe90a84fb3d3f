"""Obtains a loop's next proposal: requested while the current one trains, and rebased if the head changes."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from agent.compare_programs import program_of
from agent.duplicate_edits import questions_about, reason_not_to_run, record_refusal
from agent.follow_ups import FARM
from agent.observer import LoopObserver
from agent.rebase import rebased
from agent.researcher import BudgetSpent, Context, NotConfigured, OutOfIdeas, ProposalFailed, Researcher
from agent.submissions import RESEARCHER as SUBMITTED
from agent.submissions import SubmissionQueue
from agent.text_reader import TextReader
from results.experiment import ExperimentKind, Proposal, Usage
from results.steering import Suggestion
from results.store import Store

RETRY_PAUSES_S = (2.0, 300.0)
"""Seconds before a researcher that failed is asked again: at first, and at most; doubled at each failure."""

SUBMISSIONS_EVERY_S = 1.0
"""Seconds after which submissions are looked for again while a researcher thinks."""

PATIENCE_S = 20.0
"""Seconds that a loop waits for its researcher before it tries something else meanwhile."""

IDEAS: tuple[ExperimentKind, ...] = ("explore",)
"""The kind of a loop's ideas: a researcher's, the farm's own, and those that were submitted from outside."""

BUDGET_SPENT = "budget_spent"
"""The kind of the event that a researcher has spent its budget."""

REPLACED = "researcher_replaced"
"""The kind of the events that record that a loop goes on with the stopgap, and why."""

DISCARDED = "edits_discarded"
"""The kind of the events that name files beside train.py that a researcher changed, and that are discarded."""

PreparedProposal = tuple[Proposal, str]
"""A proposal, and the train.py that it edits."""


class Proposer:
    """Asks a branch's researcher for proposals, one ahead of the loop.

    A researcher that fails, or keeps the loop waiting, is not waited for: the stopgap has an idea meanwhile. Where only a
    person can help it, or its budget is spent, the stopgap takes its place.
    """

    def __init__(self, *, branch: str, researcher: Researcher, store: Store, observer: LoopObserver,
                 context: Callable[[], Context], head_train_py: Callable[[], str], submissions: SubmissionQueue | None = None,
                 stopgap: Researcher | None = None, reader: TextReader | None = None,
                 pauses_s: tuple[float, float] = RETRY_PAUSES_S, patience_s: float = PATIENCE_S) -> None:  # fmt: skip
        """`context` returns what the researcher is shown at that moment, and `head_train_py` the head's text.

        Without a `stopgap` the loop waits for its researcher, and ends with it.
        """
        self._submissions, self._stopgap, self._patience_s = submissions, stopgap, patience_s
        self._reader = reader or TextReader()
        self._is_failing = self._is_replaced = False
        self._branch, self._researcher, self._store = branch, researcher, store
        self._observer, self._context, self._head_train_py = observer, context, head_train_py
        self._pauses_s = pauses_s
        self._preparing: asyncio.Future[PreparedProposal] | None = None

    def prepare(self) -> None:
        """Asks for the next proposal while this one trains, on the guess that this one is discarded, as most are.

        Does nothing if one is being prepared.
        """
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._ask())

    def put_back(self, proposal: Proposal) -> None:
        """Keeps a proposal that isn't tried now as the prepared one, unless another is prepared already."""
        if self._preparing is None:
            self._preparing = asyncio.get_running_loop().create_future()
            self._preparing.set_result((proposal, self._head_train_py()))

    @property
    def prepared(self) -> PreparedProposal | None:
        """The prepared proposal; None if there is none or it isn't ready."""
        task = self._preparing
        if task is None or not task.done() or task.cancelled() or task.exception():
            return None
        return task.result()

    async def submitted(self, *, out_of_turn: bool = False) -> Proposal | None:
        """The next proposal that was submitted from outside; None if none waits, or if program.md can't be read.

        No more than every second idea of a loop is from outside or the farm's own, unless `out_of_turn` is set.
        """
        if self._submissions is None or (self.is_researchers_turn and not out_of_turn):
            return None
        try:
            return await self._submissions.next(self._context)
        except ProposalFailed:  # the researcher will say so
            return None

    @property
    def is_researchers_turn(self) -> bool:
        """Whether the loop's last idea was the farm's own or submitted from outside, so that the next one is neither."""
        ideas = self._store.experiments.lines_of(self._branch, IDEAS)
        return bool(ideas) and ideas[-1].researcher in (FARM, SUBMITTED)

    async def next(self) -> Proposal:
        """The prepared proposal, else a new one, rebased if the head has changed since the researcher saw it; or one that is
        submitted, or the stopgap's, before that is there.

        One that can't be rebased is withdrawn, one that another loop has tried by now is refused, and the researcher is asked
        again. Raises OutOfIdeas; without a stopgap also BudgetSpent or NotConfigured.
        """
        self._observer.on_loop_state(self._branch, phase="proposing")
        while True:
            task = self._preparing = self._preparing or asyncio.create_task(self._ask())
            if (meanwhile := await self._meanwhile(task)) is not None:
                return meanwhile
            self._preparing = None
            try:
                proposal, base = task.result()
            except OutOfIdeas:
                if (submitted := await self.submitted(out_of_turn=True)) is not None:
                    return submitted
                raise
            except (BudgetSpent, NotConfigured) as end:
                if self._stopgap is None:
                    raise
                if isinstance(end, BudgetSpent):
                    self._observer.on_event(BUDGET_SPENT, branch=self._branch, reason=str(end))
                await self._replace_researcher(self._stopgap, str(end))
                continue
            moved = await self._rebased(proposal, base)
            if moved is None:
                self._observer.on_event("proposal_withdrawn", branch=self._branch, title=proposal.title)
                self._record_withdrawn(proposal, "the last keep changed the same thing")
            elif (reason := self._refused(moved)) is None:
                return moved
            elif not self._has_another_loop_tried(moved):  # that is no news: the next idea is asked for
                self._observer.on_event("proposal_refused", branch=self._branch, title=moved.title, reason=reason)

    async def _meanwhile(self, task: "asyncio.Future[PreparedProposal]") -> Proposal | None:
        """What is tried before the researcher's proposal is there; None once it is."""
        began, has_asked_stopgap = time.monotonic(), False
        while not task.done():
            is_late = self._is_failing or time.monotonic() - began >= self._patience_s
            if (submitted := await self.submitted(out_of_turn=is_late)) is not None:
                return submitted
            if is_late and not has_asked_stopgap and (idea := await self._of_stopgap()) is not None:
                return idea
            has_asked_stopgap = is_late
            await asyncio.wait({task}, timeout=min(SUBMISSIONS_EVERY_S, self._patience_s))
        return None

    async def _of_stopgap(self) -> Proposal | None:
        """The stopgap's idea for the head as it is; None without one, and where it has none that is worth a run."""
        if self._stopgap is None:
            return None
        try:
            context = self._context()
            proposal = await self._stopgap.propose(context)
            await self._read_ahead(proposal, context)
        except (OutOfIdeas, ProposalFailed):
            return None
        has_moved = context.train_py != self._head_train_py()
        return None if has_moved or self._refused(proposal) is not None else proposal

    async def _replace_researcher(self, stopgap: Researcher, reason: str) -> None:
        """Goes on with the stopgap, and says why."""
        replaced = {"branch": self._branch, "researcher": self._researcher.name, "by": stopgap.name, "reason": reason}
        self._observer.on_event(REPLACED, **replaced)
        self._store.add_event(REPLACED, replaced)
        await self._researcher.close()
        self._researcher, self._stopgap = stopgap, None
        self._is_failing, self._is_replaced = False, True

    async def close(self) -> None:
        """Withdraws the prepared proposal, and closes the researcher."""
        if self.prepared is not None:
            self._record_withdrawn(self.prepared[0], "the loop ended")
        if self._preparing is not None:
            self._preparing.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._preparing
        await self._researcher.close()
        if self._stopgap is not None:
            await self._stopgap.close()

    async def _read_ahead(self, proposal: Proposal, context: Context) -> None:
        """Reads a proposal's text beside the event loop, which needs what follows from it."""
        await self._reader.read(questions_about(proposal.train_py, context))

    async def _rebased(self, proposal: Proposal, base: str) -> Proposal | None:
        """A proposal, an edit of `base`, as an edit of the head by now, with what is asked about it at hand; None if they
        conflict.
        """
        while base != (head := self._head_train_py()):
            await self._reader.read([("rebased_text", (proposal.train_py, base, head))])
            moved = rebased(proposal, base, head)
            if moved is None:
                return None
            await self._read_ahead(moved, self._context())
            if head == self._head_train_py():
                return moved
        return proposal

    async def _ask(self) -> PreparedProposal:
        """A proposal for the head; retries with growing pauses while the researcher fails."""
        pause, longest = self._pauses_s
        while True:
            try:
                context = self._context()
                told = None if self._is_replaced else context.guidance.suggestion
                proposal = following(await self._researcher.propose(context), told)
                if proposal.discarded:
                    discarded = {"branch": self._branch, "title": proposal.title, "files": list(proposal.discarded)}
                    self._store.add_event(DISCARDED, discarded)
                await self._read_ahead(proposal, context)
                is_current = context.train_py == self._head_train_py()  # else it is rebased and judged once it is due
                if is_current and (reason := self._refused(proposal)) is not None:
                    if self._has_another_loop_tried(proposal) and program_of(proposal.train_py) not in context.programs:
                        continue  # meanwhile: both had the same idea, and this one is asked for another
                    raise ProposalFailed(f"{proposal.title} was refused: {reason}")
                self._is_failing = False
                return proposal, context.train_py
            except ProposalFailed as failure:
                self._is_failing = True
                wait = min(max(pause, failure.retry_after_s or 0.0), longest)
                self._observer.on_event("proposal_failed", branch=self._branch, reason=str(failure), again_in_s=wait)
                failed = {"branch": self._branch, "reason": str(failure), "usage": _plain(failure.usage)}
                self._store.add_event("proposal_failed", failed)
                await asyncio.sleep(wait)
                pause = 2 * pause

    def _refused(self, proposal: Proposal) -> str | None:
        """Why a proposal is not worth a run, which is then on record; None if it is."""
        reason = None if proposal.deliberate else reason_not_to_run(proposal.train_py, self._context())
        if reason is not None:
            record_refusal(self._store, self._branch, proposal, reason)
        return reason

    def _has_another_loop_tried(self, proposal: Proposal) -> bool:
        """Whether the program of a proposal is that of another branch's experiment."""
        earlier = self._context().programs.get(program_of(proposal.train_py))
        return earlier is not None and earlier.experiment.branch != self._branch

    def _record_withdrawn(self, proposal: Proposal, reason: str) -> None:
        """Records a proposal that was paid for and isn't tried."""
        withdrawn = {"branch": self._branch, "title": proposal.title, "reason": reason, "usage": _plain(proposal.usage)}
        self._store.add_event("proposal_withdrawn", withdrawn)


def following(proposal: Proposal, suggestion: Suggestion | None) -> Proposal:
    """A proposal that says in its hypothesis which person's suggestion it follows; as it is without one."""
    if suggestion is None:
        return proposal
    hypothesis = f"Follows suggestion {suggestion.number} of a person: {suggestion.text}\n\n{proposal.hypothesis}".rstrip()
    return replace(proposal, hypothesis=hypothesis, suggestion=suggestion.number)


def _plain(usage: Usage | None) -> dict[str, object]:
    return asdict(usage or Usage())
