"""What each researcher of a group has found: its ideas in the head, their gain by all runs, and what they took and cost.

The gains are shrunk for having been selected, in bpb; a researcher's gain is the sum over its ideas in the head.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from research.formatting import duration
from results.experiment import Usage
from results.gains import device_seconds
from results.group_history import GroupHistory
from results.group_state import IdeaEstimate
from results.head_gain import is_told
from results.outlines import Outline
from results.researcher_costs import total
from results.verdict import figure

BEFORE = "claude"
"""Whose the costs are that an older version recorded without a name: no other researcher had any then."""


LEAST_USD = 0.005
"""US dollars that are told as $0.01: of less no gain per dollar is told."""


@dataclass(frozen=True, kw_only=True)
class Yield:
    """What one researcher has found, and for what."""

    researcher: str
    kept: int
    """Its ideas that are in the head."""
    gain: float
    device_seconds: float
    """The time that runs of its ideas have taken, also of those that came to nothing."""
    cost: Usage

    def line(self) -> str:
        """The yield in words."""
        gain = f", gain {figure(self.gain)}" if self.kept else ""
        is_rated = self._has_gain and round(self.device_seconds) > 0
        per_hour = f" ({figure(self.gain / (self.device_seconds / 3600))} per hour)" if is_rated else ""
        device = f"{duration(self.device_seconds)} of devices{per_hour}"
        return f"By {self.researcher}: {self.kept} in the head{gain}; {device}{self._money()}"

    @property
    def _has_gain(self) -> bool:
        """Whether its ideas in the head gain anything that is told."""
        return bool(self.kept) and self.gain > 0 and is_told(self.gain)

    def _money(self) -> str:
        usd = self.cost.cost_usd
        if usd is None:
            return ", cost unknown" if self.cost.answers else ", free"
        sure = "at least " if self.cost.cost_basis == "missing" else ""
        return f", {sure}${usd:.2f}" + (
            f" ({figure(self.gain / usd)} per dollar)" if self._has_gain and usd >= LEAST_USD else ""
        )


def yields(group: GroupHistory, inside: Mapping[str, IdeaEstimate], costs: Iterable[Usage]) -> list[Yield]:
    """One for each researcher that has tried an idea or cost something, the largest gain first. `inside`: the head's ideas."""
    ideas = [outline for outline in group.outlines if outline.is_idea]
    paid: dict[str, list[Usage]] = {}
    for usage in costs:
        paid.setdefault(usage.researcher or BEFORE, []).append(usage)
    names = dict.fromkeys([*(record.experiment.researcher for record in ideas), *paid])
    found = [
        _yield(name, [one for one in ideas if one.experiment.researcher == name], inside, paid.get(name, [])) for name in names
    ]
    return sorted(found, key=lambda one: -one.gain)


def _yield(name: str, ideas: Sequence[Outline], inside: Mapping[str, IdeaEstimate], costs: Sequence[Usage]) -> Yield:
    kept = [inside[record.experiment.id] for record in ideas if record.experiment.id in inside]
    return Yield(
        researcher=name,
        kept=len(kept),
        gain=sum(one.effect for one in kept),
        device_seconds=device_seconds(ideas),
        cost=total(costs),
    )
