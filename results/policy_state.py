"""What `results/policy.py` knows and decides upon, as records: its figures, ideas, runs, and the state after some runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from results.effect_estimate import Estimate
from results.observations import Seed

RunKind = Literal["baseline", "merge", "wave", "control", "explore"]
"""`baseline`: the untouched train.py; `merge`: the head that is planned; `control`: the head or the untouched train.py again;
`wave`: several candidates on the head (`results/waves.py`); `explore`: an idea on the head."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The figures of the policy."""

    greedy: bool = False
    """Whether an idea is kept when its score is below the head's own, as karpathy/autoresearch does, whatever is likely."""
    keep: float = 0.7
    """An idea is kept when it helps by more than its price with at least this probability."""
    drop: float = 0.6
    """A patch leaves the head when that probability falls below this, or when its effect is expected to be below its price."""
    forget: float = 0.05
    """An idea is forgotten when that probability falls below this."""
    doubt: float = 1.65
    """An idea is forgotten, too, when its mean and this many standard deviations are below 0."""
    candidates: int = 50
    """The most ideas that are remembered outside of the head."""
    baselines: int = 2
    controls: float = 0.03
    """The share of runs that are controls, on several devices."""
    controls_alone: float = 0.05
    """The share of runs that are controls, on one device."""
    changes_alone: int = 2
    """How many changes of the head a merge waits for on one device, where its run costs an idea."""
    merge_sds: float = 3.0
    """Standard deviations below its prediction at which a merge has failed."""
    merge_again_sds: float = 6.0
    """Standard deviations below its prediction at which a merge runs once more before it has failed: the estimate takes most of
    such a run for a fault, and so it must not be what takes ideas apart either."""
    merge_pause: int = 5
    """The number of runs before a merge is run again whose runs said nothing, since they were disturbed."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """An idea's edit, as the policy sees it."""

    name: str
    slots: frozenset[str] = frozenset()
    """The constants, functions and classes that it touches: of two patches with a slot in common, one can be in a train.py."""
    price: float = 0.0
    """What it must gain, in bpb: the price of its lines, memory and time outside the clock."""
    needs: frozenset[str] = frozenset()
    """The patches without which it can't be in a train.py: it edits what they made of a slot."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that ended, with a score or by the fault of what ran; lost runs are none of them."""

    kind: RunKind
    score: float | None
    """val_bpb; None for a crash."""
    patches: frozenset[str]
    """Every patch in the train.py that ran."""
    left_out: frozenset[str] = frozenset()
    """The patches of the head that it was made from which are not in it."""
    idea: Patch | None = None
    """The new patch among them, in an exploration."""
    seed: Seed | None = None
    doubt: float = 0.0
    """Standard deviation, in bpb, that this run has beside the noise of all runs (`Observation.doubt`)."""
    checked: bool = True
    """Whether the score has been confirmed on all rows: a train.py whose score has not becomes no head by it."""
    disturbed: bool = False
    """Whether the run had an unusual share of its machine, so that a merge is repeated before it decides."""
    share_gain: float = 0.0
    """What a larger share of its machine than usual, or than what it is compared with, may have gained it, in bpb."""
    share: float = 0.0
    """The run's share of its machine, as `Observation.share` has it."""
    compared_share: float = 0.0
    """The share of the machine, as in `Observation`, of the runs that it is compared with: a merge must be as good as promised
    with it, since what less of the machine is worth is known from few runs, its own first one among them."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step from one head to another: one patch in, its rivals out; or one patch out."""

    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run is of."""

    kind: RunKind
    patches: frozenset[str]
    left_out: frozenset[str] = frozenset()
    """The patches of the head that are not in it, as `Finished.left_out`."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the runs say of some patches after their prices, in bpb."""

    net: Mapping[str, float] = field(default_factory=dict)
    """The mean of the effect less the price."""
    sds: Mapping[str, float] = field(default_factory=dict)
    helps: Mapping[str, float] = field(default_factory=dict)
    """The probability that the effect is above the price."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FarmState:
    """One platform's research after some runs."""

    posterior: Estimate
    rules: Rules = field(default_factory=Rules)
    devices: int
    head: frozenset[str] = frozenset()
    """The patches of the head that all loops build on."""
    patches: Mapping[str, Patch] = field(default_factory=dict)
    """The patches that are remembered: those of the head and the candidates."""
    entered: tuple[frozenset[str], frozenset[str]] | None = None
    """The latest head that came in with the run that measured it, after the one before it; None if there was none."""
    plan: tuple[tuple[Change, ...], ...] = ()
    """Groups of changes, each of which one merge run verifies, in this order."""
    barred: frozenset[str] = frozenset()
    """Patches that stay out of the head: their merge failed alone, they crashed, or a person dropped them."""
    pinned: frozenset[str] = frozenset()
    """Patches of the head that can't be taken out: their text has been built upon, or a person keeps them."""
    doubted: frozenset[str] | None = None
    """The planned head whose latest merge was disturbed, or far from what it promised, so that it runs again; None if there is
    none."""
    postponed: frozenset[str] | None = None
    """The planned head of which two runs said nothing, since they were disturbed; None if there is none."""
    merges_from: int = 0
    """The number of runs from which merges are planned again after one was postponed."""
    early: tuple[Finished, ...] = ()
    """Runs that ended before the first baseline: they are taken up after it."""
    runs: int = 0
    controls: int = 0
    baselines: int = 0

    @property
    def candidates(self) -> tuple[str, ...]:
        """The remembered patches that are not in the head."""
        return tuple(name for name in self.patches if name not in self.head)

    @property
    def planned(self) -> frozenset[str]:
        """The head with the next group of changes; the head itself if none is planned."""
        return changed(self.head, self.plan[0]) if self.plan else self.head


def changed(head: frozenset[str], changes: Iterable[Change]) -> frozenset[str]:
    """The head after these changes."""
    for change in changes:
        head = (head - change.remove) | change.add
    return head
