"""Every rule by which experiments are decided, and the figures in the reasons."""

import random
import statistics
from typing import Any

import pytest

from research.result import RunStatus
from results.experiment import ExperimentRecord, Head, Verdict
from results.store import Store
from results.verdict import (
    PRIOR_RUNS,
    Noise,
    NoisePrior,
    baseline_verdict,
    control_verdict,
    decide,
    estimate_noise,
    is_near_miss,
    keep_threshold,
    near_misses,
    needed_gain,
    noise_prior,
    replicates_among,
    software_changes,
    too_equal,
)
from tests.results.result_samples import make_experiment, make_run

HEAD = Head(commit="a", experiment_id="b", scores=(0.9979,), peak_memory_mb=45_000.0)
NOISE = Noise(sigma=0.0007)
PRIOR = NoisePrior(sigma=0.0007)


@pytest.mark.parametrize(
    ("val_bpb", "net_lines", "decision"),
    [
        (0.9860, 0, "keep"),
        (0.9971, 0, "keep"),  # gains 0.0008
        (0.9973, 0, "discard"),  # gains 0.0006: chance does that
        (0.9979, 0, "discard"),
        (0.9990, 0, "discard"),
        (0.9969, 20, "discard"),  # 0.001 for 20 hacky lines isn't worth it
        (0.9961, 20, "keep"),  # 0.0018 is
        (0.9977, -12, "keep"),  # 0.0002 and twelve lines fewer
        (0.9979, -20, "keep"),  # the same and simpler: keep
        (0.9982, -500, "keep"),  # half a sigma worse at most, however many lines go
        (0.9983, -500, "discard"),
    ],
)
def test_a_keep_beats_noise_and_the_price_of_its_lines(val_bpb: float, net_lines: int, decision: str) -> None:
    verdict = decide([make_run("r", val_bpb)], HEAD, NOISE, net_lines=net_lines)
    assert verdict.decision == decision
    assert verdict.gain == pytest.approx(0.9979 - val_bpb)
    assert verdict.sigma == 0.0007


def test_the_reason_is_in_words_with_figures() -> None:
    def reason(val_bpb: float, net_lines: int = 0) -> str:
        return decide([make_run("r", val_bpb)], HEAD, NOISE, net_lines=net_lines).reason

    def says(words: str, *facts: str) -> bool:
        return all(fact in words for fact in ("the head's 0.9979", "0.0007", *facts))

    assert says(reason(0.986, 2), "0.9860", "gained 0.0119", "more than the 0.0008", "+2 lines")
    assert says(reason(0.9975, 1), "0.9975", "gained 0.0004", "less than the 0.00075", "+1 line)")
    assert says(reason(0.9979), "no gain", "0.0007 was needed")
    assert says(reason(0.9990), "lost 0.0011", "0.0007 was needed")
    assert says(reason(0.9981, -30), "lost 0.0002", "may lose 0.00035", "-30 lines")
    assert says(reason(0.9985, -30), "lost 0.0006", "no more than 0.00035")
    greedy = decide([make_run("r", 0.9978)], HEAD, NOISE, rule="greedy").reason
    assert "gained 0.0001" in greedy and "greedy" in greedy


@pytest.mark.parametrize("net_lines", [-500, -3, 0, 4])
def test_the_threshold_is_where_the_decision_turns(net_lines: int) -> None:
    threshold = keep_threshold(HEAD, NOISE, net_lines)
    assert threshold == pytest.approx(0.9979 - needed_gain(NOISE, net_lines))
    just_below, just_above = make_run("r", threshold - 1e-9), make_run("r", threshold + 1e-9)
    assert decide([just_below], HEAD, NOISE, net_lines=net_lines).decision == "keep"
    assert decide([just_above], HEAD, NOISE, net_lines=net_lines).decision == "discard"


def test_scores_are_pooled_on_both_sides() -> None:
    head = Head(commit="a", experiment_id="b", scores=(0.990, 0.992))
    lucky_then_not = [make_run("r0", 0.985), make_run("r1", 0.991)]
    verdict = decide(lucky_then_not, head, NOISE)
    assert verdict.gain == pytest.approx(0.991 - 0.988)


def test_memory_has_a_cap() -> None:
    heavy = make_run("r", 0.98, peak_memory_mb=80_000.0)
    verdict = decide([heavy], HEAD, NOISE)
    assert verdict.decision == "discard"
    assert all(figure in verdict.reason for figure in ("80000 MiB", "1.78 times", "45000", "the cap is 1.5"))
    assert decide([heavy], HEAD, NOISE, memory_cap=None).decision == "keep"
    assert decide([heavy], HEAD, NOISE, memory_cap=1.8).decision == "keep"
    unmeasured = make_run("r", 0.98, peak_memory_mb=None)
    assert decide([unmeasured], HEAD, NOISE).decision == "keep"


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
    verdict = decide([make_run("r", None, status=status, reason="said\nso")], HEAD, NOISE)
    assert (verdict.decision, verdict.reason, verdict.gain) == (decision, f"{status}: said so", None)
    assert baseline_verdict([make_run("r", None, status=status)], PRIOR).decision == decision


def test_lost_runs_are_not_charged_to_the_idea() -> None:
    lost = make_run("r0", None, status="lost")
    assert decide([lost, make_run("r1", 0.98)], HEAD, NOISE).decision == "keep"
    assert decide([make_run("r0", 0.98), lost], HEAD, NOISE).decision == "keep"


def test_one_run_that_broke_the_rules_decides() -> None:
    cheat = make_run("r0", 0.5, status="invalid", reason="looked ahead")
    assert decide([cheat, make_run("r1", 0.98)], HEAD, NOISE).decision == "invalid"


def test_the_greedy_rule_keeps_whatever_is_lower() -> None:
    assert decide([make_run("r", 0.99789)], HEAD, NOISE, net_lines=100, rule="greedy").decision == "keep"
    assert decide([make_run("r", 0.9979)], HEAD, NOISE, net_lines=-100, rule="greedy").decision == "discard"
    assert keep_threshold(HEAD, NOISE, 100, rule="greedy") == HEAD.mean


def test_a_baseline_is_kept_when_it_runs() -> None:
    assert baseline_verdict([make_run("r", 0.9979)], PRIOR).reason == "baseline: val_bpb 0.9979"
    two = baseline_verdict([make_run("r0", 0.9979), make_run("r1", 0.9981)], PRIOR)
    assert (two.decision, two.reason) == ("keep", "baseline: val_bpb 0.9980, the mean of 2 runs")


def test_a_control_says_whether_scores_still_compare() -> None:
    baseline = ExperimentRecord(experiment=make_experiment(0), runs=(make_run("r0", 0.9979), make_run("r1", 0.9981)))
    same = control_verdict([make_run("c", 0.9985)], baseline, NOISE)
    assert same.decision == "discard"
    assert "still compare" in same.reason
    moved = control_verdict([make_run("c", 1.0080)], baseline, NOISE)
    assert moved.decision == "discard"
    assert "1.0080" in moved.reason and "0.9980" in moved.reason and "--tag" in moved.reason
    assert control_verdict([make_run("c")], baseline, NOISE).decision == "crash"


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


def scored(number: int, decision: str, gain: float | None, needed: float | None) -> ExperimentRecord:
    verdict = Verdict(decision=decision, reason="so it is", gain=gain, needed=needed, sigma=0.0007)  # type: ignore[arg-type]
    return ExperimentRecord(experiment=make_experiment(number), runs=(make_run(f"r{number}", 1.0),), verdict=verdict)


NEARLY = [
    scored(1, "discard", 0.0004, 0.0008),
    scored(2, "discard", 0.0007, 0.0007),
    scored(3, "discard", 1e-9, 0.0007),
]
NOT_NEARLY = [
    scored(4, "discard", 0.0, 0.0007),  # gained nothing
    scored(5, "discard", -0.0001, 0.0007),
    scored(6, "discard", 0.0100, 0.0007),  # enough, but took too much memory
    scored(7, "discard", -0.0010, -0.00035),
    scored(8, "keep", 0.0008, 0.0007),
    scored(9, "discard", 0.0003, None),  # a control
    scored(10, "crash", None, None),
]


def test_a_near_miss_gained_but_not_enough() -> None:
    assert near_misses([*NOT_NEARLY, *NEARLY]) == [NEARLY[1], NEARLY[0], NEARLY[2]]


def test_the_view_of_near_misses_has_the_same(store: Store) -> None:
    records = [*NEARLY, *NOT_NEARLY]
    for record in records:
        store.add_experiment(record.experiment)
        store.add_run(record.experiment.id, record.runs[0])
        assert record.verdict is not None
        store.add_verdict(record.experiment.id, record.verdict)
    in_view = [number for (number,) in store.query("SELECT number FROM near_misses").rows]
    assert in_view == [record.experiment.number for record in near_misses(records)]


def test_nothing_to_decide_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run"):
        decide([], HEAD, NOISE)


def test_noise_starts_at_the_prior_and_follows_the_replicates() -> None:
    assert estimate_noise(PRIOR, []) == Noise(sigma=pytest.approx(0.0007), replicates=0)  # type: ignore[arg-type]
    assert estimate_noise(PRIOR, [[0.99]]).sigma == pytest.approx(0.0007)  # one run says nothing of its spread
    generator = random.Random(0)
    pairs = [[generator.gauss(0.99, 0.003), generator.gauss(0.99, 0.003)] for _ in range(2000)]
    assert estimate_noise(PRIOR, pairs).sigma == pytest.approx(0.003, rel=0.05)
    assert 0.0007 < estimate_noise(PRIOR, pairs[:3]).sigma < 0.003


def test_pooling_is_the_weighted_mean_of_variances() -> None:
    scores = [0.990, 0.992, 0.995]
    expected = (PRIOR_RUNS * 0.0007**2 + 2 * statistics.variance(scores)) / (PRIOR_RUNS + 2)
    estimate = estimate_noise(PRIOR, [scores])
    assert estimate.sigma == pytest.approx(expected**0.5) and estimate.replicates == 2


def test_shorter_runs_are_expected_to_be_noisier_and_that_is_worth_less() -> None:
    own = noise_prior(0.0007, measured_at=300.0, budget=300.0)
    assert own == NoisePrior(sigma=0.0007, runs=PRIOR_RUNS)
    short = noise_prior(0.0007, measured_at=300.0, budget=40.0)
    assert 0.0020 < short.sigma < 0.0030 and short.runs < own.runs
    assert noise_prior(0.0007, measured_at=300.0, budget=3000.0).sigma == 0.0007


def test_replicates_are_experiments_that_ran_under_several_seeds() -> None:
    once = ExperimentRecord(experiment=make_experiment(0), runs=(make_run("r0", 0.99),))
    seeds = (make_run("r1", 0.99), make_run("r2", 0.98), make_run("r3", None, status="crash"))
    twice = ExperimentRecord(experiment=make_experiment(1), runs=seeds)
    assert replicates_among([once, twice]) == [[0.99, 0.98]]


def test_a_baseline_whose_seeds_lie_far_apart_says_so() -> None:
    runs = [make_run("r0", 0.9979), make_run("r1", 1.0179)]
    reason = baseline_verdict(runs, PRIOR).reason
    assert "differ by 0.0200" in reason and "sigma 0.0007" in reason and "busy" in reason
    assert f"must gain {estimate_noise(PRIOR, [[0.9979, 1.0179]]).sigma:.4f}" in reason
    assert "busy" not in baseline_verdict([make_run("r0", 0.9979), make_run("r1", 0.9989)], PRIOR).reason


def test_a_prior_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        estimate_noise(NoisePrior(sigma=0.0), [])


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
    for verdict in (decide(runs, HEAD, NOISE), baseline_verdict(runs, PRIOR)):
        assert verdict.decision == "keep" and verdict.reason.endswith("score the same under seeds 1 and 2")
    baseline = ExperimentRecord(experiment=make_experiment(0), runs=(runs[0],))
    assert "suspicious" in control_verdict([runs[1]], baseline, NOISE).reason


@pytest.mark.parametrize("gain", [-0.046, -0.0001, 0.0])
@pytest.mark.parametrize("needed", [0.1, 0.001, -0.0004])
def test_what_is_no_better_than_the_head_is_never_a_near_miss(gain: float, needed: float) -> None:
    """Whatever the noise, and however much simpler the code."""
    verdict = Verdict(decision="discard", reason="worse", gain=gain, needed=needed, sigma=0.2)
    assert not is_near_miss(ExperimentRecord(experiment=make_experiment(1), verdict=verdict))
