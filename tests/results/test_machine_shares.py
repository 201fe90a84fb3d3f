"""Unequal shares of the machine: what is marked, on a CPU and on a GPU, and that nothing is marked without reason."""

import math
from dataclasses import replace

import pytest

from cluster.status_text import unequal_lines
from research.result import RunResult
from results.experiment import ExperimentRecord, Verdict
from results.machine_shares import (
    doubt_of_share,
    first_share,
    machine_share,
    told_share,
    unequal_shares,
    unequal_sides,
    usual_share,
    work_ratio,
)
from results.report import morning_report
from results.show import show_text
from tests.results.history_samples import history_of
from tests.results.result_samples import NAME, make_experiment, make_run


def experiment(number: int, *runs: RunResult, **changes: str) -> ExperimentRecord:
    named = [replace(run, run_id=f"r{number}-{index}") for index, run in enumerate(runs, start=1)]
    return ExperimentRecord(experiment=make_experiment(number, **changes), runs=tuple(named))


def on_cpu(share: float | None, steps: int | None = None) -> RunResult:
    return make_run("", 1.0, device="node-1/cpu", cpu_share=share, reported_steps=steps)


def on_gpu(steps: int | None, share: float | None = None) -> RunResult:
    return make_run("", 1.0, device="node-1/cuda:0", cpu_share=share, reported_steps=steps)


def at_speed(tflops: float | None) -> RunResult:
    return make_run("", 1.0, device="cuda:0", gpu_tflops=tflops)


def marked(*records: ExperimentRecord) -> list[str]:
    return [found.run.run_id for found in unequal_shares(records, [run for record in records for run in record.runs])]


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
    found = machine_share(at_speed(350.0), [700.0, 701.0, 699.0])
    assert found is not None and found.more == pytest.approx(-math.log(2), abs=0.01)
    assert doubt_of_share(found, time_slope=0.1) == pytest.approx(0.1 * math.log1p(found.tolerance))
    assert doubt_of_share(machine_share(at_speed(None), [700.0, 701.0]), time_slope=0.1) == 0.0


def test_runs_with_the_whole_machine_are_not_the_odd_ones_where_it_was_busy_for_half_of_the_time() -> None:
    half = [0.6, 0.98, 0.61, 0.98, 0.97, 0.6, 0.98, 0.62]
    assert usual_share(half) == 0.98 and usual_share([0.6] * 7 + [0.98]) == 0.6
    whole, busy = (machine_share(on_cpu(share), half) for share in (0.98, 0.6))
    assert whole is not None and busy is not None and not whole.is_unusual
    assert told_share(on_cpu(0.98), whole) == ""
    assert "39% less of the machine than usual" in told_share(on_cpu(0.6), busy)
    after_busy = machine_share(on_cpu(0.98), [0.6] * 8)
    assert "after runs with 39% less" in told_share(on_cpu(0.98), after_busy), "nothing is wrong with this run"


def test_what_runs_differ_by_anyway_is_not_told_and_verdict_and_report_name_the_same_runs() -> None:
    noisy = [0.97, 0.9, 0.88, 0.96, 0.85, 0.93, 0.9, 0.97]
    assert told_share(on_cpu(0.86), machine_share(on_cpu(0.86), noisy)) == ""
    records = [experiment(number, on_cpu(share)) for number, share in enumerate([*noisy, 0.86])]
    assert marked(*records[5:8]) == [] and "r8-1" not in marked(*records)


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
    busy = [experiment(3, on_cpu(0.62)), *(experiment(number, on_cpu(0.5)) for number in range(4, 7))]
    records = [experiment(number, on_cpu(0.97)) for number in range(10, 20)] + busy
    text = morning_report([history_of(records)])
    assert "nequal shares of the machine in 4 of 14 runs" in text and max(map(len, text.splitlines())) <= 100
    assert all(fact in text for fact in ("r3-1", "62%", "97% is usual", "1 more"))
    others = [run for number in range(30, 38) for run in experiment(number, on_cpu(0.5)).runs]
    found = unequal_shares(records[:1], [*others, *records[0].runs])
    assert "after runs with 50%" in found[0].words, "the other branches of the group say what is usual"
    group = history_of(records).group
    assert "share of the CPU" in show_text(records[0], group) and "97%" in show_text(records[0], group)


def test_the_work_of_two_runs_is_compared_by_steps_or_by_the_cpu() -> None:
    assert work_ratio(on_cpu(0.9, 100), on_cpu(0.9, 88)) == 0.88
    assert work_ratio(on_cpu(1.0), on_cpu(0.5)) == 0.5
    assert work_ratio(on_gpu(None, 1.0), on_gpu(None, 0.5)) is None


def test_runs_that_are_compared_are_marked_where_shares_were_unequal_from_the_start() -> None:
    """No share is usual then, so that none is unusual; a control with the whole machine is not like its baseline."""
    baselines = experiment(0, on_cpu(0.4), on_cpu(0.9), on_cpu(0.41), on_cpu(0.4), on_cpu(0.95), on_cpu(0.4))
    control = experiment(1, on_cpu(1.0), kind="control", commit=baselines.experiment.commit)
    assert "r1-1" in marked(baselines, control) and "r1-1" not in marked(baselines, experiment(1, on_cpu(1.0), commit="f" * 40))
    words = unequal_sides({"mar8-0001": [on_cpu(1.0)], "the baseline": [on_cpu(0.4), on_cpu(0.42)]})
    assert "mar8-0001 100%" in words and "the baseline 41%" in words
    assert unequal_sides({"mar8-0001": [on_cpu(0.98)], "the baseline": [on_cpu(0.96)]}) == ""
    assert unequal_sides({"mar8-0001": [on_cpu(None)], "the baseline": [on_cpu(0.96)]}) == ""


def test_a_share_beside_that_of_the_compared_runs_is_seen_where_nothing_is_usual_yet_or_the_machine_stays_busy() -> None:
    less = machine_share(on_cpu(0.26), [0.49], [0.49, 0.49])
    assert less is not None and less.uneven == pytest.approx(math.log(0.26 / 0.49)) and not less.is_unusual
    stays_busy = machine_share(on_cpu(0.26), [0.26] * 8, [0.49])
    assert stays_busy is not None and not stays_busy.is_unusual and stays_busy.uneven < 0
    assert "47% less of the machine" in told_share(on_cpu(0.26), stays_busy)
    more = machine_share(on_cpu(0.6), [0.6] * 8, [0.38])
    assert more is not None and more.uneven > 0 and "37% less of the machine" in told_share(on_cpu(0.6), more)
    for compared in ([0.5], []):
        equal = machine_share(on_cpu(0.49), [0.49] * 8, compared)
        assert equal is not None and equal.uneven == 0.0 and told_share(on_cpu(0.49), equal) == ""
    first = first_share(on_cpu(0.5))
    assert first is not None and first.more_in(0.51) == first.more_in(None) == 0.0 < first.more_in(0.6) < math.log(0.6 / 0.5)


def test_status_and_report_count_unequal_shares_alike_over_all_branches_of_a_head() -> None:
    """Loops of one group: a run is counted once, beside all runs of the group."""

    def one(branch: str, number: int, share: float) -> ExperimentRecord:
        made = make_experiment(number, branch=branch)
        run = replace(on_cpu(share), run_id=f"{made.id}-r")
        return ExperimentRecord(experiment=made, runs=(run,), verdict=Verdict(decision="discard", reason="no"))

    first = [one(NAME, number, 0.98) for number in range(6)]
    second = [one("autoresearch/mar8-cpu1", number, share) for number, share in enumerate((0.98, 0.4, 0.3))]
    history = history_of(first, second)
    both = [history, replace(history, branch=history.group.branches[1], records=tuple(second))]
    [line] = unequal_lines(history.group)
    report = morning_report(both)
    assert "in 2 of 9 runs" in line and report.count("Unequal shares") == 1 and "in 2 of 9 runs" in report
