"""Every rule by which experiments are decided, and the figures in the reasons."""

from typing import Any

import pytest

from research.result import RunStatus
from results.experiment import ExperimentRecord, Head
from results.verdict import (
    PRIOR_RUNS,
    NoisePrior,
    baseline_verdict,
    control_verdict,
    greedy_verdict,
    noise_prior,
    software_changes,
    too_equal,
)
from tests.results.result_samples import make_experiment, make_run

HEAD = Head(commit="a", experiment_id="b", scores=(0.9979,), expected=0.9979)
SIGMA = 0.0007
PRIOR = NoisePrior(sigma=SIGMA)


def test_scores_are_pooled_on_both_sides() -> None:
    head = Head(commit="a", experiment_id="b", scores=(0.990, 0.992), expected=0.991)
    lucky_then_not = [make_run("r0", 0.985), make_run("r1", 0.991)]
    verdict = greedy_verdict(lucky_then_not, head)
    assert verdict.gain == pytest.approx(0.991 - 0.988)


@pytest.mark.parametrize(
    ("status", "decision"),
    [
        ("crash", "crash"),
        ("oom", "crash"),
        ("diverged", "crash"),
        ("timeout", "crash"),
        ("invalid", "invalid"),
        ("lost", "lost"),
    ],
)
def test_a_run_without_a_score_is_no_number(status: RunStatus, decision: str) -> None:
    verdict = greedy_verdict([make_run("r", None, status=status, reason="said\nso")], HEAD)
    assert (verdict.decision, verdict.reason, verdict.gain) == (decision, f"{status}: said so", None)
    assert baseline_verdict([make_run("r", None, status=status)], PRIOR).decision == decision


def test_lost_runs_are_not_charged_to_the_idea() -> None:
    lost = make_run("r0", None, status="lost")
    assert greedy_verdict([lost, make_run("r1", 0.98)], HEAD).decision == "keep"
    assert greedy_verdict([make_run("r0", 0.98), lost], HEAD).decision == "keep"


def test_one_run_that_broke_the_rules_decides() -> None:
    cheat = make_run("r0", 0.5, status="invalid", reason="looked ahead")
    assert greedy_verdict([cheat, make_run("r1", 0.98)], HEAD).decision == "invalid"


def test_the_greedy_rule_keeps_whatever_is_lower() -> None:
    assert greedy_verdict([make_run("r", 0.99789)], HEAD).decision == "keep"
    assert greedy_verdict([make_run("r", 0.9979)], HEAD).decision == "discard"


def test_a_baseline_is_kept_when_it_runs() -> None:
    assert baseline_verdict([make_run("r", 0.9979)], PRIOR).reason == "baseline: val_bpb 0.9979"
    two = baseline_verdict([make_run("r0", 0.9979), make_run("r1", 0.9981)], PRIOR)
    assert (two.decision, two.reason) == ("keep", "baseline: val_bpb 0.9980, the mean of 2 runs")


def test_a_control_says_whether_scores_still_compare() -> None:
    baseline = ExperimentRecord(experiment=make_experiment(0), runs=(make_run("r0", 0.9979), make_run("r1", 0.9981)))
    same = control_verdict([make_run("c", 0.9985)], baseline, SIGMA)
    assert same.decision == "discard"
    assert "still compare" in same.reason
    moved = control_verdict([make_run("c", 1.0080)], baseline, SIGMA)
    assert moved.decision == "discard"
    assert "1.0080" in moved.reason and "0.9980" in moved.reason and "--tag" in moved.reason
    assert control_verdict([make_run("c")], baseline, SIGMA).decision == "crash"


def test_only_software_that_no_baseline_was_run_with_asks_for_a_control() -> None:
    old, new = {"torch": "2.11", "cuda": "13.0"}, {"torch": "2.12", "cuda": "13.0"}

    def record(number: int, software: dict[str, str], **changes: Any) -> ExperimentRecord:
        run = make_run(f"r{number}", 1.0, software=software)
        return ExperimentRecord(experiment=make_experiment(number, **changes), runs=(run,))

    begun = [record(0, old), record(1, old)]
    assert software_changes([]) == ""
    assert software_changes(begun) == ""
    changed = [*begun, record(2, new)]
    assert software_changes(changed) == "torch 2.11 -> 2.12"
    controlled = [*changed, record(3, new, kind="control")]
    assert software_changes(controlled) == ""
    assert software_changes([*controlled, record(4, old)]) == ""  # two machines that differ, both known


def test_nothing_to_decide_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run"):
        greedy_verdict([], HEAD)


def test_shorter_runs_are_expected_to_be_noisier_and_that_is_worth_less() -> None:
    own = noise_prior(0.0007, measured_at=300.0, budget=300.0)
    assert own == NoisePrior(sigma=0.0007, runs=PRIOR_RUNS)
    short = noise_prior(0.0007, measured_at=300.0, budget=40.0)
    assert 0.0020 < short.sigma < 0.0030 and short.runs < own.runs
    assert noise_prior(0.0007, measured_at=300.0, budget=3000.0).sigma == 0.0007


def test_a_baseline_whose_seeds_lie_far_apart_says_so() -> None:
    runs = [make_run("r0", 0.9979), make_run("r1", 1.0179)]
    reason = baseline_verdict(runs, PRIOR).reason
    assert "differ by 0.0200" in reason and "sigma (0.0007)" in reason and "busy" in reason
    assert "busy" not in baseline_verdict([make_run("r0", 0.9979), make_run("r1", 0.9989)], PRIOR).reason


@pytest.mark.parametrize(
    ("second", "suspicious"),
    [
        ({"val_bpb": 0.9979, "seed": 2}, True),
        ({"val_bpb": 0.9979 * (1 + 5e-8), "seed": 2}, True),
        ({"val_bpb": 0.9979 * (1 - 5e-7), "seed": 2}, False),
        ({"val_bpb": 0.9979, "seed": 1}, False),  # the same run again
        ({"val_bpb": 0.9979, "seed": 2, "status": "invalid"}, False),
    ],
)
def test_scores_that_are_too_equal_are_named(second: dict[str, Any], suspicious: bool) -> None:
    runs = [make_run("r1", 0.9979, seed=1), make_run("r2", **second)]
    expected = "suspicious: r1 and r2 score the same under seeds 1 and 2" if suspicious else ""
    assert too_equal(runs) == expected


def test_a_verdict_says_what_is_suspicious_and_stays() -> None:
    runs = [make_run("r1", 0.9860, seed=1), make_run("r2", 0.9860, seed=2)]
    for verdict in (greedy_verdict(runs, HEAD), baseline_verdict(runs, PRIOR)):
        assert verdict.decision == "keep" and verdict.reason.endswith("score the same under seeds 1 and 2")
    baseline = ExperimentRecord(experiment=make_experiment(0), runs=(runs[0],))
    assert "suspicious" in control_verdict([runs[1]], baseline, SIGMA).reason
