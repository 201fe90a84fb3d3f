"""What was run of several ideas together: whether their effects added up, and which ideas can't be together at all."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.dashboard.headlines import Headline
from results.experiment import ExperimentRecord, Head
from results.group_entries import Ruled

TOGETHER = ("wave", "merge")
"""The kinds of experiments that run several ideas in one train.py."""

UNUSUAL_SIGMAS = 2.0
"""Standard deviations by which a score may differ from the sum of its parts by chance."""

MOST_TOGETHER = 300
"""Combinations of a group that are read, the latest ones."""

Idea = tuple[str, ExperimentRecord | None]
"""The id of the experiment that first tried an idea, and its record if there is one."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One run of several ideas together."""

    record: ExperimentRecord
    added: tuple[Idea, ...]
    """The ideas in it that were not in the head that it was made from."""
    left_out: tuple[Idea, ...]
    in_head: int
    """How many ideas of that head are in it."""
    beyond: float | None
    """Its gain in bpb beyond what all runs expected of its parts; below 0 it is worse than their sum. None without a score."""
    sigmas: float | None
    """`beyond` in standard deviations between seeds."""

    @property
    def finding(self) -> str:
        """Whether its parts add up, in words."""
        if self.sigmas is None:
            return "no score" if self.record.is_done else "under way"
        if abs(self.sigmas) <= UNUSUAL_SIGMAS:
            return "adds up"
        return "more than its parts" if self.sigmas > 0 else "clashes"

    @property
    def clashes(self) -> bool:
        """Whether it was worse than its parts by more than chance."""
        return self.sigmas is not None and self.sigmas < -UNUSUAL_SIGMAS


@dataclass(frozen=True, kw_only=True)
class InWaves:
    """What the runs of waves alone say of one idea."""

    inside: int
    outside: int
    """Scored runs with it and without it, of the waves that it was in."""
    gain: float
    """Mean val_bpb without it less that with it: positive is better."""


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Near-misses that change the same places of train.py, so that only one of them can be in the head."""

    slots: tuple[str, ...]
    ideas: tuple[Idea, ...]


def combinations(headline: Headline, records: Mapping[str, ExperimentRecord]) -> list[Combination]:
    """The latest combinations of a group, newest first."""
    heads = {head.commit: head for head in headline.group.heads}
    together = headline.group.latest(lambda outline: outline.experiment.kind in TOGETHER, MOST_TOGETHER)
    return [_combination(record, heads.get(record.experiment.parent_commit), records) for record in reversed(together)]


def _combination(record: ExperimentRecord, head: Head | None, records: Mapping[str, ExperimentRecord]) -> Combination:
    inside, verdict = set(head.patches if head else ()), record.verdict
    is_scored = verdict is not None and verdict.gain is not None and record.val_bpb is not None
    gain, sigma = (verdict.gain, verdict.sigma) if verdict is not None and is_scored else (None, None)
    return Combination(
        record=record,
        added=tuple((id, records.get(id)) for id in record.experiment.patches if id not in inside),
        left_out=tuple((id, records.get(id)) for id in record.experiment.left_out),
        in_head=sum(id in inside for id in record.experiment.patches),
        beyond=gain,
        sigmas=gain / sigma if gain is not None and sigma else None,
    )


def in_waves(found: Sequence[Combination]) -> dict[str, InWaves]:
    """What waves alone say of each idea that was in one. Runs of waves on one head are compared with each other."""
    waves: dict[str, list[Combination]] = defaultdict(list)
    for one in found:
        if one.record.experiment.kind == "wave" and one.record.val_bpb is not None:
            waves[one.record.experiment.parent_commit].append(one)
    told = {}
    for runs in waves.values():
        for idea in {id for one in runs for id, _ in one.added}:
            with_it = [one.record.val_bpb or 0.0 for one in runs if idea in dict(one.added)]
            without = [one.record.val_bpb or 0.0 for one in runs if idea not in dict(one.added)]
            if with_it and without:
                gain = sum(without) / len(without) - sum(with_it) / len(with_it)
                told[idea] = InWaves(inside=len(with_it), outside=len(without), gain=gain)
    return told


def rivals(near: Sequence[ExperimentRecord]) -> list[Rivals]:
    """The near-misses that change the same places, the largest group first."""
    by_slot: dict[str, list[Idea]] = defaultdict(list)
    for record in near:
        for slot in record.experiment.slots:
            by_slot[slot].append((record.experiment.id, record))
    groups: dict[tuple[str, ...], Rivals] = {}
    for slot, ideas in sorted(by_slot.items()):
        ids = tuple(id for id, _ in ideas)
        if len(ids) > 1:
            before = groups[ids].slots if ids in groups else ()
            groups[ids] = Rivals(slots=(*before, slot), ideas=tuple(ideas))
    return sorted(groups.values(), key=lambda one: (-len(one.ideas), one.slots))


def barred(headline: Headline, records: Mapping[str, ExperimentRecord], most: int) -> list[tuple[Idea, str]]:
    """The latest ideas that can't come into the head by a ruling, with its reason; the newest ruling on each counts."""
    rulings: dict[str, Ruled] = {}
    for entry in headline.group.rulings:
        if entry.ruling != "wave":
            rulings.update(dict.fromkeys(entry.patches, entry))
    out = [(id, ruled) for id, ruled in rulings.items() if ruled.ruling == "bar"]
    return [((id, records.get(id)), ruled.reason) for id, ruled in out[::-1][:most]]
