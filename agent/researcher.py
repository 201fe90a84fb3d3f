"""What a researcher is: something that, shown the history, proposes one edit of train.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from research.errors import UserError
from results.experiment import Branch, ExperimentRecord, Head, Proposal


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a researcher sees. Audit scores are not in it."""

    branch: Branch
    head: Head
    train_py: str
    """The head's train.py, which the proposal edits."""
    records: tuple[ExperimentRecord, ...]
    """The branch's experiments, oldest first; the one that is training now has no verdict."""
    sigma: float
    """Standard deviation of val_bpb between seeds."""
    program: str
    """The text of program.md: the research policy."""
    query: Callable[[str], str]
    """Runs one read-only SELECT over the whole history and returns a text table, or one line that says what is wrong."""


class Researcher(Protocol):
    """Proposes; keeps no state that the history doesn't hold."""

    name: str

    async def propose(self, context: Context) -> Proposal:
        """One idea. Raises OutOfIdeas, BudgetSpent or ProposalFailed."""

    async def close(self) -> None:
        """Ends connections and processes."""


class OutOfIdeas(Exception):
    """Nothing is left to try: the loop ends cleanly."""


class BudgetSpent(Exception):
    """`--max-cost` is reached: the loop ends cleanly."""


class ProposalFailed(Exception):
    """No usable proposal this time (the text says why); the loop asks again later."""


class NotConfigured(UserError):
    """The researcher lacks something that the user must provide: a key, a command."""
