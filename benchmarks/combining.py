"""Simulates how 11 near-misses are combined in 15 runs: by a wave, one after another, and by an oracle.

Near-misses are drawn as they arise: ideas from the prior of `results/effect_prior.py`, of which one noisy run made near-misses
by the policy's own definition. Gains are in sigmas.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.landscape import BASELINE
from results import policy, waves
from results.effect_prior import SHARES
from results.observations import NoiseModel
from results.policy_state import FarmState, Finished, Patch, Work

SIGMA = 0.0007
RUNS, NEAR_MISSES = 15, waves.MOST
KNOWN_RUNS = 8
"""Runs of the head before near-misses are combined."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A head with its near-misses and what they are really worth, in sigmas."""

    state: FarmState
    effects: dict[str, float]

    def score(self, patches: frozenset[str], rng: np.random.Generator) -> float:
        """val_bpb of a run with these patches."""
        return BASELINE - SIGMA * (self.worth(patches) + float(rng.standard_normal()))

    def worth(self, patches: frozenset[str]) -> float:
        """The sum of the effects of these patches."""
        return sum(self.effects[name] for name in patches)


def combined(repeats: int) -> dict[str, Any]:
    """Mean gain in sigmas of each way over the repeats, and how many times the wave's is that of one after another."""
    gains: dict[str, list[float]] = {"wave": [], "one_after_another": [], "oracle": []}
    for repeat in range(repeats):
        scene = _scene(np.random.default_rng([repeat, 1]))
        gains["wave"].append(_by_wave(scene, np.random.default_rng([repeat, 2])))
        gains["one_after_another"].append(_one_by_one(scene, np.random.default_rng([repeat, 3])))
        gains["oracle"].append(sum(max(effect, 0.0) for effect in scene.effects.values()))
    means = {name: float(np.mean(values)) for name, values in gains.items()}
    return {"repeats": repeats, "runs": RUNS, "gains": means, "times": means["wave"] / means["one_after_another"]}


def _scene(rng: np.random.Generator) -> Scene:
    state = policy.begin(NoiseModel(sigma=SIGMA, refit_every=10**6), devices=2)
    for _ in range(KNOWN_RUNS):
        score = BASELINE + SIGMA * float(rng.standard_normal())
        state = policy.observe(state, Finished(kind="baseline", score=score, patches=frozenset()))
    shares, means, sds = np.array(SHARES).T
    effects: dict[str, float] = {}
    number = 0
    while len(effects) < NEAR_MISSES:
        number += 1
        part = rng.choice(len(shares), p=shares / shares.sum())
        idea, effect = Patch(name=f"idea-{number}"), float(rng.normal(means[part], sds[part]))
        score = BASELINE - SIGMA * (effect + float(rng.standard_normal()))
        tried = policy.observe(state, Finished(kind="explore", score=score, patches=frozenset({idea.name}), idea=idea))
        if idea.name in policy.near_misses(tried):
            state, effects[idea.name] = tried, effect
    return Scene(state=state, effects=effects)


def _by_wave(scene: Scene, rng: np.random.Generator) -> float:
    """A Plackett-Burman wave, the merge of what it says, and controls of that head, after which what harms is dropped."""
    state, names = scene.state, waves.members(scene.state, policy.near_misses(scene.state))
    runs = waves.wave(state, names)
    for work in runs:
        state = _ran(scene, state, work, rng)
    state = waves.concluded(state, names)
    for _ in range(RUNS - len(runs)):
        asked = policy.next_work(state, ())
        work = asked if asked is not None and asked.kind == "merge" else Work(kind="control", patches=state.head)
        state = _ran(scene, state, work, rng)
    return scene.worth(state.head)


def _ran(scene: Scene, state: FarmState, work: Work, rng: np.random.Generator) -> FarmState:
    score = scene.score(work.patches, rng)
    return policy.observe(state, Finished(kind=work.kind, score=score, patches=work.patches, left_out=work.left_out))


def _one_by_one(scene: Scene, rng: np.random.Generator) -> float:
    """A run of the head, then each near-miss on it, kept if it scores better; then those that came closest once more."""
    head = frozenset[str]()
    best = scene.score(head, rng)
    missed_by: dict[str, float] = {}
    waiting = list(policy.near_misses(scene.state))
    for _ in range(RUNS - 1):
        name = waiting.pop(0) if waiting else min(missed_by, key=lambda name: missed_by[name], default=None)
        if name is None:
            break
        missed_by.pop(name, None)
        score = scene.score(head | {name}, rng)
        if score < best:
            head, best = head | {name}, score
        elif name in scene.effects:
            missed_by[name] = score - best
    return scene.worth(head)
