"""How long a run may take before its clock and while it is scored follows what runs on its platform took."""

from dataclasses import replace

from research.result import RunResult, RunStatus
from results.time_caps import LEAST_STARTUP, TimeCaps, time_caps
from tests.results.result_samples import make_run


def took(startup: float, answers: float, device: str = "cpu", status: RunStatus = "ok") -> RunResult:
    return replace(make_run("r", 1.0, device=device), startup_seconds=startup, answer_seconds=answers, status=status)


def test_nothing_is_known_before_a_few_runs_have_scores() -> None:
    assert time_caps([]) == time_caps([took(3.0, 2.0)]) == TimeCaps()
    assert time_caps([took(3.0, 2.0), took(9.0, 9.0, status="timeout")]) == TimeCaps()


def test_the_longest_start_up_and_the_usual_answers_count() -> None:
    caps = time_caps([took(30.0, 8.0, "cuda:0"), took(50.0, 9.0, "cuda:0"), took(31.0, 70.0, "cuda:0")])
    assert caps == TimeCaps(startup=200.0, answers=32.0)


def test_runs_that_use_their_cap_do_not_raise_the_next_one() -> None:
    runs = [took(20.0, 1.0), took(25.0, 1.0)]
    for _ in range(5):
        cap = time_caps(runs).startup
        assert cap == 100.0
        runs.append(took(cap, 1.0))


def test_a_fast_platform_has_a_least_start_up() -> None:
    assert time_caps([took(0.5, 1.0), took(0.5, 1.0)]).startup == LEAST_STARTUP["cpu"]


def test_a_device_of_a_cluster_bears_the_name_of_its_node() -> None:
    assert time_caps([took(0.5, 1.0, "node-1/cpu"), took(0.5, 1.0, "node-2/cpu")]).startup == LEAST_STARTUP["cpu"]
    assert time_caps([took(0.5, 1.0, "node-1/cuda:0"), took(0.5, 1.0, "node-1/cuda:1")]).startup == LEAST_STARTUP["cuda"]
