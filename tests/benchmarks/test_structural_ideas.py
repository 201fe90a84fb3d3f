"""benchmarks/structural_ideas.json: each idea fits the shipped train.py, or that with the first idea, and breaks no rule."""

from pathlib import Path

import pytest

from agent.researchers.scripted import ScriptedResearcher
from research.carried_data import evaluation_bytes
from research.errors import UserError
from research.files import research_folder
from research.profiles import PROFILES
from research.runnable import not_runnable

IDEAS = ScriptedResearcher.from_file(Path(__file__).parents[2] / "benchmarks" / "structural_ideas.json").steps


@pytest.mark.parametrize("number", range(len(IDEAS)))
def test_an_idea_fits_the_shipped_file_or_the_head_after_the_first_idea(number: int) -> None:
    before = (research_folder() / "train.py").read_text()
    try:
        edited = IDEAS[number].apply(before)
    except UserError:
        before = IDEAS[0].apply(before)
        edited = IDEAS[number].apply(before)
    assert edited != before
    assert not_runnable(edited, evaluation_bytes(PROFILES["standard"].contract)) is None
