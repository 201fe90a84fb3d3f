"""What a transfer's runs say: the gain with its interval, and its split into learning and speed."""

import json
from dataclasses import replace

import pytest

from research.result import RunResult
from results.transfer import Original, Pair, compare, difference, seconds_for_equal_steps, transfer_event, transfer_lines

ORIGINAL = Original(baseline=1.0, head=0.97, gain=0.025, low=0.02, high=0.03)


def run_of(name: str, val_bpb: float, *, steps: int | None = 100, tokens: int | None = None) -> RunResult:
    return RunResult(run_id=name, status="ok", reason="", seed=1, device="cuda:0", val_bpb=val_bpb, reported_steps=steps,
                     reported_tokens=tokens)  # fmt: skip


def pair_of(
    before: float, after: float, at_steps: float | None = None, *, steps: tuple[int | None, int | None] = (100, 125)
) -> Pair:
    return Pair(
        baseline=run_of("b", before, steps=steps[0]),
        head=run_of("h", after, steps=steps[1]),
        head_at_steps=None if at_steps is None else run_of("e", at_steps, steps=steps[0]),
    )


def test_the_interval_is_that_of_paired_differences() -> None:
    """Seeds that differ by 0.05 do not hide a gain of 0.01 that each of them shows."""
    pairs = [pair_of(1.0, 0.99), pair_of(1.05, 1.0401), pair_of(0.98, 0.9699)]
    found = compare(pairs, ORIGINAL)
    assert found.gain.mean == pytest.approx(0.01, abs=1e-4) and found.gain.is_gain
    assert found.gain.low is not None and found.gain.high is not None and found.gain.high - found.gain.low < 0.001
    assert "40%" in transfer_lines(found)[3]
    assert difference([0.01, 0.03]).low == pytest.approx(0.02 - 6.3138 * 0.01, abs=1e-5)  # t of one degree of freedom


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([pair_of(1.0, 0.99)], "undecided"),
        ([pair_of(1.0, 0.99), pair_of(1.0, 1.01)], "undecided"),
        ([pair_of(1.0, 1.02), pair_of(1.0, 1.0201)], "does not carry over"),
        ([pair_of(1.0, 0.9), pair_of(1.0, 0.9)], "carries over"),
    ],
    ids=["one seed", "seeds disagree", "worse", "equal to the last digit"],
)
def test_the_words_follow_the_interval(pairs: list[Pair], says: str) -> None:
    assert says in transfer_lines(compare(pairs, ORIGINAL))[3]


def test_learning_and_speed_add_up_to_the_gain() -> None:
    found = compare([pair_of(1.0, 0.98, 0.985), pair_of(1.01, 0.991, 0.994)], ORIGINAL)
    assert found.learning is not None and found.speed is not None
    assert found.learning.mean == pytest.approx(0.0155) and found.speed.mean == pytest.approx(0.004)
    assert found.learning.mean + found.speed.mean == pytest.approx(found.gain.mean)
    text = "\n".join(transfer_lines(found))
    assert "125 steps of the head against 100" in text and "reports" in text


def test_equal_steps_take_as_much_less_time_as_the_head_is_faster() -> None:
    assert seconds_for_equal_steps(pair_of(1.0, 0.9), 300.0) == pytest.approx(240.0)
    assert seconds_for_equal_steps(pair_of(1.0, 0.9, steps=(100, 80)), 300.0) == pytest.approx(375.0)
    assert seconds_for_equal_steps(pair_of(1.0, 0.9, steps=(1000, 1004)), 300.0) == 300.0


@pytest.mark.parametrize("steps", [(None, 100), (100, None), (0, 100), (10, 1000), (1000, 10), (100, -5), (2**52, 1)])
def test_steps_that_are_missing_or_absurd_split_nothing(steps: tuple[int | None, int | None]) -> None:
    pair = pair_of(1.0, 0.9, steps=steps)
    assert seconds_for_equal_steps(pair, 300.0) is None
    found = compare([pair], ORIGINAL)
    assert found.learning is None and any("no split" in line for line in transfer_lines(found))


def test_a_machine_of_uneven_speed_is_said() -> None:
    """The head at equal steps made fewer than the baseline: other processes had the machine."""
    pair = pair_of(1.0, 0.9, 0.95)
    slowed = replace(pair, head_at_steps=run_of("e", 0.95, steps=57))
    assert "57" in transfer_lines(compare([slowed], ORIGINAL))[-1]
    assert "distrust" not in "".join(transfer_lines(compare([pair], ORIGINAL)))


def test_another_batch_size_is_said() -> None:
    pair = pair_of(1.0, 0.9, 0.95)
    halved = replace(pair, baseline=run_of("b", 1.0, tokens=100_000), head=run_of("h", 0.9, steps=200, tokens=100_000))
    assert "0.5 times" in transfer_lines(compare([halved], ORIGINAL))[-1]
    assert "times" not in transfer_lines(compare([pair], ORIGINAL))[-1]


def test_the_event_holds_all_figures_and_every_run_once() -> None:
    same_steps = replace(pair_of(1.0, 0.9), head_at_steps=run_of("h", 0.9))
    pairs = [pair_of(1.0, 0.9, 0.95), same_steps]
    event = json.loads(json.dumps(transfer_event(compare(pairs, ORIGINAL), pairs, terms={"depth": 12}), allow_nan=False))
    assert event["runs"] == ["b", "h", "e"] and event["depth"] == 12
    assert event["gain"]["mean"] == pytest.approx(0.1) and event["original"]["gain"] == 0.025
    assert event["learning"]["low"] < event["learning"]["mean"]
