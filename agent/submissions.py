"""Ideas that are submitted to a group's loops from outside: recorded in the store, and taken up before a researcher is asked.

Each ends as an experiment or is refused with a reason, which is recorded as well; a farm that is killed finds the others again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.adoption import bounded
from agent.compare_programs import program_of
from agent.duplicate_edits import (
    programs_on_same_terms,
    questions_about,
    reason_not_to_run,
    record_refusal,
    result_in_words,
    rule_broken,
)
from agent.observer import LoopObserver
from agent.rebase import rebased
from agent.researcher import Context
from agent.text_reader import TextReader
from research.errors import UserError
from research.formatting import counted, one_line
from results.experiment import Branch, Proposal
from results.group_entries import SUBMISSION, SUBMISSION_ENDED
from results.store import Store

RESEARCHER = "mcp"
"""The name of the researcher of everything that is submitted."""

MOST_WAITING = 64
"""The most submissions of a group that may wait."""

MAX_TITLE = 120
"""Characters of a title."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An edit of train.py that somebody outside the farm asks it to try."""

    group: str
    """The branch that holds the head of the group."""
    title: str
    hypothesis: str
    train_py: str
    """The whole text."""
    base: str
    """The commit whose train.py it edits: the head when it was made."""


def submission_from(fields: Mapping[str, Any]) -> Submission:
    """The submission with these fields, as text. Raises TypeError for other fields than it has."""
    return Submission(**{name: str(value) for name, value in fields.items()})


def submit(store: Store, submission: Submission) -> str:
    """Records a submission. Returns its id. Raises UserError, one line, if it isn't worth a run or too many wait."""
    branch = _branch_of(store, submission)
    title = one_line(submission.title, MAX_TITLE)
    if not title:
        raise UserError("A submission needs a title: the idea in one line.")
    if reason := rule_broken(submission.train_py, branch):
        raise UserError(f"{title} was refused: {reason}")
    program, open_ones = program_of(submission.train_py), waiting(store, submission.group)
    same = next((event for event in open_ones if event["program"] == program), None)
    if same is not None:
        raise UserError(f"{title} was refused: {same['id']} ({same['title']}) is the same program, and waits already.")
    if (earlier := programs_on_same_terms(store, branch).get(program)) is not None:
        raise UserError(f"{title} was refused: {result_in_words(earlier)}")
    if len(open_ones) >= MOST_WAITING:
        raise UserError(f"{counted(MOST_WAITING, 'submission')} wait already: ask for their verdicts, and submit more later.")
    fields = {"branch": submission.group, "title": title, "hypothesis": bounded(submission.hypothesis),
              "train_py": submission.train_py, "base": submission.base, "program": program}  # fmt: skip
    return _add(store, submission.group, fields)


def waiting(store: Store, group: str) -> list[dict[str, Any]]:
    """The details of the submissions that no loop has taken up yet, oldest first."""
    ended = {event["id"] for event in store.events(SUBMISSION_ENDED, group)}
    return [event for event in store.events(SUBMISSION, group) if event["id"] not in ended]


def record_experiment(store: Store, group: str, submission: str, experiment: str) -> None:
    """Records which experiment a submission has become."""
    _end(store, group, submission, {"experiment": experiment})


def _branch_of(store: Store, submission: Submission) -> Branch:
    """The first branch of the group, by whose terms a submission is checked. Raises UserError if the group takes none."""
    members = [branch for branch in store.branches() if branch.head_branch == submission.group]
    if not members:
        raise UserError(f"This home has no branch {submission.group}.")
    if store.groups.head(submission.group) is None:
        raise UserError(f"{submission.group} has no baseline with a score yet: submit when it has been measured.")
    if not any(True for _ in store.experiments.at_commit(submission.base)):
        raise UserError(f"No experiment has the commit {submission.base[:12]!r}: read the head, and give the commit of that.")
    return members[0]


def _add(store: Store, group: str, fields: Mapping[str, Any]) -> str:
    """Records a submission under the first free number."""
    number = len(store.events(SUBMISSION, group))
    while True:
        name = f"{group.partition('/')[2] or group}-s{number:04d}"
        if store.add_event(SUBMISSION, {"id": name, **fields}, id=f"{SUBMISSION} {name}"):
            return name
        number += 1


def _end(store: Store, group: str, submission: str, outcome: Mapping[str, str]) -> None:
    details = {"branch": group, "id": submission, **outcome}
    store.add_event(SUBMISSION_ENDED, details, id=f"{SUBMISSION_ENDED} {submission}")


class SubmissionQueue:
    """The submissions of a group, as one of its loops takes them up."""

    def __init__(self, *, branch: Branch, store: Store, observer: LoopObserver, text_at: Callable[[str], str],
                 reader: TextReader | None = None) -> None:  # fmt: skip
        """`branch` is the loop's own, and `text_at` returns the train.py of a commit."""
        self._branch, self._store, self._observer, self._text_at = branch, store, observer, text_at
        self._reader = reader or TextReader()

    async def next(self, context: Callable[[], Context]) -> Proposal | None:
        """The oldest submission that is worth a run, as an edit of the head by now; the refused ones before it are answered.

        None if none waits. `context` returns what researchers are shown at that moment. The caller makes it an experiment
        without waiting for anything, so that no other loop takes it up as well.
        """
        while open_ones := waiting(self._store, self._group):
            first = open_ones[0]
            await self._reader.read(questions_about(first["train_py"], context()))
            if waiting(self._store, self._group)[:1] != [first]:  # another loop was faster
                continue
            if (proposal := self._taken(first, context())) is not None:
                return proposal
        return None

    @property
    def _group(self) -> str:
        return self._branch.head_branch

    def _taken(self, event: Mapping[str, Any], context: Context) -> Proposal | None:
        """A submission as a proposal; None if it has ended, which then is on record."""
        proposal = Proposal(title=event["title"], hypothesis=event["hypothesis"], train_py=event["train_py"],
                            researcher=RESEARCHER, submission=event["id"])  # fmt: skip
        moved = rebased(proposal, self._text_at(event["base"]), context.train_py)
        if moved is None:
            self._refuse(proposal, "the head has changed the same since, or has this edit: read it again, and edit that")
            return None
        if (made := self._made_before(moved)) is not None:
            record_experiment(self._store, self._group, proposal.submission, made)
            return None
        if (reason := reason_not_to_run(moved.train_py, context)) is not None:
            self._refuse(moved, reason)
            return None
        return moved

    def _made_before(self, proposal: Proposal) -> str | None:
        """The experiment that a farm made of a submission just before it was killed; None if there is none."""
        known = {event.get("experiment") for event in self._store.events(SUBMISSION_ENDED, self._group)}
        lines = self._store.experiments.with_program(program_of(proposal.train_py))
        found = [self._store.record(line.id).experiment for line in lines if line.id not in known]
        return next((one.id for one in found if (one.researcher, one.title) == (RESEARCHER, proposal.title)), None)

    def _refuse(self, proposal: Proposal, reason: str) -> None:
        record_refusal(self._store, self._branch.name, proposal, reason)
        _end(self._store, self._group, proposal.submission, {"reason": reason})
        self._observer.on_event("proposal_refused", branch=self._branch.name, title=proposal.title, reason=reason)
