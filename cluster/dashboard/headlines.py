"""What was gained and whether to believe it: a headline for each head, and how its expected score fell."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.person_requests import pending
from results.confirmation import Confirmation, conclusion, confirmation_of, shows_no_gain
from results.counts import Counts, beside_ideas, count
from results.experiment import ExperimentRecord, Usage
from results.gains import BPB_STEP, device_seconds, gain_by_scores
from results.group_history import GroupHistory
from results.head_gain import ExpectedGain, gain_in
from results.history import BranchHistory, by_head
from results.overfitting import Overfitting, measure_overfitting
from results.researcher_costs import total

MOST_ENTRIES = 1_000
"""Records of a group up to which a page computes a gain that no loop has recorded: more would take it seconds."""


@dataclass(frozen=True, kw_only=True)
class ToldGain:
    """The gain of a group's head as its loops have recorded it."""

    gain: ExpectedGain
    behind: int
    """Runs since, which it doesn't take into account yet."""


@dataclass(frozen=True, kw_only=True)
class Fall:
    """The expected score of a group's heads over its experiments."""

    steps: tuple[tuple[int, float], ...]
    """(experiments of the group before it, expected val_bpb) of the baseline and of each head, oldest first."""
    experiments: int


class Headline:
    """What is known of one head and of the branches that build on it, computed when a page asks."""

    def __init__(self, sharing: Sequence[BranchHistory], runs_folder: Path) -> None:
        self._runs = runs_folder
        self.histories = tuple(sharing)
        self.group: GroupHistory = sharing[0].group
        self.branch = sharing[0].branch

    @property
    def name(self) -> str:
        return self.group.name

    @cached_property
    def told(self) -> ToldGain | None:
        """What all runs say of the head's gain; None if that isn't recorded and would take long to compute."""
        return told_gain(self.group)

    @cached_property
    def is_at_baseline(self) -> bool:
        """Whether nothing but the baseline is kept, or nothing has a score yet."""
        head, baseline = self.group.head_record, self.group.baseline
        if self.group.head is None or head is None or baseline is None:
            return True
        tried, untouched = head.experiment, baseline.experiment
        is_same = tried.commit == untouched.commit or bool(tried.program and tried.program == untouched.program)
        return is_same or (self.told is not None and self.told.gain.low == self.told.gain.high)

    @cached_property
    def head(self) -> ExperimentRecord | None:
        return self.group.head_record

    @cached_property
    def baseline(self) -> ExperimentRecord | None:
        return self.group.baseline

    @cached_property
    def selected(self) -> float | None:
        """The gain by the raw score with which the head was selected, which overstates."""
        return None if self.is_at_baseline else gain_by_scores(self.group)

    @cached_property
    def confirmation(self) -> Confirmation | None:
        """What fresh seeds say of the head."""
        if self.group.head is None or all(one.experiment.kind != "confirm" for one in self.group.outlines):
            return None
        return confirmation_of(self.group, self.group.head.commit)

    @property
    def conclusion(self) -> str:
        """The confirmation in words."""
        if self.confirmation is None or self.told is None:
            return ""
        return conclusion(self.confirmation.found, self.told.gain.gain)

    @property
    def is_refuted(self) -> bool:
        """Whether fresh seeds show no gain."""
        found = self.confirmation
        return found is not None and self.told is not None and shows_no_gain(found.found, self.told.gain.gain)

    @cached_property
    def audit(self) -> Overfitting | None:
        """The gain on rows that no researcher sees, beside that on validation."""
        if self.is_at_baseline or self.baseline is None or self.head is None:
            return None
        return measure_overfitting(self.baseline, self.head, self._runs)

    @cached_property
    def counts(self) -> Counts:
        return count(self.group.outlines)

    @cached_property
    def beside(self) -> str:
        """What ran beside ideas, in words; empty if nothing did."""
        return ", ".join(beside_ideas(self.group.outlines).values())

    @cached_property
    def device_seconds(self) -> float:
        return device_seconds(self.group.outlines)

    @cached_property
    def cost(self) -> Usage:
        """What the researchers of its branches have cost."""
        return total(usage for history in self.histories for usage in history.costs)

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds of devices for each BPB_STEP gained; None without a gain."""
        if self.told is None or self.told.gain.gain <= 0 or not self.device_seconds:
            return None
        return self.device_seconds / (self.told.gain.gain / BPB_STEP)

    @cached_property
    def requests(self) -> list[str]:
        """What people have asked for and has not come about yet, in words."""
        return pending(self.group)

    @cached_property
    def fall(self) -> Fall:
        """How the expected score fell."""
        return fall_of(self.group, self.told)


def headlines(histories: Sequence[BranchHistory], runs_folder: Path) -> list[Headline]:
    """A headline for each head, that of the newest experiment first."""
    return [Headline(sharing, runs_folder) for sharing in reversed(by_head(histories))]


def told_gain(group: GroupHistory) -> ToldGain | None:
    """The recorded gain of the group's head, or what the runs of a small group say."""
    event, head = group.gain_event, group.head
    if event is not None and head is not None and event["commit"] == head.commit:
        found = gain_in(event, head.commit, event["records"])
        return None if found is None else ToldGain(gain=found, behind=max(0, len(group.entries) - event["records"]))
    if head is None or len(group.entries) > MOST_ENTRIES or group.gain is None:
        return None
    return ToldGain(gain=group.gain, behind=0)


def fall_of(group: GroupHistory, told: ToldGain | None) -> Fall:
    """The expected scores of the group's baseline and heads, where each came about."""
    place = group.place_of
    steps = []
    if group.baseline is not None and group.baseline.val_bpb is not None:
        expected = told.gain.baseline if told else group.baseline.val_bpb
        steps.append((place[group.baseline.experiment.id], expected))
    steps += [(place.get(head.experiment_id, 0), head.expected) for head in group.heads]
    if told is not None and group.heads:  # what all runs say by now of the one that is the head
        steps[-1] = (steps[-1][0], told.gain.head)
    return Fall(steps=tuple(steps), experiments=len(group.outlines))
