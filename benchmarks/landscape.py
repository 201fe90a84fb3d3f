"""Landscapes that research is simulated on: what could be found, and what chance does to a score.

A landscape's file is one JSON object, a distribution: repeat k draws its own landscape with k as the seed. Effects, slots and
interactions are drawn once a repeat, noise once a run. Everything is in bpb, and a positive effect is a gain. The fields and
their defaults are those of `Landscape`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from research.errors import UserError

BASELINE = 0.9979
"""The score of the untouched train.py without noise."""

APPEAL_UNIT = 0.0007
"""The gain whose appeal is `insight * log(2)`, in bpb."""

LARGEST_FADE = 0.9
"""The most of a gain that the others in the head can take away."""

Shape = Literal["normal", "exponential", "lognormal"]
Ideas = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class EffectShare:
    """One part of the distribution of effects."""

    share: float
    shape: Shape
    scale: float
    """Standard deviation, mean or median, by shape."""
    mean: float = 0.0
    sign: int = 1
    spread: float = 1.0
    """Standard deviation of the logarithm, for `lognormal`."""
    most: float | None = None
    """The largest size of an effect."""


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A distribution of what research could find."""

    about: str = ""
    sigma: float = 0.0007
    """Standard deviation of a score between seeds."""
    sigma_claimed: float | None = None
    """What the policy is told; None: the true one."""
    tails: float | None = None
    """Degrees of freedom of Student's t noise; None: normal noise."""
    sigma_spread: float = 0.0
    """Standard deviation of the logarithm of sigma from idea to idea."""
    ideas: int = 1000
    slots: int = 60
    effects: tuple[EffectShare, ...]
    insight: float = 0.5
    """How early good ideas come to mind."""
    taste: float = 0.5
    """How much loops differ in what comes to mind."""
    crash: float = 0.03
    interactions: float = 0.0
    """Probability that two ideas of different slots interact."""
    interaction_scale: float = 0.0
    context: float = 0.0
    """The share of a gain that each larger effect in the head takes away."""

    @property
    def told_sigma(self) -> float:
        """The sigma that the policy is told."""
        return self.sigma if self.sigma_claimed is None else self.sigma_claimed


def read_landscape(path: Path) -> Landscape:
    """The landscape in a file. Raises UserError if the file is not one."""
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        unknown = set(body) - {f.name for f in fields(Landscape)}
        if unknown:
            raise UserError(f"{path} has fields that no landscape has: {', '.join(sorted(unknown))}")
        return Landscape(**{**body, "effects": tuple(EffectShare(**part) for part in body["effects"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a landscape ({error}): see benchmarks/landscapes/ for some") from None


class World:
    """One repeat's landscape: the effects of its ideas, and the value of every set of them."""

    def __init__(self, landscape: Landscape, repeat: int) -> None:
        self.landscape = landscape
        self.repeat = repeat
        rng = np.random.default_rng(repeat)
        count = landscape.ideas
        self.effects = _draw_effects(landscape, rng)
        self.slots = rng.integers(landscape.slots, size=count)
        self.crashes = rng.random(count) < landscape.crash
        self.sigmas = landscape.sigma * np.exp(landscape.sigma_spread * rng.standard_normal(count))
        self.appeal = landscape.insight * np.log1p(np.maximum(self.effects, 0) / APPEAL_UNIT) + rng.standard_normal(count)
        self._pairs = self._draw_interactions(rng)

    def order(self, loop: int) -> NDArray[np.int64]:
        """The ideas in the order in which a loop thinks of them."""
        rng = np.random.default_rng([self.repeat, 1, loop])
        return np.argsort(-(self.appeal + self.landscape.taste * rng.standard_normal(len(self.appeal))))

    def value(self, ideas: Ideas) -> float:
        """What a train.py with these ideas gains."""
        chosen = list(ideas)
        if not chosen:
            return 0.0
        effects = self.effects[chosen]
        if self.landscape.context:
            ranks = np.argsort(np.argsort(-np.abs(effects), kind="stable"), kind="stable")
            fade = 1 - np.minimum(LARGEST_FADE, self.landscape.context * ranks)
            effects = np.where(effects > 0, effects * fade, effects)
        total = float(effects.sum())
        if self._pairs is not None:
            total += 0.5 * float(self._pairs[np.ix_(chosen, chosen)].sum())
        return total

    def score(self, ideas: Ideas, new: int | None, rng: np.random.Generator) -> float | None:
        """val_bpb of one run; None for a crash. The noise is that of the new idea, if there is one."""
        if new is not None and self.crashes[new]:
            return None
        sigma = self.landscape.sigma if new is None else float(self.sigmas[new])
        tails = self.landscape.tails
        if tails is None:
            noise = rng.standard_normal()
        else:
            noise = rng.standard_t(tails) * (np.sqrt((tails - 2) / tails) if tails > 2 else 1.0)
        return BASELINE - self.value(ideas) + sigma * float(noise)

    def with_idea(self, ideas: frozenset[int], new: int) -> frozenset[int]:
        """The ideas with a new one, which takes the place of one in its slot."""
        slot = self.slots[new]
        return frozenset(idea for idea in ideas if self.slots[idea] != slot) | {new}

    def bad_share(self, ideas: frozenset[int]) -> float:
        """The share of these ideas whose removal would not lower the value; NaN without ideas."""
        whole = self.value(sorted(ideas))
        bad = [self.value(sorted(ideas - {idea})) >= whole for idea in ideas]
        return sum(bad) / len(bad) if bad else float("nan")

    def _draw_interactions(self, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """A symmetric matrix of what pairs add beyond their effects; None if no pair does."""
        landscape, count = self.landscape, self.landscape.ideas
        if not landscape.interactions or not landscape.interaction_scale:
            return None
        pairs = rng.binomial(count * (count - 1) // 2, landscape.interactions)
        first, second = rng.integers(count, size=(2, pairs))
        apart = self.slots[first] != self.slots[second]
        first, second = first[apart], second[apart]
        sizes = landscape.interaction_scale * np.sqrt(np.abs(self.effects[first] * self.effects[second]))
        matrix = np.zeros((count, count))
        matrix[first, second] = matrix[second, first] = sizes * rng.standard_normal(len(first))
        return matrix


def _draw_effects(landscape: Landscape, rng: np.random.Generator) -> NDArray[np.float64]:
    """One effect for each idea."""
    shares = np.array([part.share for part in landscape.effects])
    kinds = rng.choice(len(shares), size=landscape.ideas, p=shares / shares.sum())
    effects = np.zeros(landscape.ideas)
    for kind, part in enumerate(landscape.effects):
        chosen = kinds == kind
        effects[chosen] = _sample(part, int(chosen.sum()), rng)
    return effects


def _sample(part: EffectShare, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if part.shape == "normal":
        sample = rng.normal(part.mean, part.scale, count)
    elif part.shape == "exponential":
        sample = part.sign * rng.exponential(part.scale, count)
    elif part.shape == "lognormal":
        sample = part.sign * part.scale * np.exp(part.spread * rng.standard_normal(count))
    else:
        raise ValueError(f"no shape of effects is called {part.shape!r}")
    return sample if part.most is None else np.clip(sample, -part.most, part.most)
