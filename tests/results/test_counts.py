"""Counts of experiments, however they ended."""

from itertools import product

from results.counts import count
from results.experiment import Decision, ExperimentRecord, Verdict
from tests.results.result_samples import make_experiment, make_run

SAME_EDIT = "-DEPTH = 8\n+DEPTH = 9\n"


def record(number: int, decision: Decision, *, diff: str) -> ExperimentRecord:
    experiment = make_experiment(number, diff=diff)
    score = 0.9 if decision in ("keep", "discard") else None
    return ExperimentRecord(
        experiment=experiment,
        runs=(make_run(f"{experiment.id}-r0", score),),
        verdict=Verdict(decision=decision, reason="so it is"),
    )


def test_all_experiments_are_counted_however_they_ended_and_whichever_repeat_another() -> None:
    decisions: tuple[Decision, ...] = ("keep", "discard", "crash", "invalid", "lost")
    for ended in product(decisions, repeat=3):
        for repeats in range(4):
            diffs = [SAME_EDIT if number < repeats else f"+DEPTH = {10 + number}\n" for number in range(3)]
            found = count([record(at + 1, one, diff=diffs[at]) for at, one in enumerate(ended)])
            parts = (found.kept_experiments, found.discarded, found.crashed, found.invalid)
            assert sum(parts) == found.done, ended
            assert found.kept <= found.kept_experiments


def test_a_kept_repeat_is_named_beside_the_idea_that_it_repeats() -> None:
    first, again = (record(number, "keep", diff=SAME_EDIT) for number in (1, 2))
    other, discarded = record(3, "keep", diff="+DEPTH = 10\n"), record(4, "discard", diff="+DEPTH = 11\n")
    assert count([first, again, other, discarded]).words() == "2 kept (in 3 experiments), 1 discarded"
    assert count([first, other, discarded]).words() == "2 kept, 1 discarded"
