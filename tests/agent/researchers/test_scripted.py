import asyncio
import json
from pathlib import Path

import pytest

from agent.researcher import OutOfIdeas
from agent.researchers.scripted import ScriptedResearcher, Step
from research.errors import UserError
from results.experiment import ExperimentRecord, Proposal
from tests.agent.samples import TRAIN_PY, make_context, make_record


def propose(researcher: ScriptedResearcher, *records: ExperimentRecord) -> Proposal:
    return asyncio.run(researcher.propose(make_context(records)))


def test_steps_come_in_the_order_that_the_history_says() -> None:
    researcher = ScriptedResearcher(
        [
            Step(title="deeper", constants={"DEPTH": 3}),
            Step(title="no model", replace=(("return None", "return 1"),)),
            Step(title="empty", train_py="pass\n"),
        ]
    )
    baseline = make_record(0, researcher="baseline")
    first = propose(researcher, baseline)
    assert "DEPTH = 3          # layers" in first.train_py
    assert first.changes == {"DEPTH": (2, 3)}
    assert propose(researcher, baseline) == first
    training = make_record(1, decision=None)
    assert propose(researcher, baseline, training).title == "no model"
    assert propose(researcher, baseline, training, make_record(2)).train_py == "pass\n"
    with pytest.raises(OutOfIdeas):
        propose(researcher, baseline, training, make_record(2), make_record(3))


def test_a_step_that_breaks_train_py_is_proposed_nevertheless() -> None:
    assert propose(ScriptedResearcher([Step(title="broken", train_py="def (")])).changes == {}


@pytest.mark.parametrize("name", ["script.json", "script.py"])
def test_a_script_is_read_from_a_file(tmp_path: Path, name: str) -> None:
    steps = [
        {"title": "one", "hypothesis": "why", "constants": {"EMBEDDING_LR": 0.8}},
        {"title": "two", "replace": ["DEPTH = 2", "DEPTH = 4"]},
        {"title": "three", "replace": [["DEPTH = 2", "DEPTH = WIDE"], ["WIDE", "5"]]},
    ]
    (tmp_path / name).write_text(json.dumps(steps))
    proposal = propose(ScriptedResearcher.from_file(tmp_path / name), make_record(1))
    assert "DEPTH = 4" in proposal.train_py
    assert proposal.researcher == "scripted"
    third = propose(ScriptedResearcher.from_file(tmp_path / name), make_record(1), make_record(2))
    assert "DEPTH = 5" in third.train_py and "WIDE" not in third.train_py


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("{}", "must hold a list"),
        ("[", "not a list of steps"),
        ('[{"constants": {}}]', "Step 1 .* title"),
        ('[{"title": "x"}]', "exactly one"),
        ('[{"title": "x", "train_py": "", "constants": {}}]', "exactly one"),
        ('[{"title": "x", "replace": ["a"]}]', "old, new"),
        ('[{"title": "x", "replace": [["a", "b"], "c"]}]', "old, new"),
        ('[{"title": "x", "replace": []}]', "old, new"),
        ('[{"title": "x", "lr": 1}]', "unknown fields: lr"),
    ],
)
def test_a_bad_script_is_refused_in_one_line(tmp_path: Path, script: str, complaint: str) -> None:
    (tmp_path / "s.json").write_text(script)
    with pytest.raises(UserError, match=complaint) as error:
        ScriptedResearcher.from_file(tmp_path / "s.json")
    assert "\n" not in str(error.value)


def test_a_missing_script_and_a_step_that_does_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json can't be read"):
        ScriptedResearcher.from_file(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"Step 1 .*occurs 0 times"):
        propose(ScriptedResearcher([Step(title="x", replace=(("absent", ""),))]))
    with pytest.raises(UserError, match=r"Step 1 .*no constant WIDTH"):
        propose(ScriptedResearcher([Step(title="x", constants={"WIDTH": 1})]))
    assert "WIDTH" not in TRAIN_PY
