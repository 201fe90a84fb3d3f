"""Hybrid: a model has three of ten ideas, and those that a person suggests; search has the others."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.researcher import Context, Guidance, NotConfigured, OutOfIdeas
from agent.researchers.fallback import AskedResearcher
from agent.researchers.history_text import guidance_text
from agent.researchers.hybrid import HybridResearcher
from agent.researchers.make import check_researcher
from agent.researchers.mix import kinds_in, parts_of
from agent.search.search import SearchResearcher
from research.errors import UserError
from results.experiment import ExperimentRecord, Proposal
from results.steering import Suggestion
from tests.agent.samples import TRAIN_PY, make_context, make_record


class Asked:
    """A researcher that keeps what it was asked."""

    def __init__(self, name: str, *, is_empty: bool = False) -> None:
        self.name, self.is_empty = name, is_empty
        self.asked: list[Guidance] = []

    async def propose(self, context: Context) -> Proposal:
        self.asked.append(context.guidance)
        if self.is_empty:
            raise OutOfIdeas
        return Proposal(title=self.name, hypothesis="", train_py=TRAIN_PY, researcher=self.name)

    async def close(self) -> None:
        pass


def ideas_of(number: int, optimizer: Asked, model: Asked) -> list[str]:
    """Who has each of so many ideas of a loop, of which every second is followed by one of the farm's own."""
    records: list[ExperimentRecord] = [make_record(0, decision="keep")]
    hybrid, found = HybridResearcher(optimizer, model), []
    for _ in range(number):
        proposal = asyncio.run(hybrid.propose(make_context(tuple(records))))
        found.append(proposal.researcher)
        for name in (proposal.researcher, "farm")[: 1 + len(found) % 2]:
            record = make_record(len(records))
            records.append(replace(record, experiment=replace(record.experiment, researcher=name)))
    return found


def test_three_of_ten_ideas_are_the_models_and_change_the_structure() -> None:
    model = Asked("claude")
    found = ideas_of(60, Asked("search"), model)
    assert found[0] == "claude" and found.count("claude") == 18
    assert all(2 <= found[start : start + 10].count("claude") <= 4 for start in range(51))
    assert all(guidance.wants_structure for guidance in model.asked)
    assert "structure" in guidance_text(make_context(guidance=model.asked[0])) and not guidance_text(make_context())


def test_the_model_has_what_a_person_suggests_and_where_the_optimizer_is_out_of_ideas() -> None:
    context = make_context(
        tuple(
            replace(make_record(n), experiment=replace(make_record(n).experiment, researcher="claude" if n < 4 else "search"))
            for n in range(1, 8)
        )
    )
    for is_empty, suggestion, expected in ((False, None, "search"), (True, None, "claude"),
                                           (False, Suggestion(number=1, text="QK-norm"), "claude")):  # fmt: skip
        hybrid = HybridResearcher(Asked("search", is_empty=is_empty), Asked("claude"))
        guided = replace(context, guidance=Guidance(suggestion=suggestion))
        assert asyncio.run(hybrid.propose(guided)).researcher == expected


def test_its_name_says_which_model_it_asks() -> None:
    assert parts_of("hybrid") == parts_of("hybrid:claude") == ("search", "claude") and parts_of("codex") == ("codex",)
    assert kinds_in("hybrid:pi") == ("search", "pi") and kinds_in("claude:2,search:1") == ("claude", "search")
    for name in ("hybrid", "hybrid:claude", "hybrid:codex"):
        check_researcher(name)
    for name in ("hybrid:", "hybrid:search", "hybrid:oracle", "hybrid:oracle:2,search:1"):
        with pytest.raises(UserError):
            check_researcher(name)


def test_search_stands_in_where_the_key_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("claude", "hybrid:claude"):
        researcher, problem = AskedResearcher(name=name).made()
        assert isinstance(researcher, SearchResearcher) and "ANTHROPIC_API_KEY" in problem
        with pytest.raises(NotConfigured):
            AskedResearcher(name=name, falls_back=False).made()
    assert AskedResearcher(name="search").stopgap() is None and AskedResearcher(name="command:sh x").stopgap() is None
    assert isinstance(AskedResearcher(name="codex").stopgap(), SearchResearcher)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    researcher, problem = AskedResearcher(name="hybrid:claude", model="claude-sonnet-5", effort="low").made()
    assert isinstance(researcher, HybridResearcher) and not problem
