"""The same error three times: further edits of what all three changed are refused on that head, before they cost a run."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.crash_patterns import CrashPattern, crash_patterns
from agent.duplicate_edits import reason_not_to_run
from agent.researchers.scripted import Step
from agent.search.search import SearchResearcher
from research.hyperparameters import read_constants
from results.experiment import ExperimentRecord
from tests.agent.loops_of_a_group import GROUP, Group
from tests.agent.samples import TRAIN_PY, make_context, make_record

HEAD = "0" * 40
TRACE = 'Traceback (most recent call last):\n  File "/run/train.py", line {line}, in {function}\n    x = y\n{error}\nmore\n'


def crash(number: int, error: str, *slots: str, function: str = "", **changes: object) -> ExperimentRecord:
    record = make_record(number, decision="crash", val_bpb=None, reason=error, gain=None)
    experiment = replace(record.experiment, slots=slots, **changes)  # type: ignore[arg-type]
    tail = TRACE.format(line=number, function=function, error=error) if function else ""
    return replace(record, experiment=experiment, runs=(replace(record.runs[0], log_tail=tail),))


def names(*records: ExperimentRecord) -> list[set[str]]:
    return [set(pattern.names) for pattern in crash_patterns(records, HEAD)]


def refusals(group: Group, fact: str = "RuntimeError") -> list[tuple[str, bool]]:
    """The titles that were refused, and whether each reason has a fact."""
    events = [event for loop in (0, 1) for event in group.store.events("proposal_refused", f"{GROUP}-cpu{loop}")]
    return [(event["title"], fact in event["reason"]) for event in events]


def test_three_crashes_with_one_error_and_a_name_in_common_are_a_pattern() -> None:
    shapes = [
        crash(1, "RuntimeError: size 3 of 'q' is not 64", "GPT", "MLP"),
        crash(2, "RuntimeError: size 5 of 'k' is not 8", "GPT"),
    ]
    third = crash(3, "RuntimeError: size 1 of 'v' is not 2", "GPT", "DEPTH")
    assert names(*shapes) == [] and names(*shapes, third) == [{"GPT"}]
    (pattern,) = crash_patterns([*shapes, third], HEAD)
    assert pattern.experiments == ("e0001", "e0002", "e0003") and "size 3 of 'q'" in pattern.error
    assert names(*shapes, crash(3, "ValueError: size 1 of 'v' is not 2", "GPT")) == []
    assert names(*shapes, crash(3, "RuntimeError: size 1 of 'v' is not 2", "MLP")) == [], "no name in common"
    assert names(*shapes, crash(3, "RuntimeError: size 1 of 'v' is not 2", "GPT", parent_commit="1" * 40)) == []
    assert names(*shapes, crash(3, "RuntimeError: size 1 of 'v' is not 2")) == []
    assert names(*shapes, crash(3, "RuntimeError: size 1 of 'v' is not 2", "GPT", kind="merge")) == []


def test_the_function_that_raised_is_part_of_the_error() -> None:
    crashes = [crash(n, f"NameError: name 'x{n}' is not defined", "GPT", function="forward") for n in (1, 2, 3)]
    assert names(*crashes) == [{"GPT"}]
    elsewhere = crash(3, "NameError: name 'x3' is not defined", "GPT", function="init_weights")
    assert names(*crashes[:2], elsewhere) == []


@pytest.mark.parametrize("reason", ["killed by signal 9", "the model failed while it was scored (exit status 1)", ""])
def test_an_end_without_an_error_is_no_pattern(reason: str) -> None:
    assert names(*(crash(number, reason, "GPT") for number in (1, 2, 3))) == []


def test_only_an_edit_of_all_the_names_is_refused_and_told_why() -> None:
    pattern = CrashPattern(
        error="RuntimeError: boom", names=frozenset({"DEPTH", "build_model"}), experiments=("e1", "e2", "e3")
    )
    context = make_context(crashes=(pattern,))
    deep = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
    assert reason_not_to_run(deep, context) is None
    reason = reason_not_to_run(deep.replace("return None", "return 1"), context) or ""
    assert all(fact in reason for fact in ("RuntimeError: boom", "e1, e2, e3", "DEPTH", "build_model"))


def test_search_turns_to_other_constants() -> None:
    """It would propose the same for ever, since the history stays as it is."""
    first = asyncio.run(SearchResearcher().propose(make_context()))
    pattern = CrashPattern(error="RuntimeError: boom", names=frozenset(first.changes), experiments=("e1", "e2", "e3"))
    second = asyncio.run(SearchResearcher().propose(make_context(crashes=(pattern,))))
    assert not set(first.changes) <= set(second.changes)


def test_loops_share_what_crashes_and_a_new_head_is_tried_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def score(train_py: str) -> float | str:
        constants = read_constants(train_py)
        depth, rate = constants["DEPTH"], constants["EMBEDDING_LR"]
        assert isinstance(depth, int) and isinstance(rate, float)
        return f"RuntimeError: {depth} layers don't fit" if depth > 3 else 1.5 - (rate == 1.2) * 0.3

    four, five, six, seven, eight = (Step(title=f"depth {n}", constants={"DEPTH": n}) for n in (4, 5, 6, 7, 8))
    rate = Step(title="rate", constants={"EMBEDDING_LR": 1.2})
    mild = Step(title="mild", constants={"WINDOW_PATTERN": "SL"})
    group = Group(tmp_path, TRAIN_PY, score)
    try:
        group.research(2, [four, five], [six])
        (records, _) = group.research(9, [four, five, seven, rate, mild, eight], [six, seven])
        assert refusals(group) == [("depth 7", True), ("depth 7", True)]
        assert [r.experiment.title for r in records if r.experiment.researcher == "agent"] == ["rate", "mild", "depth 8"]
    finally:
        group.store.close()


def test_of_two_loops_that_propose_the_same_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment is on record before it runs, and is what the other loop's proposal is compared with."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    same = [Step(title=f"depth {depth}", constants={"DEPTH": depth}) for depth in (3, 4)]
    group = Group(tmp_path, TRAIN_PY, lambda text: 1.5 + 0.2 * ("DEPTH = 2" not in text))
    try:
        records = group.research(4, same, same)
        assert sorted(r.experiment.title for one in records for r in one) == ["depth 3", "depth 4"]
        assert all(sum(f"DEPTH = {depth} " in text for text in group.ran) == 1 for depth in (3, 4))
        refused = refusals(group, "no result yet")
        assert len(refused) == 2 and any(is_under_way for _, is_under_way in refused)
    finally:
        group.store.close()
