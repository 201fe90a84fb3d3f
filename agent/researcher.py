"""The interface of researchers: given the history, each proposes one edit of train.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.crash_patterns import CrashPattern
from research.errors import UserError
from results.experiment import Branch, ExperimentRecord, Head, Proposal, Usage
from results.notes import Note, NoteKind
from results.steering import Suggestion


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A proposal that was not run, since it repeats an experiment or its crash, or changes nothing."""

    title: str
    researcher: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What a researcher is told about its next idea, beside the policy and the history."""

    suggestion: Suggestion | None = None
    """A person's idea, for which it should propose an experiment; None if there is none."""
    wants_structure: bool = False
    """Whether it should change the structure of train.py, since others tune its constants."""
    ideas_without_keep: int = 0
    """The number of ideas that the group has tried since its last keep, if they are a plateau; else 0."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything that a researcher sees. Audit scores are never in it."""

    branch: Branch
    head: Head
    train_py: str
    """The head's train.py, which the proposal edits."""
    records: Sequence[ExperimentRecord]
    """The branch's experiments, oldest first; the one that is training now has no verdict. Each is read when it is looked at,
    and a long history takes time."""
    others: Sequence[ExperimentRecord] = ()
    """The ideas and merges of the other loops that share the head, oldest first; likewise."""
    near_misses: tuple[ExperimentRecord, ...] = ()
    """The ideas of all of them that may help and are not in the head, the likeliest first."""
    sigma: float
    """Standard deviation of val_bpb between seeds, in bits per byte."""
    program: str
    """The text of program.md: the research policy."""
    query: Callable[[str], str]
    """Runs one read-only SELECT over the whole history and returns a text table. Raises UserError."""
    charge: Callable[[Usage], object]
    """Records the cost of one answer, which counts whatever becomes of the proposal."""
    spent_usd: Callable[[], float]
    """US dollars that the researchers of this tag have cost so far, over all of its loops and sessions."""
    spent_by_loop_usd: Callable[[], float] = lambda: 0.0
    """US dollars that the researcher of this loop has cost so far, over all sessions."""
    lineage: tuple[ExperimentRecord, ...] = ()
    """The latest ideas in the head, oldest first."""
    notes: tuple[Note, ...] = ()
    """The latest lessons and leads that the group's researchers have noted, oldest first."""
    note: Callable[[NoteKind, str, Sequence[int]], int] | None = None
    """Records a lesson or a lead for all loops, in place of those with these numbers; None: nobody would read it."""
    log_of: Callable[[str], str] | None = None
    """The end of the log of an experiment's last run, or of a run, by its id. Raises UserError. None: there are no logs."""
    programs: Mapping[str, ExperimentRecord] = field(default_factory=dict)
    """The experiments that have tried a program, by `program_of` it: those of all of the tag's loops whose scores compare."""
    crashes: tuple[CrashPattern, ...] = ()
    """What edits of this head crash repeatedly; those that change the same names are refused."""
    refused: tuple[Refusal, ...] = ()
    """The branch's latest proposals that were refused without a run, oldest first."""
    guidance: Guidance = Guidance()
    memory_cap_mb: float | None = None
    """The most peak memory in MiB that an idea may need to be kept; None: what the device has."""
    effects: Callable[[], Mapping[str, float]] = dict
    """The gains of the ideas in the head by their experiments, by all runs and shrunk for having been selected, in bpb."""


class Researcher(Protocol):
    """Proposes edits. Keeps no state beyond the history, so that it can be resumed."""

    name: str

    async def propose(self, context: Context) -> Proposal:
        """One idea. Raises OutOfIdeas, BudgetSpent, ProposalFailed or NotConfigured."""

    async def close(self) -> None:
        """Closes connections and ends processes."""


class OutOfIdeas(Exception):
    """Nothing is left to try. The loop ends cleanly."""


class BudgetSpent(Exception):
    """The limit of `--max-cost` is reached. The loop ends cleanly."""


class ProposalFailed(Exception):
    """No usable proposal this time, for the reason in the text. The loop asks again later."""

    def __init__(self, reason: str, *, usage: Usage | None = None, retry_after_s: float | None = None) -> None:
        """`usage` is what the attempt cost, None if nothing; `retry_after_s` is the pause that was asked for, if any."""
        super().__init__(reason)
        self.usage, self.retry_after_s = usage, retry_after_s


class NotConfigured(UserError):
    """Something is missing that the user must provide: a key, a command."""
