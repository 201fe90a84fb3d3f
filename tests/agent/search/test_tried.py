from dataclasses import replace

from agent.compare_programs import changed_constants, code_of
from agent.diff import unified_diff
from agent.search.tried import Tried, only_constants
from results.experiment import ExperimentRecord
from tests.agent.samples import make_record

BASE = '"""Doc."""\n\nDEPTH = 2  # layers\nRATE = 0.5\n\n\ndef f():\n    """Doc."""\n    return DEPTH * RATE\n'
DEEP = BASE.replace("= 2 ", "= 3 ")
PLUS = BASE.replace("DEPTH * RATE", "DEPTH + RATE")


def record(number: int, old: str, new: str, *, parent: str, commit: str) -> ExperimentRecord:
    made = make_record(number)
    experiment = replace(
        made.experiment,
        commit=commit,
        parent_commit=parent,
        changes=changed_constants(old, new),
        diff=unified_diff(old, new),
    )
    return replace(made, experiment=experiment)


def test_code_is_equal_where_only_the_writing_differs() -> None:
    assert code_of(BASE) == code_of("DEPTH = 1 + 1\nRATE = 0.50\ndef f(): return (DEPTH  *  RATE)  # half\n")
    assert code_of(BASE) == code_of(DEEP)
    assert code_of(BASE) != code_of(PLUS)


def test_a_configuration_is_recognised_on_other_heads_and_in_other_writing() -> None:
    both = PLUS.replace("= 2 ", "= 3 ")
    records = [
        record(1, BASE, DEEP, parent="base", commit="deep"),
        record(2, BASE, both, parent="base", commit="both"),
        record(3, BASE, PLUS, parent="base", commit="plus"),
    ]
    on_plus = Tried(PLUS, "plus", records)
    assert on_plus.holds_constants({"DEPTH": 3})  # the second experiment, though tried on another head
    assert not on_plus.holds_constants({"DEPTH": 4})
    assert on_plus.holds(BASE)
    assert on_plus.holds(DEEP.replace("RATE = 0.5", "RATE = 1 / 2"))
    assert not on_plus.holds(BASE.replace("DEPTH *", "DEPTH -"))
    on_base = Tried(BASE, "base", records)
    assert on_base.holds_constants({"DEPTH": 3})
    assert on_base.holds(PLUS)
    assert not on_base.holds(BASE.replace("return DEPTH * RATE", "return RATE"))


def test_experiments_without_a_connection_to_the_head_count_by_their_changes() -> None:
    stray = record(1, BASE, DEEP, parent="elsewhere", commit="stray")
    assert Tried(BASE, "base", [stray]).holds_constants({"DEPTH": 3})


def test_constants_alone() -> None:
    assert only_constants(record(1, BASE, DEEP, parent="a", commit="b"))
    assert not only_constants(record(1, BASE, PLUS, parent="a", commit="b"))
    assert only_constants(make_record(1))
