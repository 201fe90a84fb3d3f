"""Which researcher of a mix has the next idea, by what the ideas of each have gained per hour of devices: a bandit.

Thompson sampling over normal posteriors. Each researcher's mean gain per idea is shrunk towards the mean of all of them, which
counts for PRIOR_IDEAS ideas, and so is its time per idea; one draw from each posterior, divided by that time, is compared. The
choice is a pure function of the history and of its seed, so that a farm that resumes makes the same one.
"""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from results.experiment import ExperimentRecord
from results.gains import device_seconds

PRIOR_IDEAS = 5.0
"""How many ideas the mean of all researchers counts for: about as many as one needs to find something once."""

FLOOR = 0.05
"""The share of ideas that each researcher has at least on average, however little it has found: heads and records change."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """What the ideas of one researcher have gained and taken, or the sum of several researchers'."""

    ideas: int = 0
    gain: float = 0.0
    """The sum of their gains: of those in the head the shrunk estimate, of others nothing; in bpb."""
    squares: float = 0.0
    """The sum of the squares of their gains."""
    seconds: float = 0.0
    """The time of their runs on devices."""

    def __add__(self, other: "Credit") -> "Credit":
        return Credit(ideas=self.ideas + other.ideas, gain=self.gain + other.gain, squares=self.squares + other.squares,
                      seconds=self.seconds + other.seconds)  # fmt: skip


def credits(members: Iterable[str], ideas: Iterable[ExperimentRecord], effects: Mapping[str, float]) -> dict[str, Credit]:
    """The credit of each member by the ideas that are decided. `effects` are those of the ideas in the head."""
    found = {name: Credit() for name in members}
    for record in ideas:
        name, gain = record.experiment.researcher, effects.get(record.experiment.id, 0.0)
        if name in found and record.verdict is not None:
            found[name] += Credit(ideas=1, gain=gain, squares=gain**2, seconds=device_seconds([record]))
    return found


def chosen(credit: Mapping[str, Credit], *, seed: str) -> str:
    """The member that has the next idea."""
    rng = random.Random(seed)
    members = list(credit)
    if (place := rng.random()) < FLOOR * len(members):
        return members[int(place / FLOOR)]
    draws = {name: _drawn(one, credit.values(), rng) for name, one in credit.items()}
    return max(draws, key=lambda name: draws[name])


def _drawn(one: Credit, every: Iterable[Credit], rng: random.Random) -> float:
    """A gain per second that the posterior of one member allows."""
    pooled = _sum(every)
    variance = pooled.squares / pooled.ideas - (pooled.gain / pooled.ideas) ** 2 if pooled.ideas else 0.0
    deviation = math.sqrt(max(variance, 0.0) / (PRIOR_IDEAS + one.ideas)) or 1e-9  # without any gain all draws are alike
    return rng.gauss(_mean_gain(one, pooled), deviation) / _mean_seconds(one, pooled)


def _mean_gain(one: Credit, pooled: Credit) -> float:
    prior = pooled.gain / pooled.ideas if pooled.ideas else 0.0
    return (PRIOR_IDEAS * prior + one.gain) / (PRIOR_IDEAS + one.ideas)


def _mean_seconds(one: Credit, pooled: Credit) -> float:
    prior = pooled.seconds / pooled.ideas if pooled.seconds else 1.0
    return (PRIOR_IDEAS * prior + one.seconds) / (PRIOR_IDEAS + one.ideas)


def _sum(credit: Iterable[Credit]) -> Credit:
    return sum(credit, Credit())
