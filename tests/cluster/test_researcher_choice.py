"""Who proposes where nobody names a researcher."""

from argparse import Namespace
from pathlib import Path

import pytest

from cluster.researcher_choice import DEFAULT_MAX_COST, chosen_line, model_here, with_researcher


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def chosen(**changes: object) -> tuple[str, float | None]:
    options = with_researcher(Namespace(**{"researcher": None, "max_cost": None, "model": None, "effort": None, **changes}))
    return options.researcher, options.max_cost


def install(home: Path, program: str) -> None:
    (home / "bin").mkdir(exist_ok=True)
    path = home / "bin" / program
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_hybrid_where_a_key_is_there_with_a_limit_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == ("search", None) and chosen(researcher="hybrid") == ("hybrid:claude", None)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    assert chosen() == ("hybrid:claude", DEFAULT_MAX_COST) and chosen(max_cost=3.0) == ("hybrid:claude", 3.0)
    assert chosen(researcher="search") == ("search", None) and chosen(researcher="hybrid") == ("hybrid:claude", None)
    assert "--researcher search" in chosen_line(None, "hybrid:claude")
    assert chosen_line(None, "search") == chosen_line("hybrid", "hybrid:claude") == ""


def test_an_agent_that_has_been_used_here_and_tells_its_cost(tmp_path: Path) -> None:
    for program in ("codex", "claude"):
        install(tmp_path, program)
    (tmp_path / ".codex").mkdir()
    assert model_here() is None
    (tmp_path / ".claude").mkdir()
    assert model_here() == "claude-code" and chosen() == ("hybrid:claude-code", DEFAULT_MAX_COST)
