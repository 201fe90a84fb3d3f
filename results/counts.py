"""How many experiments there are and how they ended: the one count that the live view, `farm status`, the report, the picture
and the end of a farm show.

Only ideas count: baselines, merges, controls, waves and confirmations don't. What counts as kept is what is kept by now.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from research.formatting import counted
from results.experiment import IDEAS, Decision, ExperimentKind
from results.group_history import is_keep
from results.outlines import AnyRecord, names_of

if TYPE_CHECKING:
    from results.stored_records import StoredRecords

BESIDE_IDEAS: Mapping[ExperimentKind, tuple[str, ...]] = {
    "baseline": ("baseline",),
    "merge": ("merge of kept ideas", "merges of kept ideas"),
    "control": ("control",),
    "wave": ("run of waves", "runs of waves"),
    "confirm": ("confirmation",),
}
"""Kinds of experiments that are no ideas, with their singular and plural."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many experiments ended in which way."""

    done: int
    """Experiments with a verdict; lost and abandoned ones don't count."""
    by_hand: int
    """Those of them that a person tried or committed."""
    kept: int
    """Ideas that are kept: one that several experiments have tried counts once for each head."""
    kept_experiments: int
    """The experiments that have tried the ideas which are kept."""
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
        parts = {"discarded": self.discarded, **{name: number for name, number in others.items() if number}}
        return ", ".join([self.keeps, *(f"{number} {name}" for name, number in parts.items())])

    @property
    def keeps(self) -> str:
        """The number of ideas that are kept, and in how many experiments if some of them were tried more than once."""
        return keeps_in_words(self.kept, experiments=self.kept_experiments)

    @property
    def experiments(self) -> str:
        """The number of experiments, as `--experiments` counts them, and how many of them were by hand."""
        apart = f" ({self.by_hand} by hand)" if self.by_hand else ""
        return f"{counted(self.done, 'experiment')}{apart}"


def keeps_in_words(kept: int, *, experiments: int) -> str:
    """How many ideas are kept, and in how many experiments if that are more."""
    return f"{kept} kept" + (f" (in {experiments} experiments)" if experiments > kept else "")


def beside_ideas(records: Iterable[AnyRecord]) -> dict[ExperimentKind, str]:
    """How many experiments ran of each kind that tries no idea, in words; kinds of which none ran are left out."""
    ran = Counter(r.experiment.kind for r in records if r.verdict is not None and r.verdict.decision != "lost")
    return {kind: counted(ran[kind], *nouns) for kind, nouns in BESIDE_IDEAS.items() if ran[kind]}


def count(*of_heads: Iterable[AnyRecord]) -> Counts:
    """The counts of experiments, given apart for each head that they build on."""
    ended: Counter[Decision] = Counter()
    by_hand = abandoned = 0
    kept: list[list[AnyRecord]] = []
    for records in of_heads:
        kept.append([])
        for record in records:  # once: there may be hundreds of thousands
            if record.verdict is None or record.experiment.kind not in IDEAS:
                continue
            decision = record.verdict.decision
            ended[decision] += 1
            by_hand += record.experiment.kind == "manual" and decision != "lost"
            abandoned += decision == "lost" and record.is_abandoned
            if decision == "keep" and is_keep(record):
                kept[-1].append(record)
    return Counts(
        done=ended.total() - ended["lost"],
        by_hand=by_hand,
        kept=sum(map(_distinct, kept)),
        kept_experiments=sum(map(len, kept)),
        discarded=ended["discard"],
        crashed=ended["crash"],
        invalid=ended["invalid"],
        lost=ended["lost"] - abandoned,
        abandoned=abandoned,
    )


def count_stored(experiments: "StoredRecords", *of_heads: Iterable[str]) -> Counts:
    """The counts of the experiments of branches, given apart for each head that they build on. Only what is kept is read."""
    groups = [list(branches) for branches in of_heads]
    ended: Counter[tuple[ExperimentKind, Decision]] = Counter()
    for branch in (branch for branches in groups for branch in branches):
        ended.update(experiments.outcomes(branch))
    by = {decision: sum(ended[kind, decision] for kind in IDEAS) for decision in get_args(Decision)}
    abandoned = sum(experiments.abandoned(branch) for branches in groups for branch in branches)
    ids = [[line.id for branch in branches for line in experiments.kept(branch) if line.kind in IDEAS] for branches in groups]
    kept = [list(filter(is_keep, experiments.with_ids(of_head))) for of_head in ids]
    return Counts(
        done=sum(by.values()) - by["lost"],
        by_hand=sum(number for (kind, decision), number in ended.items() if kind == "manual" and decision != "lost"),
        kept=sum(map(_distinct, kept)),
        kept_experiments=sum(map(len, kept)),
        discarded=by["discard"],
        crashed=by["crash"],
        invalid=by["invalid"],
        lost=by["lost"] - abandoned,
        abandoned=abandoned,
    )


def beside_stored_ideas(experiments: "StoredRecords", branch: str) -> dict[ExperimentKind, str]:
    """How many experiments of a branch ran of each kind that tries no idea, in words; kinds of which none ran are left out."""
    ran: Counter[ExperimentKind] = Counter()
    for (kind, decision), number in experiments.outcomes(branch).items():
        ran[kind] += number if decision != "lost" else 0
    return {kind: counted(ran[kind], *nouns) for kind, nouns in BESIDE_IDEAS.items() if ran[kind]}


def _distinct(records: Iterable[AnyRecord]) -> int:
    """The number of experiments without those that repeat the program or the edit of an earlier one."""
    number, seen = 0, set[str]()
    for record in records:
        names = names_of(record)
        number += seen.isdisjoint(names)
        seen |= names
    return number
