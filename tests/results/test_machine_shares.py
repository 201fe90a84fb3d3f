"""Unequal shares of the machine: what is marked, on a CPU and on a GPU, and that nothing is marked without reason."""

import math
from dataclasses import replace

import pytest

from research.result import RunResult
from results.experiment import ExperimentRecord
from results.machine_shares import doubt_of_share, unequal_shares, unusual_share, work_ratio
from results.report import morning_report
from results.show import show_text
from tests.results.history_samples import history_of
from tests.results.result_samples import make_experiment, make_run


def experiment(number: int, *runs: RunResult, **changes: str) -> ExperimentRecord:
    named = [replace(run, run_id=f"r{number}-{index}") for index, run in enumerate(runs, start=1)]
    return ExperimentRecord(experiment=make_experiment(number, **changes), runs=tuple(named))


def on_cpu(share: float | None, steps: int | None = None) -> RunResult:
    return make_run("", 1.0, device="cpu", cpu_share=share, reported_steps=steps)


def on_gpu(steps: int | None, share: float | None = None) -> RunResult:
    return make_run("", 1.0, device="cuda:0", cpu_share=share, reported_steps=steps)


def at_speed(tflops: float | None) -> RunResult:
    return make_run("", 1.0, device="cuda:0", gpu_tflops=tflops)


def marked(*records: ExperimentRecord) -> list[str]:
    return [found.run.run_id for found in unequal_shares(records, records)]


def test_a_cpu_that_was_busy_or_quiet_for_one_run_is_seen_across_commits() -> None:
    usual = [experiment(number, on_cpu(0.97)) for number in range(3)]
    assert marked(*usual, experiment(3, on_cpu(0.93))) == []
    assert marked(*usual, experiment(3, on_cpu(0.91))) == ["r3-1"]
    busy = [experiment(number, on_cpu(0.55)) for number in range(3)]
    assert marked(*busy, experiment(3, on_cpu(0.98))) == ["r3-1"], "a run that had more looks like a gain"


def test_a_gpu_that_was_slow_for_one_run_is_seen_across_commits() -> None:
    usual = [experiment(number, at_speed(700.0)) for number in range(3)]
    assert marked(*usual, experiment(3, at_speed(690.0))) == [] and marked(*usual, experiment(3, at_speed(None))) == []
    assert marked(*usual, experiment(3, at_speed(350.0))) == ["r3-1"]
    assert unusual_share(at_speed(350.0), [700.0, 701.0, 699.0]) == pytest.approx(-math.log(2))
    assert doubt_of_share(at_speed(350.0), [700.0, 701.0, 699.0], time_slope=0.1) == pytest.approx(0.1 * math.log(2))


def test_steps_compare_within_a_commit_by_the_devices_tolerance() -> None:
    assert marked(experiment(0, on_gpu(1000), on_gpu(991)), experiment(1, on_gpu(700))) == []
    assert marked(experiment(0, on_gpu(1000), on_gpu(989), on_gpu(1001))) == ["r0-2"]
    assert marked(experiment(0, on_cpu(None, 100), on_cpu(None, 96))) == []
    assert marked(experiment(0, on_cpu(None, 100), on_cpu(None, 94))) == ["r0-2"]
    again = experiment(5, on_gpu(980), commit=make_experiment(0).commit)
    assert marked(experiment(0, on_gpu(1000), on_gpu(1000)), again) == ["r5-1"], "a control runs the baseline's commit"


def test_what_is_not_known_or_failed_marks_nothing() -> None:
    failed = make_run("", None, status="crash", device="cpu", cpu_share=0.2, reported_steps=3)
    assert marked(experiment(0, on_cpu(0.97)), experiment(1, failed), experiment(2, on_cpu(None))) == []
    assert marked(experiment(0, on_gpu(1000, 0.99), on_gpu(1000, 0.4))) == [], "a GPU's run waits for no CPU"
    assert marked() == []


def test_the_report_names_them_and_an_equal_night_has_no_such_line() -> None:
    records = [experiment(number, on_cpu(0.97)) for number in range(3)]
    assert "nequal shares" not in morning_report([history_of(records)])
    records += [experiment(3, on_cpu(0.62)), *(experiment(number, on_cpu(0.5)) for number in range(4, 7))]
    records = [experiment(number, on_cpu(0.97)) for number in range(10, 20)] + records
    text = morning_report([history_of(records)])
    assert "nequal shares of the machine in 4 of 17 runs" in text and max(map(len, text.splitlines())) <= 100
    assert all(fact in text for fact in ("r3-1", "62%", "97%", "1 more"))
    busy = [experiment(number, on_cpu(0.5), branch="autoresearch/mar8-b") for number in range(30)]
    assert "50% is usual" in morning_report([history_of(records, busy)]), "one figure for all branches of the group"
    group = history_of(records).group
    assert "share of the CPU" in show_text(records[0], group) and "97%" in show_text(records[0], group)


def test_the_work_of_two_runs_is_compared_by_steps_or_by_the_cpu() -> None:
    assert work_ratio(on_cpu(0.9, 100), on_cpu(0.9, 88)) == 0.88
    assert work_ratio(on_cpu(1.0), on_cpu(0.5)) == 0.5
    assert work_ratio(on_gpu(None, 1.0), on_gpu(None, 0.5)) is None
