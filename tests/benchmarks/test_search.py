"""The simulator of research: landscapes are what their files say, and the farm in it is the real one."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search, simulated_search
from benchmarks.landscape import BASELINE, EffectShare, Landscape, World, read_landscape
from research.errors import UserError
from results import effect_prior, policy
from tests.test_imports import ROOT

SMALL = Landscape(
    ideas=300,
    slots=100,
    insight=0.8,
    effects=(
        EffectShare(share=0.6, shape="normal", scale=0.0002),
        EffectShare(share=0.1, shape="exponential", scale=0.001),
        EffectShare(share=0.3, shape="lognormal", scale=0.0015, sign=-1, most=0.02),
    ),
)
FILES = sorted((ROOT / "benchmarks" / "landscapes").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_landscape_can_be_read(path: Path) -> None:
    landscape = read_landscape(path)
    assert landscape.about and World(landscape, 0).value(()) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"effects": [{"share": 1}]}', '{"effects": [], "slot": 3}', "{}"])
def test_what_is_no_landscape_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        read_landscape(tmp_path / "x.json")


def test_a_repeat_draws_the_same_world_each_time() -> None:
    first, again, other = World(SMALL, 3), World(SMALL, 3), World(SMALL, 4)
    assert np.array_equal(first.effects, again.effects) and not np.array_equal(first.effects, other.effects)
    assert np.array_equal(first.order(1), again.order(1)) and not np.array_equal(first.order(1), first.order(0))


def test_a_value_is_the_sum_of_effects_and_of_pairs() -> None:
    world = World(replace(SMALL, interactions=1.0, interaction_scale=0.5), 0)
    assert world._pairs is not None
    ideas = [0, 1, 2]
    pairs = world._pairs[0, 1] + world._pairs[0, 2] + world._pairs[1, 2]
    assert world.value(ideas) == pytest.approx(world.effects[ideas].sum() + pairs)


def test_gains_fade_in_the_order_of_their_size() -> None:
    world = World(replace(SMALL, context=0.25), 0)
    world.effects[:4] = 0.004, -0.003, 0.002, 0.001
    assert world.value([3, 2, 1, 0]) == pytest.approx(0.004 - 0.003 + 0.002 * 0.5 + 0.001 * 0.25)


def test_a_second_idea_of_a_slot_takes_the_place_of_the_first() -> None:
    world = World(SMALL, 0)
    first, second = next(
        (a, b) for a in range(SMALL.ideas) for b in range(a + 1, SMALL.ideas) if world.slots[a] == world.slots[b]
    )
    assert world.with_idea(frozenset({first}), second) == {second}


@pytest.mark.parametrize("tails", [None, 3.0])
def test_noise_has_the_sigma_of_the_landscape(tails: float | None) -> None:
    world, rng = World(replace(SMALL, tails=tails), 0), np.random.default_rng(0)
    scores = [world.score((), None, rng) for _ in range(4000)]
    deviations = np.array([score - BASELINE for score in scores if score is not None])
    assert len(deviations) == 4000 and deviations.std() == pytest.approx(SMALL.sigma, rel=0.25)


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, list[float]]]:
    """What each policy finds on the small landscape: a few seconds."""
    policies: dict[str, dict[str, list[float]]] = search.simulate(SMALL, loops=6, runs=25, repeats=10)["policies"]
    return policies


def test_the_farm_finds_more_than_greedy_loops_and_does_not_overstate(figures: dict[str, dict[str, list[float]]]) -> None:
    farm, greedy, oracle = (figures[name] for name in search.POLICIES)
    assert 1.5 * greedy["true_gain"][0] < farm["true_gain"][0] < oracle["true_gain"][0]
    assert abs(farm["overstatement"][0]) < 0.0005 < greedy["overstatement"][0]


def test_intervals_and_probabilities_hold(figures: dict[str, dict[str, list[float]]]) -> None:
    farm = figures["farm"]
    assert 0.82 < farm["coverage"] < 0.97  # type: ignore[operator]
    for p, helps, count in farm["calibration"]:  # type: ignore[misc]
        assert abs(p - helps) < 0.1 + 2.5 * math.sqrt(0.25 / count)  # type: ignore[has-type]


def test_the_farm_in_the_simulation_is_the_real_one(
    figures: dict[str, dict[str, list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scores taken at their face value and every gain kept, as the greedy rule does, its figures fall to greedy's."""
    monkeypatch.setattr(effect_prior, "SHARES", ((1.0, 0.0, 100.0),))
    monkeypatch.setattr(policy, "passes", lambda rules, now, name: now.net[name] > 0)
    patched = [simulated_search.farm(World(SMALL, repeat), 1, 100) for repeat in range(10)]
    greedy = [simulated_search.greedy(World(SMALL, repeat), 1, 100) for repeat in range(10)]
    gains, greedy_gains = ([found.true_gain for found in results] for results in (patched, greedy))
    assert np.mean(gains) < 1.3 * np.mean(greedy_gains)
    assert np.mean([found.overstatement for found in patched]) > 0.7 * np.mean([found.overstatement for found in greedy])


def test_every_device_hour_is_used_once() -> None:
    research = simulated_search._Farm(World(SMALL, 0), 4)
    research.run(80)
    assert research.state.runs == 80 and research.state.baselines == 2
    assert 1 <= research.state.controls <= 4 and research.state.head


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/search.py", "--landscape", str(FILES[0]), "--loops", "2", "--runs", "6"]
    done = subprocess.run([*command, "--repeats", "3", "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert (report["loops"], report["runs"], report["repeats"], report["landscape"]) == (2, 6, 3, FILES[0].stem)
    assert set(report["policies"]) == {"farm", "greedy", "oracle"}
    for found in report["policies"].values():
        for name in ("true_gain", "overstatement", "bad_share"):
            mean, low, high = found[name]
            assert low <= mean <= high


def test_a_mistake_at_the_command_line_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/search.py", "--landscape", str(tmp_path / "none.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "none.json" in done.stderr
