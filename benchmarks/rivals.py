"""Optimizers that `search` is measured against, each with the same runs on the same surface.

optuna and cmaes are imported where they are used: they belong to this benchmark alone.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.response_surface import AXES, SIGMA, ResponseSurface, constants_at
from research.recipes import Constant

Score = Callable[[Sequence[float]], float | None]
"""The val_bpb of a run at a point of the cube [-1, 1]; None out of memory."""

FIRST_STEP = 0.2
"""CMA-ES's first standard deviation, as a share of each knob's reach: about the spread of the best values."""

SAMPLED_REACH = 0.4
"""The share of each knob's reach that random search and TPE draw from: one to two standard deviations of the best values. Both
gain less in all of it, and TPE also in 0.25 and 0.6 of it."""


def scored(surface: ResponseSurface, rng: np.random.Generator) -> Score:
    """Runs on a surface, with the noise between seeds."""

    def score(unit: Sequence[float]) -> float | None:
        value, noise = surface.value(constants_at(surface.knobs, unit)), float(rng.normal(0, SIGMA))
        return None if value is None else value + noise

    return score


def random_search(surface: ResponseSurface, rng: np.random.Generator, runs: int) -> Mapping[str, Constant]:
    """The best-scored of the original recipe and random points."""
    score = scored(surface, rng)
    points = [np.zeros(len(AXES)), *rng.uniform(-SAMPLED_REACH, SAMPLED_REACH, (runs - 1, len(AXES)))]
    return constants_at(surface.knobs, min(points, key=lambda point: _or_worst(score(point.tolist()))).tolist())


def tpe(surface: ResponseSurface, rng: np.random.Generator, runs: int) -> Mapping[str, Constant]:
    """The best-scored point of optuna's multivariate TPE, which begins with the original recipe."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    score = scored(surface, rng)
    names = [axis.name for axis in AXES]
    sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), multivariate=True)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(dict.fromkeys(names, 0.0))
    worst = 0.0
    for _ in range(runs):
        trial = study.ask()
        found = score([trial.suggest_float(name, -SAMPLED_REACH, SAMPLED_REACH) for name in names])
        worst = worst if found is None else max(worst, found)
        study.tell(trial, worst if found is None else found)
    return constants_at(surface.knobs, [study.best_params[name] for name in names])


def cma_es(surface: ResponseSurface, rng: np.random.Generator, runs: int) -> Mapping[str, Constant]:
    """The mean of CMA-ES's distribution, which starts at the original recipe: noise has no part in choosing it."""
    import cmaes

    score = scored(surface, rng)
    size = len(AXES)
    bounds = np.tile([-1.0, 1.0], (size, 1))
    optimizer = cmaes.CMA(mean=np.zeros(size), sigma=FIRST_STEP, bounds=bounds, seed=int(rng.integers(2**31)))
    generation: list[tuple[np.ndarray, float]] = []
    worst = 0.0
    for _ in range(runs):
        point = optimizer.ask()
        found = score(point.tolist())
        worst = worst if found is None else max(worst, found)
        generation.append((point, worst if found is None else found))
        if len(generation) == optimizer.population_size:
            optimizer.tell(generation)
            generation = []
    return constants_at(surface.knobs, np.clip(optimizer.mean, -1, 1).tolist())


def _or_worst(score: float | None) -> float:
    return float("inf") if score is None else score
