"""Researchers by their names on the command line."""

import json
from pathlib import Path

import pytest

from agent.researchers.budget import Budget
from agent.researchers.claude import DEFAULT_MODEL, ClaudeResearcher
from agent.researchers.coding_agent import CodingAgentResearcher
from agent.researchers.coding_agents import AGENTS
from agent.researchers.command import CommandResearcher
from agent.researchers.make import RESEARCHERS, check_researcher, make_researcher
from agent.researchers.scripted import ScriptedResearcher
from agent.search.search import SearchResearcher
from research.errors import UserError
from tests.agent.researchers.agent_stand_ins import install


def test_each_name_makes_its_researcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    script = tmp_path / "a:b.json"
    script.write_text(json.dumps([{"title": "deeper", "constants": {"DEPTH": 3}}]))
    search = make_researcher("search", seed=3)
    claude = make_researcher("claude", model="claude-sonnet-5", budgets=(budget := Budget(2.0),))
    command = make_researcher("command:sh -c 'echo a:b'")
    scripted = make_researcher(f"scripted:{script}")
    assert isinstance(search, SearchResearcher) and search.seed == 3
    assert isinstance(claude, ClaudeResearcher) and (claude.model, claude.budgets) == ("claude-sonnet-5", (budget,))
    assert isinstance(command, CommandResearcher) and command.arguments == ("sh", "-c", "echo a:b")
    assert isinstance(scripted, ScriptedResearcher) and [step.title for step in scripted.steps] == ["deeper"]
    default = make_researcher("claude")
    assert isinstance(default, ClaudeResearcher) and default.model == DEFAULT_MODEL
    for researcher in (search, claude, command, scripted):
        assert researcher.name in RESEARCHERS
        check_researcher(researcher.name + (":x" if researcher.name in ("command", "scripted") else ""))


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_coding_agents_name_makes_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, AGENTS[name].program, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    made = make_researcher(name, model="m")
    assert isinstance(made, CodingAgentResearcher) and (made.name, made.model) == (name, "m") and name in RESEARCHERS


@pytest.mark.parametrize("name", ["", "gpt", "gpt:3"])
def test_a_name_that_no_researcher_has_is_refused_with_those_that_there_are(name: str) -> None:
    for refuse in (check_researcher, make_researcher):
        with pytest.raises(UserError) as error:
            refuse(name)
        assert RESEARCHERS in str(error.value) and repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("name", "lacks"), [("command", "a command line"), ("command: ", "a command line"), ("scripted:", "a file")]
)
def test_what_follows_the_colon_is_said_to_be_missing(name: str, lacks: str) -> None:
    for refuse in (check_researcher, make_researcher):
        with pytest.raises(UserError) as error:
            refuse(name)
        assert f"needs {lacks} after the colon" in str(error.value)
