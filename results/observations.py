"""Runs as the regression of `results/effect_estimate.py` sees them, and what is claimed of their noise."""

from dataclasses import dataclass

SLOPE = "slope of the machine's share"
"""The term by which a score is better with a larger share of the machine: no patch has such a name.

What runs on a busy machine lost is one unknown for all of them. So runs with equal shares compare as if nothing else ran there,
and no number of runs on a quiet machine makes a gain over a baseline on a busy one certain.
"""

SLOPE_CLAIMED, SLOPE_DOUBT = 0.5, 0.5
"""Mean and standard deviation of that slope before runs tell of it, as parts of `NoiseModel.share_slope`. What a share is worth
was measured for an untouched train.py; another one may do with less, and what the kernel counts is not all that was missing."""

Seed = int | tuple[int, str]
"""A common seed; with the name of a structure, what it draws for programs of that structure."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One run with a score, as the regression sees it."""

    score: float
    """val_bpb."""
    patches: frozenset[str]
    """Every patch that is in the train.py that ran."""
    left_out: int = 0
    """How many patches of the head of that time are not in it."""
    seed: Seed | None = None
    """One of the common seeds; None: a seed of its own, whose effect is part of the noise."""
    doubt: float = 0.0
    """Standard deviation, in bpb, that this run has beside the noise of all runs."""
    share: float = 0.0
    """The run's share of its machine, as a logarithm, above that of the first run, beyond what makes no difference; 0 also
    where it isn't known."""


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """What is claimed of the noise before anything is measured."""

    sigma: float
    """Standard deviation of val_bpb between seeds of one commit, in bpb."""
    is_known: bool = False
    """Whether sigma is taken as it is, whatever the runs say."""
    runs: float = 5
    """How many runs sigma counts as, against runs without a new idea."""
    seed_share: float = 0.0
    """The share of sigma**2 that runs under one seed have in common, until refits have learned it; 0: they have nothing."""
    share_slope: float = 0.0
    """What a unit of the training time's logarithm is worth in bpb."""
    refit_every: int = 10
    """Runs between refits of the prior's shares at first: ten for each loop."""
