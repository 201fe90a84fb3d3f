"""The regression over all scores: what it recovers, and that it is a function of the runs alone."""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from results import effect_estimate as estimate
from results.effect_estimate import Estimate
from results.observations import NoiseModel, Observation

SIGMA = 0.001
MODEL = NoiseModel(sigma=SIGMA)


def observation(score: float, *patches: str, seed: int | None = None) -> Observation:
    return Observation(score=score, patches=frozenset(patches), seed=seed)


def some_observations(count: int, *, sigma: float = SIGMA, seed: int = 0) -> list[Observation]:
    """Runs of ideas on a head that takes every fifth of them, and of the head itself."""
    rng = np.random.default_rng(seed)
    observations, head, gain = [observation(1.0), observation(1.0 + sigma * rng.standard_normal())], list[str](), 0.0
    for number in range(count):
        effect = (0.003 if number % 4 == 0 else 0.0002) * rng.standard_normal()
        observations.append(observation(1 - gain - effect + sigma * rng.standard_normal(), f"idea-{number}", *head))
        if number % 5 == 0:
            head, gain = [*head, f"idea-{number}"], gain + effect
            observations.append(observation(1 - gain + sigma * rng.standard_normal(), *head))
    return observations


def estimate_after(model: NoiseModel, observations: Iterable[Observation]) -> Estimate:
    """The posterior after these runs, in their order."""
    posterior = estimate.begin(model)
    for each in observations:
        posterior = estimate.observe(posterior, each)
    return posterior


def assert_equal(first: Estimate, second: Estimate) -> None:
    assert first.terms == second.terms and first.scale == pytest.approx(second.scale)
    assert np.allclose(first.mean, second.mean) and np.allclose(first.covariance, second.covariance)
    assert np.allclose(first.prior.shares, second.prior.shares) and first.noise == pytest.approx(second.noise)


def test_runs_one_by_one_and_all_at_once_give_the_same() -> None:
    observations, model = some_observations(40), replace(MODEL, refit_every=1_000)
    every = {patch for each in observations for patch in each.patches}
    assert_equal(estimate_after(model, observations), estimate.estimate_of_all(model, observations, staying=every))


def test_a_refit_does_not_depend_on_when_others_were_set_aside() -> None:
    """Patches that no later run has may be set aside at any time."""
    observations = some_observations(21)
    whole = estimate_after(MODEL, observations)
    aside = estimate.shelve(whole, ["idea-1", "idea-2"])
    for name in ("idea-1", "idea-3", "idea-5"):
        first, second = estimate.effect(whole, name), estimate.effect(aside, name)
        assert first.mean == pytest.approx(second.mean) and first.high == pytest.approx(second.high)
    again = observation(0.998, "idea-0", "idea-5", "idea-20")
    both = estimate.observe(whole, again), estimate.observe(aside, again)
    assert estimate.gain(both[0], ["idea-0"]) == pytest.approx(estimate.gain(both[1], ["idea-0"]))


def test_a_patch_that_was_set_aside_can_come_back() -> None:
    aside = estimate.shelve(estimate_after(MODEL, [observation(1.0), observation(1.0), observation(0.998, "a")]), ["a"])
    before = estimate.effect(aside, "a")
    after = estimate.effect(estimate.observe(aside, observation(0.998, "a")), "a")
    assert after.mean > before.mean and after.high - after.low < before.high - before.low


def test_a_gain_is_shrunk_and_further_runs_settle_it() -> None:
    observations = [observation(1.0), observation(1.0), observation(0.998, "a")]
    once = estimate.effect(estimate_after(MODEL, observations), "a")
    assert 0 < once.mean < 0.002 and once.low < once.mean < once.high
    often = estimate.effect(estimate_after(MODEL, [*observations, *[observation(1.0), observation(0.998, "a")] * 20]), "a")
    assert often.mean == pytest.approx(0.002, abs=0.0002) and often.sd < 0.5 * once.sd


def test_the_first_observation_is_the_kalman_update_from_the_prior_that_gives_its_moments() -> None:
    before = estimate_after(MODEL, [observation(1.0), observation(1.0005), observation(0.997, "a"), observation(0.9975, "a")])
    new = observation(0.995, "a", "b")
    after = estimate.observe(before, new)
    precision, shift = after.sites[after.terms["b"]]
    h = np.zeros(len(before.mean) + 1)
    h[[0, before.terms["a"], -1]] = 1
    mean = np.append(before.mean, shift / precision)
    covariance = np.zeros((len(h), len(h)))
    covariance[:-1, :-1], covariance[-1, -1] = before.covariance, 1 / precision
    gains = covariance @ h / (h @ covariance @ h + before.noise)
    assert np.allclose(after.mean, mean + gains * (-new.score / SIGMA - h @ mean))
    assert np.allclose(after.covariance, covariance - np.outer(gains, h @ covariance))


def test_the_difference_of_rivals_has_their_covariance() -> None:
    """Both were seen against one uncertain level, which their difference does not contain."""
    posterior = estimate_after(MODEL, [observation(1.0), observation(0.994, "a"), observation(0.993, "b")])
    sds = [estimate.effect(posterior, name).sd for name in "ab"]
    assert estimate.difference_sd(posterior, {"b"}, {"a"}) < 0.9 * math.hypot(*sds)


def test_one_unlucky_pair_of_baselines_changes_sigma_little() -> None:
    posterior = estimate_after(MODEL, [observation(1.0), observation(1.0 + 13 * SIGMA)])
    assert posterior.sigma < 1.6 * SIGMA


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_a_wrong_sigma_mends_itself(times: float) -> None:
    observations = some_observations(150, sigma=SIGMA * times)
    assert estimate_after(MODEL, observations).sigma == pytest.approx(SIGMA * times, rel=0.35)


def test_an_outlier_moves_the_head_less_than_its_share() -> None:
    observations = some_observations(30)
    head = [f"idea-{number}" for number in range(0, 30, 5)]
    gains = [
        estimate.gain(estimate_after(MODEL, [*observations, observation(1.0 - 0.001 * size, *head)]), head)[0]
        for size in (0, 10, 1000)
    ]
    assert gains[2] - gains[0] < 5 * abs(gains[1] - gains[0])


def test_common_seeds_are_told_apart_from_effects() -> None:
    """A seed that scores better makes no patch look better."""
    model = NoiseModel(sigma=SIGMA, seed_share=0.9)
    luck = {1: 0.002, 2: -0.002, 3: 0.0}
    baselines = [observation(1.0 - luck[seed], seed=seed) for seed in luck]
    posterior = estimate_after(model, [*baselines, observation(1.0 - luck[1], "a", seed=1)])
    blind = estimate_after(MODEL, [*baselines, observation(1.0 - luck[1], "a", seed=1)])
    assert abs(estimate.effect(posterior, "a").mean) < 0.3 * estimate.effect(blind, "a").mean


def test_a_prediction_has_the_uncertainty_of_its_parts() -> None:
    posterior = estimate_after(MODEL, [observation(1.0), observation(1.0), observation(0.99, "a"), observation(0.985, "b")])
    mean, sd = estimate.predicted(posterior, observation(0.0, "a", "b"))
    assert mean == pytest.approx(0.975, abs=0.002)
    assert sd > estimate.predicted(posterior, observation(0.0, "a"))[1] > posterior.sigma


def test_two_new_patches_in_one_run_share_its_gain() -> None:
    posterior = estimate_after(MODEL, [observation(1.0), observation(1.0), observation(0.99, "a", "b")])
    assert estimate.gain(posterior, ["a", "b"])[0] == pytest.approx(0.01, abs=0.003)


def test_the_covariance_stays_one_over_many_runs() -> None:
    posterior = estimate_after(MODEL, some_observations(120))
    assert np.linalg.eigvalsh(posterior.covariance).min() > -1e-9
    assert np.allclose(posterior.covariance, posterior.covariance.T)


@pytest.mark.parametrize("model", [NoiseModel(sigma=0), NoiseModel(sigma=1, seed_share=1.0)])
def test_a_noise_that_can_not_be_is_refused(model: NoiseModel) -> None:
    with pytest.raises(ValueError, match="sigma"):
        estimate.begin(model)


def test_a_broken_idea_says_nothing_of_the_head() -> None:
    """A loss of thousands of sigmas is the idea's own, not in part the head's."""
    observations = [
        observation(1.0),
        observation(1.0),
        observation(0.995, "a"),
        observation(0.995, "a"),
        observation(0.994, "a", "b"),
    ]
    before = estimate_after(MODEL, observations)
    after = estimate.observe(before, observation(3.2, "a", "b", "broken"))
    for name in ("a", "b"):
        assert estimate.effect(after, name).mean == pytest.approx(estimate.effect(before, name).mean, abs=0.05 * SIGMA)


def test_refits_get_rarer_so_that_a_long_history_is_computed_in_seconds() -> None:
    """In 1,500 runs they take up less than a fifth of the runs that a refit after every tenth run would."""
    due = [runs for runs in range(1, 1501) if estimate.is_refit_due(runs, 10)]
    assert due[:20] == list(range(10, 201, 10)), "the first are all there"
    assert all(later - earlier <= earlier / 5 for earlier, later in pairwise(due) if earlier >= 50), "none is missed for long"
    assert sum(due) < sum(range(10, 1501, 10)) / 5


def test_a_belief_that_runs_have_left_wider_than_its_priors_stand_in_is_told_as_it_is() -> None:
    """A first run of several patches widens what is known of those that were known: there is nothing to divide the prior by."""
    known = estimate_after(
        NoiseModel(sigma=0.01), [Observation(score=1.0, patches=frozenset()), Observation(score=0.98, patches=frozenset("a"))]
    )
    row = known.terms["a"]
    wider = known.covariance.copy()
    wider[row, row] = 2.0 / known.sites[row, 0]
    found = estimate.effect(replace(known, covariance=wider), "a")
    assert found.mean == pytest.approx(float(known.mean[row]) * known.scale)
    assert found.sd == pytest.approx(float(wider[row, row]) ** 0.5 * known.scale)
