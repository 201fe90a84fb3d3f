"""How many experiments there are and how they ended: the one count that the live view, `farm status`, the report, the picture
and the end of a farm show.

Only ideas count: baselines, merges, controls, waves and confirmations don't. What counts as kept is what is kept by now.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from results.experiment import ExperimentRecord, edit_of
from results.group_history import is_keep


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many experiments ended in which way."""

    done: int
    """Experiments with a verdict; lost and abandoned ones don't count."""
    kept: int
    """Ideas that are kept: one that several loops have tried counts once for each head."""
    discarded: int
    crashed: int
    invalid: int
    lost: int
    """Experiments that machines have lost."""
    abandoned: int
    """Interrupted experiments that a person doesn't want to finish."""

    def words(self) -> str:
        """The numbers of what is kept and discarded, and of all else that there is."""
        others = {name: getattr(self, name) for name in ("crashed", "invalid", "lost", "abandoned")}
        parts = {"kept": self.kept, "discarded": self.discarded, **{name: number for name, number in others.items() if number}}
        return ", ".join(f"{number} {name}" for name, number in parts.items())


def count(*of_heads: Iterable[ExperimentRecord]) -> Counts:
    """The counts of experiments, given apart for each head that they build on."""
    groups = [[record for record in records if record.is_idea] for records in of_heads]
    ideas = [record for records in groups for record in records]
    ended = [record.verdict.decision for record in ideas if record.verdict is not None]
    abandoned = sum(record.is_abandoned for record in ideas)
    return Counts(
        done=sum(record.is_done for record in ideas),
        kept=sum(_distinct(filter(is_keep, records)) for records in groups),
        discarded=ended.count("discard"),
        crashed=ended.count("crash"),
        invalid=ended.count("invalid"),
        lost=ended.count("lost") - abandoned,
        abandoned=abandoned,
    )


def _distinct(records: Iterable[ExperimentRecord]) -> int:
    """The number of experiments without those that repeat the program or the edit of an earlier one."""
    number, seen = 0, set[str]()
    for record in records:
        names = {record.experiment.program, edit_of(record.experiment)} - {""}
        number += seen.isdisjoint(names)
        seen |= names
    return number
