"""What an idea's effect may be before it is tried, and after it: a mixture of normals, in standard deviations of a score.

Most ideas do nothing or harm, some help, and few help much. Every share of the mixture is a normal, so what a noisy
observation leaves of it is a mixture of normals again, in closed form. Pure functions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARES: tuple[tuple[float, float, float], ...] = (
    (0.55, 0.0, 0.3),
    (0.157, 0.8, 0.6),
    (0.025, 1.6, 1.2),
    (0.02, 3.2, 2.4),
    (0.016, 6.4, 4.8),
    (0.015, 12.8, 9.6),
    (0.038, -0.8, 0.6),
    (0.039, -1.6, 1.2),
    (0.05, -3.2, 2.4),
    (0.052, -6.4, 4.8),
    (0.034, -12.8, 9.6),
    (0.001, 0.0, 3000.0),
)
"""Share, mean and standard deviation of each part of the mixture; a positive effect is a gain.

The last part is of ideas that break the model: without it their losses would be blamed on the rest of the train.py.
"""

PSEUDO_COUNTS = 20.0
"""How many ideas the shares above count as, against those that were tried."""

FIRST_OBSERVATION_SHARE = 0.5
"""How much an idea's first run says of the noise, against a run without a new idea: its effect isn't known."""

EM_STEPS = 20
"""Steps of expectation and maximisation in a refit, which starts at the shares of the refit before."""

BISECTIONS = 40
"""Halvings in a search for a residual."""

HALVINGS_AT_ONCE = 5
"""So many are one look at all the residuals that they may come to: a call of NumPy takes longer than some more numbers."""

OUTSIDE = 40.0
"""Standard deviations from every part of a mixture beyond which no quantile is looked for."""

CLOSE = 1e-9
"""The last of Newton's steps towards a quantile, in the least standard deviation of its mixture: it leaves about its square."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Mixtures of normals, one for each row; weights, means and sds have the shape (rows, parts)."""

    weights: Floats
    means: Floats
    sds: Floats

    def mean(self) -> Floats:
        """The mean of each row."""
        return np.asarray((self.weights * self.means).sum(-1))

    def variance(self) -> Floats:
        """The variance of each row."""
        return np.asarray((self.weights * (self.sds**2 + self.means**2)).sum(-1) - self.mean() ** 2)

    def above(self, bounds: Floats) -> Floats:
        """The probability of more than each row's bound; bounds may have more dimensions before that of the rows."""
        from scipy.special import ndtr  # see `load_scipy`

        return np.asarray((self.weights * ndtr((self.means - bounds[..., None]) / self.sds)).sum(-1))

    def quantiles(self, *probabilities: float) -> Floats:
        """The values below which each row lies with these probabilities, of shape (probabilities, rows).

        They are found by Newton's method, with a bisection of what is known to hold the value where a step leaves that.
        """
        left = self.rows(np.tile(np.arange(len(self.means)), len(probabilities)))
        low, high = (left.means - OUTSIDE * left.sds).min(-1), (left.means + OUTSIDE * left.sds).max(-1)
        wanted: NDArray[Any] = np.repeat(probabilities, len(self.means))
        places: NDArray[Any] = np.arange(len(wanted))
        found = left.mean()
        value = found.copy()
        for _ in range(4 * BISECTIONS):
            missing = wanted - (1 - left.above(value))
            low, high = np.where(missing > 0, value, low), np.where(missing > 0, high, value)
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                newton = value + missing / left.density(value)
            is_inside = (newton >= low) & (newton <= high)
            before, value = value, np.where(is_inside, newton, (low + high) / 2)
            found[places] = value
            least = left.sds.min(-1)
            is_found = np.where(is_inside, np.abs(value - before) <= CLOSE * least, high - low <= 4 * np.spacing(np.abs(value)))
            if is_found.all():
                break
            if is_found.any():
                left = left.rows(~is_found)
                places, wanted, low, high, value = (one[~is_found] for one in (places, wanted, low, high, value))
        return found.reshape(len(probabilities), -1)

    def density(self, values: Floats) -> Floats:
        """The probability density of each row at its value."""
        away = (values[:, None] - self.means) / self.sds
        return np.asarray((self.weights * np.exp(-0.5 * away**2) / self.sds).sum(-1) / math.sqrt(2 * math.pi))

    def rows(self, chosen: NDArray[Any]) -> "Mixture":
        """These rows: by their numbers, or by whether each is chosen."""
        return Mixture(weights=self.weights[chosen], means=self.means[chosen], sds=self.sds[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstObservations:
    """The first runs of ideas; the arrays have the shape (ideas,)."""

    residuals: Floats
    """What each run scored above the prediction without its idea."""
    variances: Floats
    """Variance of each prediction, without the run's noise."""


@dataclass(frozen=True, kw_only=True)
class NoiseCount:
    """What is known of the noise from elsewhere: a sum of squares, and how many runs it counts as."""

    sum: float
    count: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectPrior:
    """The mixture that a new idea's effect is drawn from; the arrays have the shape (parts,)."""

    shares: Floats
    means: Floats
    variances: Floats

    def posterior(self, observed: Floats, variances: Floats) -> Mixture:
        """What is left of the mixture for effects that were observed with noise of these variances, one row each."""
        spread = self.variances + variances[:, None]
        log_weights = np.log(self.shares) - 0.5 * (np.log(spread) + (observed[:, None] - self.means) ** 2 / spread)
        weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        gains = self.variances / spread
        means = self.means + gains * (observed[:, None] - self.means)
        return Mixture(weights=weights, means=means, sds=np.sqrt(gains * variances[:, None]))

    def residual_that_shows(self, variance: float, bound: float, probability: float) -> float:
        """The smallest residual, with noise of this variance, after which the effect is probably above a bound."""
        low, high = bound - OUTSIDE, bound + OUTSIDE
        for _ in range(BISECTIONS // HALVINGS_AT_ONCE):
            residuals = np.linspace(low, high, 2**HALVINGS_AT_ONCE + 1)[1:]
            shown = self.posterior(residuals, np.full(len(residuals), variance)).above(np.full(len(residuals), bound))
            enough = np.flatnonzero(shown >= probability)
            first = enough[0] if len(enough) else len(residuals) - 1
            low, high = float(residuals[first - 1]) if first else low, float(residuals[first])
        return high

    def refitted(self, observations: "FirstObservations", known: "NoiseCount") -> tuple["EffectPrior", float]:
        """The prior with the shares that first observations of ideas speak for, and the noise's variance, by EM.

        `PSEUDO_COUNTS` ideas speak for the shares that the prior begins with.
        """
        expected = PSEUDO_COUNTS * first_prior().shares
        shares, noise = self.shares, known.sum / known.count
        for _ in range(EM_STEPS):
            spread = self.variances + (observations.variances + noise)[:, None]
            squares = (observations.residuals[:, None] - self.means) ** 2 / spread
            weights = shares * np.exp(-0.5 * (squares - squares.min(-1, keepdims=True))) / np.sqrt(spread)
            weights /= weights.sum(-1, keepdims=True)
            counts = expected + weights.sum(0)
            shares = counts / counts.sum()
            part = noise / spread  # of a residual, the noise's part
            noises = float((weights * (part**2 * spread * squares + noise * (1 - part))).sum())
            noise = (known.sum + FIRST_OBSERVATION_SHARE * noises) / (known.count + FIRST_OBSERVATION_SHARE * len(spread))
        return replace(self, shares=shares), noise


def load_scipy() -> None:
    """Imports what `Mixture.above` needs. That is a fifth of the start of what opens a store, often without estimates, and it
    takes so long that an event loop must not be the first to do it.
    """
    import scipy.special  # noqa: F401


def prior_of(parts: Sequence[tuple[float, float, float]]) -> EffectPrior:
    """The prior with these shares, means and standard deviations."""
    shares, means, sds = np.array(parts, dtype=np.float64).T
    return EffectPrior(shares=shares / shares.sum(), means=means, variances=sds**2)


def first_prior() -> EffectPrior:
    """The prior before any idea was tried."""
    return prior_of(SHARES)
