"""benchmarks/structural_ideas.json: each idea fits the shipped train.py and breaks no rule on its text."""

from pathlib import Path

import pytest

from agent.researchers.scripted import ScriptedResearcher
from research.carried_data import evaluation_bytes
from research.files import research_folder
from research.profiles import PROFILES
from research.runnable import not_runnable

IDEAS = ScriptedResearcher.from_file(Path(__file__).parents[2] / "benchmarks" / "structural_ideas.json").steps


@pytest.mark.parametrize("number", range(len(IDEAS)))
def test_an_idea_fits_the_shipped_file_and_can_run(number: int) -> None:
    train_py = (research_folder() / "train.py").read_text()
    edited = IDEAS[number].apply(train_py)
    assert edited != train_py
    assert not_runnable(edited, evaluation_bytes(PROFILES["standard"].contract)) is None
