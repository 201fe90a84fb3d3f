"""The contest over constants: surfaces are what they say, the researcher and the policy in it are real, and runs are equal."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from agent.search.search import SearchResearcher
from benchmarks import contest, rivals
from benchmarks.response_surface import (
    AXES,
    BASELINE,
    CONSTANTS,
    MEMORY_LIMIT_GB,
    SIGMA,
    ResponseSurface,
    constants_at,
    memory_gb,
)  # fmt: skip
from benchmarks.simulated_researcher import SimulatedResearcher
from research.hyperparameters import read_constants
from research.recipes import Constant


@pytest.mark.parametrize("lopsided", [False, True])
def test_a_repeat_draws_the_same_surface_each_time(lopsided: bool) -> None:
    first, again, other = (ResponseSurface(repeat, lopsided=lopsided) for repeat in (3, 3, 4))
    moved = {**CONSTANTS, "MATRIX_LR": 0.08}
    assert first.value(CONSTANTS) == pytest.approx(BASELINE)
    assert first.value(moved) == again.value(moved) != other.value(moved)


def test_no_constants_are_better_than_the_optimum() -> None:
    surface = ResponseSurface(0)
    rng = np.random.default_rng(0)
    points = [constants_at(surface.knobs, unit.tolist()) for unit in rng.uniform(-1, 1, (200, len(AXES)))]
    values = [value for value in map(surface.value, points) if value is not None]
    assert len(values) > 100 and min(values) > surface.optimum


@pytest.mark.parametrize(("depth", "width", "measured"), [(8, 512, 44.0), (9, 640, 60.2), (10, 512, 53.7), (11, 640, 72.6)])
def test_memory_is_that_of_the_runs_it_was_fitted_to(depth: int, width: int, measured: float) -> None:
    assert memory_gb({**CONSTANTS, "DEPTH": depth, "ASPECT_RATIO": width / depth}) == pytest.approx(measured, abs=0.3)


def test_what_does_not_fit_into_memory_has_no_score() -> None:
    large: Mapping[str, Constant] = {**CONSTANTS, "DEPTH": 14, "ASPECT_RATIO": 80}
    assert memory_gb(large) > MEMORY_LIMIT_GB
    assert ResponseSurface(0).value(large) is None


class CountedSurface(ResponseSurface):
    """A surface that counts its runs."""

    runs = 0

    def value(self, constants: Mapping[str, Constant]) -> float | None:
        self.runs += 1
        return super().value(constants)


@pytest.mark.parametrize("name", contest.OPTIMIZERS)
def test_everyone_has_as_many_runs_and_recommends_constants(name: str) -> None:
    if name in ("tpe", "cma-es"):
        pytest.importorskip("optuna" if name == "tpe" else "cmaes")
    surface = CountedSurface(1)
    found = contest.OPTIMIZERS[name](surface, np.random.default_rng(0), 15)
    assert surface.runs == 15
    assert found.keys() == CONSTANTS.keys()
    assert surface.value(found) is not None


def test_the_head_of_search_is_what_its_kept_ideas_make_of_the_recipe() -> None:
    surface = ResponseSurface(2)
    lab = SimulatedResearcher(surface, SearchResearcher(2), np.random.default_rng(0))
    found = lab.run(40)
    assert lab.runs == 40 and lab.state.head and found == read_constants(lab.text(lab.state.head))
    value = surface.value(found)
    assert value is not None and value < BASELINE - 3 * SIGMA
    explored = [record.experiment for record in lab.records if record.experiment.kind == "explore"]
    assert len({(one.parent_commit, repr(sorted(one.changes.items()))) for one in explored}) == len(explored)


def test_a_crash_out_of_memory_is_told_to_the_researcher() -> None:
    lab = SimulatedResearcher(ResponseSurface(0), SearchResearcher(0), np.random.default_rng(0))
    lab.run(3)
    proposal = replace(lab.researcher_proposal(), train_py=lab.text(frozenset()).replace("DEPTH = 8", "DEPTH = 16"))
    lab.try_idea(proposal)
    last = lab.records[-1]
    assert last.verdict is not None and last.verdict.decision == "crash"
    assert last.runs[0].status == "oom" and last.runs[0].peak_memory_mb == pytest.approx(1024 * (4.2 + 6.2 * 16 * 1024 / 640))


def test_the_report_has_intervals_around_the_means() -> None:
    report = contest.contest(["search", "random"], runs=8, repeats=3)
    assert report["true_gain"].keys() == {"search", "random", "optimum"}
    assert report["search_minus"].keys() == {"random", "optimum"}
    for mean, low, high in report["true_gain"].values():
        assert low <= mean <= high
    assert "random" in contest.table(report)


def test_random_search_never_recommends_what_crashes() -> None:
    surface = ResponseSurface(5)
    found = rivals.random_search(surface, np.random.default_rng(0), 30)
    assert surface.value(found) is not None
