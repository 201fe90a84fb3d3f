"""The mixture that ideas' effects are drawn from: its posterior, its quantiles, and its refit."""

import numpy as np
import pytest

from results.effect_prior import FirstObservations, NoiseCount, first_prior, prior_of


def sampled(prior_shares: list[tuple[float, float, float]], count: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Effects drawn from a mixture, and one noisy observation of each."""
    rng = np.random.default_rng(1)
    shares, means, sds = np.array(prior_shares).T
    kinds = rng.choice(len(shares), size=count, p=shares / shares.sum())
    effects = rng.normal(means[kinds], sds[kinds])
    return effects, effects + noise * rng.standard_normal(count)


def test_a_single_normal_is_shrunk_as_the_textbook_says() -> None:
    posterior = prior_of([(1.0, 1.0, 2.0)]).posterior(np.array([5.0]), np.array([1.0]))
    assert posterior.mean()[0] == pytest.approx(1 + 4 / 5 * 4)
    assert posterior.variance()[0] == pytest.approx(4 / 5)
    assert posterior.quantiles(0.5)[0, 0] == pytest.approx(posterior.mean()[0])


def test_small_gains_are_shrunk_by_more_than_large_ones() -> None:
    posterior = first_prior().posterior(np.array([1.0, 10.0]), np.ones(2))
    small, large = posterior.mean()
    assert 0 < small < 0.5 and large > 8


def test_a_quantile_is_where_the_probability_says() -> None:
    posterior = first_prior().posterior(np.array([-3.0, 0.3, 4.0]), np.array([1.0, 1.5, 2.0]))
    for row in range(3):
        for probability in (0.05, 0.5, 0.95):
            bounds = np.full(3, posterior.quantiles(probability)[0, row])
            assert posterior.above(bounds)[row] == pytest.approx(1 - probability, abs=1e-6)


def test_quantiles_are_those_of_a_bisection_even_where_parts_differ_by_orders_of_magnitude() -> None:
    rng = np.random.default_rng(3)
    observed = np.concatenate([rng.normal(0, spread, 100) for spread in (1, 10, 300, 5000)])
    posterior = first_prior().posterior(observed, rng.uniform(1e-3, 30, len(observed)))
    probabilities = (0.001, 0.05, 0.5, 0.95)
    low, high = (posterior.means - 40 * posterior.sds).min(-1), (posterior.means + 40 * posterior.sds).max(-1)
    for probability, found in zip(probabilities, posterior.quantiles(*probabilities), strict=True):
        below, above = low, high
        for _ in range(90):
            middle = (below + above) / 2
            is_below = 1 - posterior.above(middle) < probability
            below, above = np.where(is_below, middle, below), np.where(is_below, above, middle)
        assert found == pytest.approx(below, rel=1e-11, abs=1e-11)
    assert posterior.rows(np.arange(0)).quantiles(0.05, 0.95).shape == (2, 0)


def test_the_residual_that_shows_an_effect_is_the_smallest_one() -> None:
    for variance, bound, probability in ((1.0, 0.0, 0.7), (4.0, 0.5, 0.7), (0.3, -0.2, 0.95)):
        found = first_prior().residual_that_shows(variance, bound, probability)
        residuals = np.array([found - 1e-9, found])
        below, at = first_prior().posterior(residuals, np.full(2, variance)).above(np.full(2, bound))
        assert below < probability <= at
    assert first_prior().residual_that_shows(1e6, 500.0, 0.99) == pytest.approx(540.0)  # as far as it is looked for


def test_intervals_hold_what_was_drawn_from_the_prior() -> None:
    shares = [(0.7, 0.0, 0.3), (0.3, -3.0, 3.0)]
    effects, observations = sampled(shares, 4000)
    above = prior_of(shares).posterior(observations, np.ones(4000)).above(effects)
    assert np.mean((above > 0.05) & (above < 0.95)) == pytest.approx(0.9, abs=0.015)


def test_a_refit_finds_the_shares_and_the_noise() -> None:
    shares = [(0.9, 0.0, 0.3), (0.1, 6.4, 4.8)]
    _, observations = sampled(shares, 2000, noise=2.0)
    told = FirstObservations(residuals=observations, variances=np.zeros(2000))
    fitted, noise = first_prior().refitted(told, NoiseCount(sum=10.0, count=10.0))
    large = fitted.means >= 3
    assert fitted.shares.sum() == pytest.approx(1)
    assert float(fitted.shares[large].sum()) == pytest.approx(0.1, abs=0.05)
    assert 2.5 < noise < 5


def test_few_observations_move_the_shares_little() -> None:
    told = FirstObservations(residuals=np.array([8.0]), variances=np.zeros(1))
    fitted, _ = first_prior().refitted(told, NoiseCount(sum=10.0, count=10.0))
    assert np.abs(fitted.shares - first_prior().shares).max() < 0.04
