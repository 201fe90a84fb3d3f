"""What search says of a step is true of the history that it comes from."""

import math
from dataclasses import replace

import pytest

from agent.search.knobs import knobs_of
from agent.search.line_search import Curve, KnobStep, next_steps, read_curves
from results.experiment import ExperimentRecord
from tests.agent.samples import make_record

SIGMA = 0.01
KNOBS = knobs_of({"EMBEDDING_LR": 0.6, "MATRIX_LR": 0.04})
KNOB = next(knob for knob in KNOBS if knob.name == "EMBEDDING_LR")


def moved(number: int, old: float, new: float, decision: str | None, gain: float | None, *, effect: float | None = None,
          also: bool = False) -> ExperimentRecord:  # fmt: skip
    """An experiment that changed EMBEDDING_LR, and `also` another constant."""
    record = make_record(number, decision=decision, gain=gain)
    changes = {"EMBEDDING_LR": (old, new)} | ({"MATRIX_LR": (0.04, 0.1)} if also else {})
    verdict = record.verdict and replace(record.verdict, effect=effect, sigma=SIGMA)
    return replace(record, experiment=replace(record.experiment, changes=changes), verdict=verdict)


def step_from(head: float, *records: ExperimentRecord) -> tuple[Curve, KnobStep]:
    curve = read_curves(KNOBS, records, SIGMA)["EMBEDDING_LR"]
    return curve, next_steps(KNOB, math.log2(head), curve, keeps=sum(map(is_kept, records)))[0]


def is_kept(record: ExperimentRecord) -> bool:
    return record.verdict is not None and record.verdict.decision == "keep"


def test_an_idea_that_is_kept_after_all_has_not_failed() -> None:
    """Its ruling has an estimated effect, and no gain of one run."""
    kept_after_all = moved(1, 0.6, 1.7, "keep", None, effect=0.02)
    curve, step = step_from(1.7, kept_after_all)
    assert curve.heights[math.log2(1.7)] == pytest.approx(2.0)
    assert step.position > math.log2(1.7) and "gained 2.0 sigma" in step.why and "failed" not in step.why

    curve, _ = step_from(1.7, moved(1, 0.6, 1.7, "keep", None))
    assert curve.heights == {}  # nothing is known of its gain


def test_what_was_kept_is_not_called_too_little() -> None:
    """A step against the last keep, since what was there before scores better by all that was measured."""
    there, back = moved(1, 0.6, 1.7, "keep", 0.15), moved(2, 1.7, 0.36, "keep", -0.10)
    curve, step = step_from(0.36, there, back)
    assert curve.keeps == 2 and "too little" not in step.why
    assert step.why.startswith("both sides") or "by the scores so far" in step.why

    curve, step = step_from(0.6, moved(1, 0.6, 1.7, "discard", 0.008))
    assert step.position > math.log2(1.7) and "a step in this direction gained 0.8 sigma, too little to be kept" in step.why


@pytest.mark.parametrize(
    ("record", "says", "goes"),
    [
        (moved(1, 0.6, 1.7, "crash", None), "a step in the other direction failed", -1),
        (moved(1, 0.6, 1.7, "discard", -0.05), "a step in the other direction lost 5.0 sigma", -1),
        (moved(1, 0.6, 1.7, "discard", -0.005), "a step in this direction lost 0.5 sigma, which may be noise", 1),
        (moved(1, 1.7, 0.6, "keep", 0.05), "the last keep moved it in this direction, which gained 5.0 sigma", -1),
        (moved(1, 1.7, 3.0, "discard", -0.05), "nothing that was measured compares with its value now", 1),
        (moved(1, 0.6, 1.7, "discard", -0.05, also=True), "nothing that was measured compares with its value now", 1),
        (moved(1, 0.6, 1.7, "lost", None), "it has not been tried yet", 1),
    ],
)
def test_the_reason_is_what_happened_and_the_step_goes_that_way(record: ExperimentRecord, says: str, goes: int) -> None:
    _, step = step_from(0.6, record)
    assert says in step.why
    assert math.copysign(1, step.position - math.log2(0.6)) == goes


def test_the_sum_of_several_steps_is_not_called_a_step() -> None:
    """Another loop's value was measured against another head."""
    far = moved(1, 1.7, 3.0, "discard", -0.03)
    there = moved(2, 1.7, 0.6, "discard", 0.01)
    _, step = step_from(0.6, far, there)
    assert "a step" not in step.why
