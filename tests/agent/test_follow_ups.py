"""An idea that one run does not settle is followed up by the farm: a bracket of a large gain, another try of a structure."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.follow_ups import STRUCTURE_TRIES, bracket, nearest_knobs, next_follow_up
from agent.researchers.scripted import Step
from agent.text_reader import FUNCTIONS, NotRead, answers
from research.hyperparameters import read_constants
from research.recipes import Constant
from results.experiment import ExperimentRecord
from tests.agent.loops_of_a_group import Group, Score
from tests.agent.samples import TRAIN_PY

RATE = Step(title="rate", constants={"EMBEDDING_LR": 1.2})
TINY = [Step(title=f"depth {depth}", constants={"DEPTH": depth}) for depth in (3, 4, 5, 6, 7, 8)]
STRUCTURE = Step(title="scaled", replace=(("return None", "return EMBEDDING_LR"),))


@pytest.fixture
def make_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Group]]:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    groups: list[Group] = []

    def make(score: Score, text: str = TRAIN_PY, rule: str = "estimate") -> Group:
        groups.append(Group(tmp_path, text, score, rule=rule))  # type: ignore[arg-type]
        return groups[-1]

    yield make
    for group in groups:
        group.store.close()


def by_rate(train_py: str) -> float:
    """A score that falls with the embedding's learning rate down to 2."""
    constants = read_constants(train_py)
    rate, depth = constants["EMBEDDING_LR"], constants["DEPTH"]
    assert isinstance(rate, float) and isinstance(depth, int)
    return 1.5 - 0.5 * min(rate - 0.6, 1.4) + (depth - 2) * 0.04 + ("return EMBEDDING_LR" in train_py) * 0.004


def who(records: list[ExperimentRecord]) -> list[str]:
    return [record.experiment.researcher for record in records]


def values(records: list[ExperimentRecord], name: str) -> list[Constant | None]:
    return [record.experiment.changes[name][1] for record in records if name in record.experiment.changes]


def of_farm(records: list[ExperimentRecord]) -> list[ExperimentRecord]:
    return [record for record in records if record.experiment.researcher == "farm" and record.experiment.kind == "explore"]


# --- brackets -------------------------------------------------------------------------------------------------------


def test_a_large_gain_of_one_constant_is_bracketed_once(make_group) -> None:
    group = make_group(by_rate)
    (records,) = group.research(6, [RATE, *TINY])
    first = records[0].experiment
    assert records[0].verdict is not None and records[0].verdict.decision == "keep"
    found = of_farm(records)
    assert values(found, "EMBEDDING_LR") == [0.85, 2.4], "midway, and as far beyond; its own gain is not bracketed"
    assert all(r.experiment.parents == (first.id,) and r.experiment.title and r.experiment.hypothesis for r in found)
    assert found[1].verdict is not None and found[1].verdict.decision == "keep", "a value beyond takes the place of the first"
    assert group.store.groups.head("autoresearch/mar8").patches[-1] == found[1].experiment.id
    assert who(records)[:4] == ["agent", "farm", "agent", "farm"], "every second idea is the researcher's"
    assert "farm" not in who(records)[4:]


def test_a_follow_up_is_found_once_the_texts_that_it_names_are_read(make_group) -> None:
    group = make_group(by_rate)
    group.research(1, [RATE])
    (loop,) = group.open([])
    state, known = loop.shared.state(), loop.shared.tried.known_beside(loop.branch.name)
    asked: set[str] = set()
    for function in FUNCTIONS.values():
        function._answers.clear()  # as in a farm that has just started
    for _ in range(8):
        try:
            found = next_follow_up(state, loop.context(), loop.worktree.train_py, known, reads=False)
            break
        except NotRead as missing:
            asked |= {name for name, _ in missing.questions}
            answers(missing.questions)
    assert found == next_follow_up(state, loop.context(), loop.worktree.train_py, known)
    assert found is not None and {"same_but_for_constants", "program_of", "not_runnable"} <= asked


def test_a_bracket_is_tried_once_whatever_comes_into_the_head_meanwhile(make_group) -> None:
    group = make_group(lambda text: 1.5 - 0.3 * ("EMBEDDING_LR = 0.6" not in text) - 0.3 * ("return 7" in text))
    other = Step(title="other", replace=(("return None", "return 7"),))
    (records,) = group.research(7, [RATE, other, *TINY])
    assert sorted(values(of_farm(records), "EMBEDDING_LR")) == [0.85, 2.4]
    assert len(group.store.groups.head("autoresearch/mar8").patches) == 2


def test_the_greedy_rule_has_no_follow_ups(make_group) -> None:
    (records,) = make_group(by_rate, rule="greedy").research(3, [RATE, *TINY])
    assert who(records) == ["agent"] * 3


def test_a_small_gain_is_not_bracketed(make_group) -> None:
    group = make_group(lambda text: 1.5 - 0.02 * ("EMBEDDING_LR = 1.2" in text))
    (records,) = group.research(3, [RATE, *TINY])
    assert records[0].verdict is not None and records[0].verdict.decision == "keep" and of_farm(records) == []


def test_a_farm_that_was_killed_goes_on_with_the_same_follow_up(make_group) -> None:
    """One that is under way, or was recorded and never ran, is not proposed again."""
    group = make_group(by_rate)
    group.research(1, [RATE, *TINY])

    async def cut_off() -> None:
        (loop,) = group.open([RATE, *TINY])
        await loop.start()
        assert values([loop.store.record((await loop._idea()).id)], "EMBEDDING_LR") == [0.85]
        await loop.close()

    asyncio.run(cut_off())  # it has a record, and no run
    (records,) = group.research(4, [RATE, *TINY])
    assert values(of_farm(records), "EMBEDDING_LR") == [2.4]
    assert values(of_farm(group.store.records("autoresearch/mar8-cpu0")), "EMBEDDING_LR") == [0.85, 2.4]
    assert sum("EMBEDDING_LR = 0.85" in text for text in group.ran) == 1


def test_two_loops_never_follow_up_the_same(make_group) -> None:
    group = make_group(by_rate)
    records = group.research(6, [RATE, *TINY[:3]], TINY[3:])
    found = [value for one in records for value in values(of_farm(one), "EMBEDDING_LR")]
    assert sorted(found) == [0.85, 2.4]


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("EMBEDDING_LR", 0.6, 1.2, [0.85, 2.4]),
        ("SOFTCAP", 20.0, 10.0, [14.0, 5.0]),
        ("NEW_SHIFT", -1.0, -4.0, [-2.0, -16.0]),
        ("NEW_SHIFT", -1.0, 3.0, [1.0, 7.0]),
        ("NEW_SHIFT", -1, -9, [-3, -81]),
        ("DEPTH", 8, 12, [10, 16]),
        ("DEPTH", 8, 9, [10]),  # no integer lies between
        ("TOTAL_BATCH_SIZE", 2**16, 2**18, [2**17, 2**20]),
        ("ADAM_BETAS", (0.8, 0.9), (0.8, 0.95), [(0.8, 0.929), (0.8, 0.975)]),  # in octaves of 1 - beta
        ("ADAM_BETAS", (0.8, 0.9), (0.9, 0.95), []),
        ("WARMDOWN_RATIO", 0.5, 0.9, [0.7]),  # 1.3 is none
        ("WINDOW_PATTERN", "L", "SL", []),
        ("NEW_FLAG", False, True, []),
        ("VOCAB_SIZE", 2048, 8192, []),
        ("WEIGHT_DECAY", 0.0, 0.1, [0.05, 0.2]),
        ("WEIGHT_DECAY", 0.1, 0.0, [0.05]),  # no negative one
        ("NEW_COUNT", 0, 1, [2]),
    ],
)
def test_a_bracket_lies_on_the_scale_of_its_knob(name: str, old: Constant, new: Constant, expected: list[Constant]) -> None:
    found = [value for _, value in bracket(name, old, new)]
    assert found == expected and [type(value) for value in found] == [type(new)] * len(expected)


# --- structure ------------------------------------------------------------------------------------------------------


def test_a_structure_that_may_help_gets_two_more_tries_with_its_nearest_knob(make_group) -> None:
    group = make_group(lambda text: 1.5 + 0.02 * ("return EMBEDDING_LR" in text) + 0.2 * ("DEPTH = 2" not in text))
    (records,) = group.research(8, [STRUCTURE, *TINY])
    found = of_farm(records)
    assert len(found) == STRUCTURE_TRIES and {r.experiment.parents for r in found} == {(records[0].experiment.id,)}
    assert sorted(values(found, "EMBEDDING_LR")) == [0.21, 1.7], "a probe up and down"
    assert all(set(r.experiment.slots) == {"build_model", "EMBEDDING_LR"} for r in found)
    assert all(group.store.record(r.experiment.id).verdict.decision == "discard" for r in found)


@pytest.mark.parametrize(
    ("score", "step"),
    [
        (2.5, STRUCTURE),  # hopeless
        ("ValueError: boom", STRUCTURE),
        (1.2, STRUCTURE),  # kept
        (1.51, Step(title="nothing to turn", replace=(("return None", "return 1"),))),
        (1.51, RATE),  # no structure
    ],
)
def test_no_other_idea_is_tried_again(make_group, score: float | str, step: Step) -> None:
    changed = step.apply(TRAIN_PY)
    (records,) = make_group(lambda text: score if text == changed else 1.5).research(3, [step, *TINY])
    assert of_farm(records) == []


def test_an_edit_that_no_longer_fits_the_head_is_not_tried_again(make_group) -> None:
    other = Step(title="other", replace=(("return None", "return 7"),))
    group = make_group(lambda text: 1.0 if "return 7" in text else 1.5)
    records, _ = group.research(5, [STRUCTURE], [other, *TINY[:3]])
    assert len(of_farm(records)) <= 1, "only while the other loop's edit of the same line was under way"


def test_the_nearest_knobs_are_those_of_the_edit_then_what_its_code_reads() -> None:
    before = "A_LR = 1.0\nMATRIX_LR = 2.0\nFAR = 3.0\nNAME = 'x'\n\n\ndef f():\n    return MATRIX_LR, NAME\n"
    after = before.replace("FAR = 3.0", "FAR = 3.0\nNEW = 1.0").replace("return MATRIX_LR", "return MATRIX_LR, A_LR, NEW")
    assert [knob.label for knob in nearest_knobs(before, after)] == ["NEW", "A_LR", "MATRIX_LR"]
