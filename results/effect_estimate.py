"""What each idea is worth: one regression over all scores of a platform, as a pure function of the stored runs.

    -score / sigma = level + the seed's effect + the effects of the patches in the train.py that ran
                     + slope * the logarithm of the run's share of its machine + noise

A patch is an idea's edit against its parent; a run's train.py is the untouched one and a set of patches. `observe` takes one
run and `estimate` takes them all, with the same result. An effect's prior is a mixture (`results/effect_prior.py`),
everything else is Gaussian: an idea's first run is matched by its first two moments, which is one step of expectation
propagation (Minka 2001), and every further one is the update of a Kalman filter. Every `refit_every` runs, later more rarely,
all of them are taken up anew, under the noise and the prior's shares that they speak for. Scores and effects are in bpb here,
and in sigmas inside; a positive effect is a gain.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from results.effect_prior import (
    FIRST_OBSERVATION_SHARE,
    EffectPrior,
    FirstObservations,
    Floats,
    Mixture,
    NoiseCount,
    first_prior,
)
from results.growing import GrowingMapping, GrowingSequence, with_fields
from results.observations import SLOPE, SLOPE_CLAIMED, SLOPE_DOUBT, NoiseModel, Observation, Seed

LEVEL_VARIANCE = 1e4
"""Variance of the level before the first run, about that run's own score: whatever it may be."""

SURPRISE = 9.0
"""Squared innovation, in its variances, beyond which a run's noise is taken to have been as much larger."""

INTERPLAY = 0.5
"""Variance, in sigma**2, by which a head without one of its patches differs from what the patch's effect promises: that was
measured beside other patches than those of today, and patches interact."""

CONTEXT = 0.08
"""Variance, in sigma**2, by which an effect in some other head differs from that in the heads that it was measured in.

Intervals allow for it. In simulations without it, they held 83% of the effects where ideas interact much, instead of 90%.
"""

INTERVAL = 0.9
"""Probability of the intervals."""

MANY = 10
"""How many times `NoiseModel.refit_every` is a long history, to which a few more runs add little."""

SEEDS_CLAIMED = 4
"""How many seeds the claimed share of seeds counts as, against those that were measured."""

LEAST_KNOWN = 0.01
"""The least share of a belief's precision that is taken to come from runs: less is rounding, and would blow up."""

LARGEST_SHARE = 0.99
"""The most of sigma**2 that seeds are ever taken to explain."""


@dataclass(frozen=True, kw_only=True)
class Belief:
    """An effect's Gaussian, in units of the estimate's scale, and how much of it is the prior's doing."""

    mean: float
    variance: float
    site_precision: float
    """Precision of the Gaussian that stands for the prior; negative where an observation left more doubt than its own noise."""
    site_shift: float
    """Its precision times the mean of that Gaussian."""


@dataclass(frozen=True, kw_only=True)
class _Prediction:
    """What a run's prediction is the sum of: rows, and a multiple of one more."""

    rows: list[int]
    slope: int = 0
    """The row of SLOPE, where `share` is not 0."""
    share: float = 0.0

    def of(self, values: Floats) -> Floats:
        """The sum along the last axis."""
        total: Floats = values[..., self.rows].sum(-1)
        return total + self.share * values[..., self.slope] if self.share else total


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is known of a patch's effect, in bpb."""

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """The posterior after some runs.

    The rows of `mean` and `covariance` are the level and then `terms` in their order, in units of `scale`.
    """

    model: NoiseModel
    scale: float
    """The sigma of the last refit, in bpb: the unit inside."""
    prior: EffectPrior = field(default_factory=first_prior)
    terms: Mapping[str | Seed, int] = field(default_factory=dict)
    """Row of each patch (by its name), of each common seed and of SLOPE, once shares have differed."""
    mean: Floats = field(default_factory=lambda: np.zeros(0))
    covariance: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    sites: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    """Precision and shift of the Gaussian that stands for each row's prior, as in `Belief`; 0 in rows that aren't patches."""
    shelved: GrowingMapping[str, Belief] = field(default_factory=GrowingMapping)
    """Patches that no run is expected to have again."""
    first_observations: GrowingSequence[tuple[float, float]] = field(default_factory=GrowingSequence)
    """For each idea what its first run scored above the prediction without it, and that prediction's variance."""
    observations: GrowingSequence[Observation] = field(default_factory=GrowingSequence)
    noise: float
    """Variance of a run around its prediction, in scale**2."""
    seed_share: float
    """Variance of the common seeds' effects, in scale**2."""
    noise_prior: NoiseCount
    """What is known of the noise beside runs without a new idea."""
    noise_sum: float = 0.0
    noise_observations: int = 0

    @property
    def sigma(self) -> float:
        """The standard deviation of a score between seeds, in bpb, as far as runs have told."""
        return self.scale * math.sqrt(self.noise + self.seed_share)

    def knows(self, patch: str) -> bool:
        """Whether a run with this patch was seen."""
        return patch in self.terms or patch in self.shelved


def estimate_of_all(model: NoiseModel, observations: Sequence[Observation], *, staying: Iterable[str] = ()) -> Estimate:
    """The posterior after runs that no other follows: what is not `staying` is set aside after the last run that has it.

    So a long history of discards is quick. The noise and the prior are taken as they are claimed.
    """
    return _taken_up(begin(model), observations, staying=frozenset(staying))


def begin(model: NoiseModel) -> Estimate:
    """The estimate before any run. Raises ValueError for a sigma that is not positive."""
    if not model.sigma > 0 or not 0 <= model.seed_share < 1:
        raise ValueError(f"sigma must be positive and seed_share from 0 to below 1, not {model.sigma} and {model.seed_share}")
    noise = 1 - model.seed_share
    known = NoiseCount(sum=model.runs * noise, count=model.runs)
    return Estimate(model=model, scale=model.sigma, noise=noise, seed_share=model.seed_share, noise_prior=known)


def observe(before: Estimate, observation: Observation) -> Estimate:
    """The posterior after one more run."""
    after = _observed(before, observation)
    return refitted(after) if is_refit_due(len(after.observations), after.model.refit_every) else after


def is_refit_due(runs: int, every: int) -> bool:
    """Whether a refit follows after this many runs.

    At first one follows after each `every` runs. From 2 * MANY * `every` runs on, the distance doubles whenever their number
    does, since a refit takes up all of them.
    """
    return runs % (every << max(0, (runs // (MANY * every)).bit_length() - 1)) == 0


def _taken_up(
    before: Estimate, observations: Sequence[Observation], *, staying: Set[str | Seed], noise: float | None = None
) -> Estimate:
    """The posterior after all of these runs, under the same prior and, if it is given, the same noise.

    A patch that is not `staying` is set aside after the last run that has it.
    """
    last = {
        patch: index for index, observation in enumerate(observations) for patch in observation.patches if patch not in staying
    }
    ends: dict[int, set[str]] = {}
    for patch, index in last.items():
        ends.setdefault(index, set()).add(patch)
    for index, observation in enumerate(observations):
        over = ends.get(index, set())
        after = _observed(before, observation, over=over)
        before = shelve(after if noise is None else with_fields(after, noise=noise), over)
    return before


def _observed(before: Estimate, observation: Observation, *, over: Set[str] = frozenset()) -> Estimate:
    """The posterior after one more run, under the same prior. A new patch that is `over` is set aside at once."""
    z = -observation.score / before.scale
    known = before if len(before.mean) else _with_level(before, z)
    if observation.seed is not None and before.seed_share and observation.seed not in known.terms:
        known = _appended(known, observation.seed, Belief(mean=0, variance=before.seed_share, site_precision=0, site_shift=0))
    if observation.share and SLOPE not in known.terms:
        known = _appended(known, SLOPE, _slope(before))
    new = sorted(patch for patch in observation.patches if not before.knows(patch))
    known = _with_patches(known, observation.patches, new[1:])
    parts, doubt = _parts(known, observation, leaving_out=new[:1]), _doubt(before, observation)
    after = (
        _first_observation(known, new[0], z, parts, doubt, is_over=new[0] in over)
        if new
        else _further_observation(known, z, parts, doubt)
    )
    return with_fields(after, observations=before.observations.with_item(observation))


def _doubt(posterior: Estimate, observation: Observation) -> float:
    """The variance of a run beside the noise of all runs, in scale**2."""
    own_seed = posterior.seed_share if observation.seed is None else 0.0
    return own_seed + observation.left_out * INTERPLAY + (observation.doubt / posterior.scale) ** 2


def _slope(posterior: Estimate) -> Belief:
    """What is known of SLOPE."""
    if SLOPE in posterior.terms:
        return _belief(posterior, posterior.terms[SLOPE])
    claimed = posterior.model.share_slope / posterior.scale
    return Belief(mean=SLOPE_CLAIMED * claimed, variance=(SLOPE_DOUBT * claimed) ** 2, site_precision=0, site_shift=0)


def slope_sd(posterior: Estimate) -> float:
    """The standard deviation, in bpb, of what a unit of a share's logarithm is worth."""
    return math.sqrt(_slope(posterior).variance) * posterior.scale


def predicted(posterior: Estimate, observation: Observation) -> tuple[float, float]:
    """The mean of a run's val_bpb and its standard deviation, noise included. Patches that are unknown count as nothing."""
    parts = _parts(posterior, observation, leaving_out=[patch for patch in observation.patches if patch not in posterior.terms])
    shelved = [posterior.shelved[patch] for patch in observation.patches if patch in posterior.shelved]
    mean = float(parts.of(posterior.mean)) + sum(belief.mean for belief in shelved)
    variance = float(parts.of(parts.of(posterior.covariance))) + sum(belief.variance for belief in shelved)
    if observation.seed is not None and observation.seed not in posterior.terms:
        variance += posterior.seed_share
    if observation.share and SLOPE not in posterior.terms:
        slope = _slope(posterior)
        mean, variance = mean + observation.share * slope.mean, variance + observation.share**2 * slope.variance
    sigma = posterior.scale
    return -mean * sigma, math.sqrt(variance + posterior.noise + _doubt(posterior, observation)) * sigma


def shelve(posterior: Estimate, patches: Iterable[str]) -> Estimate:
    """The estimate with these patches set aside: exact for the others as long as no further run has them."""
    leaving = [patch for patch in patches if patch in posterior.terms]
    if not leaving:
        return posterior
    beliefs = {patch: _belief(posterior, posterior.terms[patch]) for patch in leaving}
    keep = np.ones(len(posterior.mean), dtype=bool)
    keep[[posterior.terms[patch] for patch in leaving]] = False
    names = [name for name in posterior.terms if name not in beliefs]
    return with_fields(
        posterior,
        terms={name: row for row, name in enumerate(names, start=1)},
        mean=posterior.mean[keep],
        covariance=posterior.covariance[keep][:, keep],
        sites=posterior.sites[keep],
        shelved=posterior.shelved.with_entries(beliefs),
    )


def recalled(posterior: Estimate, patches: Iterable[str]) -> Estimate:
    """The estimate with patches that were set aside among the others again."""
    return _with_patches(posterior, frozenset(patches), [])


def refitted(posterior: Estimate) -> Estimate:
    """The estimate with all runs taken up once more, under the noise and the prior's shares that all of them speak for."""
    residuals, variances = np.array(list(posterior.first_observations)).reshape(-1, 2).T
    prior, noise = posterior.prior.refitted(
        FirstObservations(residuals=residuals, variances=variances), _noise_count(posterior)
    )
    seeds = _seed_variance(posterior)
    share = min(seeds / (noise + seeds), LARGEST_SHARE)
    factor = noise / (1 - share)
    if posterior.model.is_known:
        share, factor = posterior.seed_share, 1.0
    count = posterior.model.runs + FIRST_OBSERVATION_SHARE * len(residuals)
    rest = NoiseCount(sum=(noise * (count + posterior.noise_observations) - posterior.noise_sum) / factor, count=count)
    fixed = 1 - share
    again = Estimate(
        model=posterior.model,
        scale=posterior.scale * math.sqrt(factor),
        prior=prior,
        noise=fixed,
        seed_share=share,
        noise_prior=rest,
    )
    return _taken_up(again, posterior.observations, staying=posterior.terms.keys(), noise=fixed)


def effects_of(posterior: Estimate, patches: Iterable[str]) -> Mixture:
    """The posterior of each patch's effect in units of the estimate's scale, one row each.

    Its shape is the mixture's, given all that the runs say of the patch beside its prior. Raises KeyError for a patch that no
    run had.
    """
    names = list(patches)
    if all(patch in posterior.terms for patch in names):
        rows = [posterior.terms[patch] for patch in names]
        marginals = np.column_stack([posterior.mean[rows], posterior.covariance[rows, rows], posterior.sites[rows]])
    else:
        beliefs = [
            _belief(posterior, posterior.terms[patch]) if patch in posterior.terms else posterior.shelved[patch]
            for patch in names
        ]
        marginals = np.array([[b.mean, b.variance, b.site_precision, b.site_shift] for b in beliefs])
    return _tilted(posterior.prior, marginals.reshape(-1, 4).T)


def effect(posterior: Estimate, patch: str) -> Effect:
    """What is known of one patch's effect. Raises KeyError for a patch that no run had."""
    low, high = intervals(effects_of(posterior, [patch]))
    mean, sd = mean_and_sd(posterior, patch)
    return Effect(mean=mean, sd=sd, low=float(low[0]) * posterior.scale, high=float(high[0]) * posterior.scale)


def mean_and_sd(posterior: Estimate, patch: str) -> tuple[float, float]:
    """Mean and standard deviation of one patch's effect, without its interval, which takes long. Raises KeyError."""
    mixture, sigma = effects_of(posterior, [patch]), posterior.scale
    return float(mixture.mean()[0]) * sigma, math.sqrt(float(mixture.variance()[0])) * sigma


def intervals(effects: Mixture) -> tuple[Floats, Floats]:
    """The ends of each effect's interval, in the mixture's units."""
    effects, tail = in_context(effects), (1 - INTERVAL) / 2
    low, high = effects.quantiles(tail, 1 - tail)
    return low, high


def in_context(effects: Mixture) -> Mixture:
    """Effects in other heads than those that they were measured in."""
    return replace(effects, sds=np.sqrt(effects.sds**2 + CONTEXT))


def gain(posterior: Estimate, patches: Iterable[str]) -> tuple[float, float]:
    """Mean and standard deviation of the sum of these patches' effects, in bpb: the gain over the untouched train.py."""
    rows = [posterior.terms[patch] for patch in patches]
    variance = float(posterior.covariance[np.ix_(rows, rows)].sum())
    return float(posterior.mean[rows].sum()) * posterior.scale, math.sqrt(max(variance, 0.0)) * posterior.scale


def difference_sd(posterior: Estimate, patches: Iterable[str], others: Iterable[str]) -> float:
    """Standard deviation of the sum of some patches' effects minus the sum of others', in bpb."""
    signs = np.zeros(len(posterior.mean))
    signs[[posterior.terms[patch] for patch in patches]] = 1
    signs[[posterior.terms[patch] for patch in others]] -= 1
    return math.sqrt(max(float(signs @ posterior.covariance @ signs), 1e-12)) * posterior.scale


def _with_level(posterior: Estimate, z: float) -> Estimate:
    return with_fields(posterior, mean=np.array([z]), covariance=np.array([[LEVEL_VARIANCE]]), sites=np.zeros((1, 2)))


def _with_patches(posterior: Estimate, patches: frozenset[str], more: list[str]) -> Estimate:
    """The estimate with rows for patches that come back, and for new ones beside the one that the run observes first."""
    for patch in sorted(patch for patch in patches if patch in posterior.shelved):
        rest = posterior.shelved.without(patch)
        posterior = with_fields(_appended(posterior, patch, posterior.shelved[patch]), shelved=rest)
    for patch in more:
        prior = posterior.prior
        mean = float(prior.shares @ prior.means)
        variance = float(prior.shares @ (prior.variances + prior.means**2)) - mean**2
        belief = Belief(mean=mean, variance=variance, site_precision=1 / variance, site_shift=mean / variance)
        posterior = _appended(posterior, patch, belief)
    return posterior


def _appended(posterior: Estimate, name: str | Seed, belief: Belief, shared: Floats | None = None) -> Estimate:
    """The estimate with one more row, whose covariances with the others are `shared` (None: 0)."""
    size = len(posterior.mean)
    covariance = np.zeros((size + 1, size + 1))
    covariance[:size, :size] = posterior.covariance
    covariance[size, size] = belief.variance
    if shared is not None:
        covariance[size, :size] = covariance[:size, size] = shared
    return with_fields(
        posterior,
        terms={**posterior.terms, name: size},
        mean=np.concatenate([posterior.mean, [belief.mean]]),
        covariance=covariance,
        sites=np.concatenate([posterior.sites, [[belief.site_precision, belief.site_shift]]]),
    )


def _parts(posterior: Estimate, observation: Observation, *, leaving_out: Iterable[str]) -> _Prediction:
    """What a run's prediction is the sum of."""
    patches = observation.patches.difference(leaving_out)
    rows = [0, *sorted(posterior.terms[patch] for patch in patches)]
    rows = (
        [*rows, posterior.terms[observation.seed]]
        if observation.seed in posterior.terms and observation.seed is not None
        else rows
    )
    slope = posterior.terms.get(SLOPE)
    return _Prediction(rows=rows) if slope is None else _Prediction(rows=rows, slope=slope, share=observation.share)


def _further_observation(posterior: Estimate, z: float, parts: _Prediction, doubt: float) -> Estimate:
    """The Kalman update by a run whose patches are all known, and the noise that it shows."""
    shared = parts.of(posterior.covariance)
    variance, noise = float(parts.of(shared)), posterior.noise + doubt
    innovation = z - float(parts.of(posterior.mean))
    surprise = innovation**2 / (variance + noise)
    total = variance + noise * max(1.0, surprise / SURPRISE)
    mean = posterior.mean + shared * (innovation / total)
    covariance = posterior.covariance - shared[:, None] * shared / total
    if not posterior.observations or posterior.model.is_known:  # the first run has nothing to differ from
        return with_fields(posterior, mean=mean, covariance=covariance)
    spread, count = posterior.noise_sum + min(surprise, SURPRISE) * posterior.noise, posterior.noise_observations + 1
    prior = posterior.noise_prior
    shown = (prior.sum + spread) / (prior.count + count)
    return with_fields(posterior, mean=mean, covariance=covariance, noise_sum=spread, noise_observations=count, noise=shown)


def _noise_count(posterior: Estimate) -> NoiseCount:
    """What is claimed of the noise, and what runs without a new idea have shown."""
    runs = posterior.model.runs
    claimed = (posterior.model.sigma / posterior.scale) ** 2 * (1 - posterior.model.seed_share)
    return NoiseCount(sum=runs * claimed + posterior.noise_sum, count=runs + posterior.noise_observations)


def _seed_variance(posterior: Estimate) -> float:
    """The variance of the common seeds' effects in scale**2, from what is claimed and from those that were measured."""
    rows = [row for term, row in posterior.terms.items() if not isinstance(term, str)]
    squares = float((posterior.mean[rows] ** 2 + np.diag(posterior.covariance)[rows]).sum())
    claimed = (posterior.model.sigma / posterior.scale) ** 2 * posterior.model.seed_share
    return (SEEDS_CLAIMED * claimed + squares) / (SEEDS_CLAIMED + len(rows))


def _first_observation(
    posterior: Estimate, patch: str, z: float, parts: _Prediction, doubt: float, *, is_over: bool
) -> Estimate:
    """The update by the first run with a patch, which is set aside if it `is_over`.

    The joint Gaussian has the mean and variance that the mixture gives the effect, and the rest's covariances with it. That
    equals entering the effect with the Gaussian prior that would have given this posterior, and a Kalman update.
    """
    shared = parts.of(posterior.covariance)
    variance = float(parts.of(shared))
    residual = z - float(parts.of(posterior.mean))
    variance += doubt
    total = variance + posterior.noise
    mixture = posterior.prior.posterior(np.array([residual]), np.array([total]))
    mean, left = float(mixture.mean()[0]), float(mixture.variance()[0])
    gains = shared / total
    rest = with_fields(
        posterior,
        mean=posterior.mean + gains * (residual - mean),
        covariance=posterior.covariance - gains[:, None] * gains * (total - left),
        first_observations=posterior.first_observations.with_item((residual, variance)),
    )
    belief = Belief(mean=mean, variance=left, site_precision=1 / left - 1 / total, site_shift=mean / left - residual / total)
    if is_over:
        return with_fields(rest, shelved=rest.shelved.with_entry(patch, belief))
    return _appended(rest, patch, belief, -gains * left)


def _belief(posterior: Estimate, row: int) -> Belief:
    precision, shift = posterior.sites[row]
    return Belief(
        mean=float(posterior.mean[row]),
        variance=float(posterior.covariance[row, row]),
        site_precision=float(precision),
        site_shift=float(shift),
    )


def _tilted(prior: EffectPrior, beliefs: Floats) -> Mixture:
    """The mixture prior times what the runs alone say of each effect; beliefs are the fields of `Belief` by patches.

    Where a run of several patches left more doubt about one of them than the Gaussian in place of its prior has, what runs
    alone say of it can't be told apart: the belief stands as it is.
    """
    mean, variance, site_precision, site_shift = beliefs
    precision, least = 1 / variance - site_precision, LEAST_KNOWN / variance
    known = np.maximum(precision, least)
    observed = np.where(precision > least, (mean / variance - site_shift) / known, mean)
    found, widened = prior.posterior(observed, 1 / known), (precision < -least)[:, None]
    means = np.where(widened, mean[:, None], found.means)
    return replace(found, means=means, sds=np.where(widened, np.sqrt(variance)[:, None], found.sds))
