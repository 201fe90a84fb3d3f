"""What `farm show` tells of one experiment."""

from dataclasses import replace

from results.experiment import ExperimentRecord, Verdict
from results.group_history import Decided
from results.show import show_text
from tests.results.history_samples import history_of
from tests.results.result_samples import make_experiment, make_run


def tried(number: int, val_bpb: float | None, decision: str = "keep", **changes: object) -> ExperimentRecord:
    run = make_run(
        f"r{number}", val_bpb, seed=number, reason="" if val_bpb else "RuntimeError", log_tail="line 1\nRuntimeError: x"
    )
    verdict = Verdict(decision=decision, reason="so it is")  # type: ignore[arg-type]
    return ExperimentRecord(experiment=make_experiment(number, **changes), runs=(run,), verdict=verdict)


def shown(*records: ExperimentRecord, of: int = -1, **known: object) -> str:
    return show_text(records[of], history_of(records, **known).group)  # type: ignore[arg-type]


def test_everything_on_one_experiment_is_told() -> None:
    text = shown(tried(0, 0.9979), tried(1, 0.986041))
    for part in ("keep: so it is", "0.986041 (one run)", "DEPTH: 8 -> 9", "+DEPTH = 9", "45000 MiB", "landlock"):
        assert part in text
    assert "(m, 0.2500 USD)" in text and "it should learn faster" in text


def test_a_crash_ends_with_its_log_and_has_no_effect() -> None:
    text = shown(tried(0, 0.99), tried(3, None, "crash"))
    assert "run r3: crash: RuntimeError (seed 3, cuda:0)" in text and "    RuntimeError: x" in text
    assert "val_bpb     -\n" in text and "effect" not in text
    assert "none yet" in shown(replace(tried(3, None), verdict=None))


def test_an_idea_has_its_effect_its_price_and_what_it_stands_on() -> None:
    first = tried(1, 0.98, patches=("mar8-0001",), slots=("DEPTH",))
    second = tried(2, 0.97, patches=("mar8-0001", "mar8-0002"), slots=("DEPTH",), price=0.0012)
    text = shown(tried(0, 0.99), tried(9, 0.9902, kind="control", patches=()), first, second)
    assert "effect      +0.0" in text and "P(helps) 1.00; in the head" in text and "+0.00120 bpb" in text
    assert "tried on    mar8-0001" in text and "edits       what mar8-0001 made" in text
    assert "effect" not in shown(first, tried(0, 0.99)), "a baseline is no idea"
    assert "not in the head" in shown(tried(0, 0.99), tried(1, 1.1, "discard"))


def test_all_decisions_are_told_in_their_order() -> None:
    verdicts = [Verdict(decision=d, reason=f"{n}th time") for n, d in enumerate(("discard", "keep", "discard"))]  # type: ignore[arg-type]
    decided = {"mar8-0001": [Decided(time=f"2026-03-08T2{n}:00:00Z", verdict=v) for n, v in enumerate(verdicts)]}
    lines = shown(tried(0, 0.99), tried(1, 0.98), decisions=decided).splitlines()
    assert [line.split()[1:3] for line in lines if line.startswith("  verdict")] == [
        ["2026-03-08T20:00:00Z", "discard:"],
        ["2026-03-08T21:00:00Z", "keep:"],
        ["2026-03-08T22:00:00Z", "discard:"],
    ]


def test_a_commit_that_runs_as_it_is_was_made_from_none() -> None:
    baseline = tried(0, 1.0, commit="a" * 40, parent_commit="a" * 40, kind="baseline")
    assert f"{'a' * 40}\n" in shown(baseline)
    assert f"{'b' * 40} on aaaaaaa\n" in shown(tried(1, 1.0, commit="b" * 40, parent_commit="a" * 40))
