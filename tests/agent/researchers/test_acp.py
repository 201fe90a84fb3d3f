"""Agents of the Agent Client Protocol: a small one, run by the protocol's own SDK, in the sandbox of coding agents."""

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.researcher import NotConfigured
from agent.researchers import acp_client
from agent.researchers.acp import acp_agent
from agent.researchers.agent_output import AgentOutput, read_output
from agent.researchers.budget import Budget
from agent.researchers.coding_agents import AGENTS
from agent.researchers.command_run import PROMPT
from agent.researchers.make import check_researcher, make_researcher, researcher_warnings
from agent.researchers.mix import kinds_in, shares_of
from research.errors import UserError
from results.experiment import Usage
from tests.agent.researchers import acp_agent as program
from tests.agent.researchers import scripted_acp_agent
from tests.agent.samples import TRAIN_PY, make_context


def command() -> str:
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(program.__file__)))}"


def test_an_agent_edits_train_py_by_the_protocol_and_its_cost_is_recorded() -> None:
    charged: list[Usage] = []
    researcher = make_researcher(f"acp:{command()}", model="claude-opus-5-5", budgets=[Budget(2.0)])
    proposal = asyncio.run(researcher.propose(make_context(charge=charged.append)))
    assert proposal.train_py == TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
    assert (proposal.title, proposal.researcher) == ("Deeper", "acp")
    said = proposal.hypothesis.split(maxsplit=2)
    assert said[:2] == ["claude-opus-5-5", "selected"] and said[2].startswith("Invalid params")
    assert said[2].endswith(PROMPT.strip())
    assert charged == [proposal.usage]
    usage = proposal.usage
    assert (usage.input_tokens, usage.output_tokens) == (15, 201)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (3000, 400)
    assert (usage.cost_usd, usage.cost_basis, usage.model) == (0.125, "native-reported", "claude-opus-5-5")


def failure(capsys: pytest.CaptureFixture[str], model: str | None = None, **answers: Any) -> str:
    """What the client says of an agent with these answers."""
    agent = [sys.executable, "-S", str(Path(scripted_acp_agent.__file__)), json.dumps(answers)]
    try:
        reason = asyncio.run(acp_client.talk(agent, "a prompt", model=model, effort=None))
    except acp_client.Refused as refused:
        return str(refused)
    assert json.loads(capsys.readouterr().out)["stop_reason"] == reason
    return reason


MODELS = {
    **{"id": "m", "name": "M", "category": "model", "type": "select", "currentValue": "m-1"},
    "options": [{"group": "g", "name": "G", "options": [{"value": name, "name": "M"} for name in ("m-1", "m-2")]}],
}


def test_what_goes_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys) == "end_turn"
    login = {"session/new": {"error": {"code": -32000, "message": "Authentication required"}}}
    assert "Log in with Acme" in failure(capsys, **login)
    assert "999" in failure(capsys, initialize={"result": {"protocolVersion": 999}})
    assert "closed" in failure(capsys, initialize=None)
    assert "closed" in failure(capsys, **{"session/prompt": None})
    quota = {"error": {"code": -32603, "message": "Internal error", "data": {"details": "quota"}}}
    assert "quota" in failure(capsys, **{"session/prompt": quota})
    assert failure(capsys, **{"session/prompt": {"result": {"stopReason": "refusal"}}}) == "refusal"
    assert "--model" in failure(capsys, model="m-3")
    offers = {"session/new": {"result": {"sessionId": "s", "configOptions": [MODELS]}}}
    assert "m-1, m-2" in failure(capsys, model="m-3", **offers)


def test_its_report_is_read(tmp_path: Path) -> None:
    def told(*lines: dict[str, Any]) -> AgentOutput:
        (tmp_path / "output").write_text("\n".join(map(json.dumps, lines)))
        return read_output(tmp_path / "output", "protocol", model=None)

    end = {"acp": "end", "stop_reason": "end_turn", "usage": {"input_tokens": 15, "output_tokens": 201}, "model": "m"}
    only_tokens = told(end).usage
    assert (only_tokens.cost_usd, only_tokens.cost_basis, only_tokens.output_tokens) == (None, "missing", 201)
    priced = told({**end, "model": "claude-opus-5-5"}).usage
    assert priced.cost_basis == "list-price-estimate" and priced.cost_usd == pytest.approx((15 * 4 + 201 * 20) / 1e6)
    assert told({"acp": "cost", "amount": 1.0, "currency": "EUR"}).usage.cost_basis == "missing"
    assert told({"acp": "cost", "amount": 1.0, "currency": "USD"}).usage.cost_usd == 1.0
    assert told(end).problem is None and "refusal" in str(told({**end, "stop_reason": "refusal"}).problem)
    assert told({"acp": "error", "message": "it wants\na login"}).problem == "it wants a login"


def test_its_name_has_a_command_and_may_hold_commas() -> None:
    check_researcher("acp:gemini --acp")
    check_researcher("hybrid:acp:gemini --acp")
    assert shares_of("acp:agent --tools a,b:2") == {"acp:agent --tools a,b:2": 1}
    assert kinds_in("hybrid:acp:agent --tools a,b:2") == ("search", "acp")
    for name in ("acp:", "acp", "hybrid:acp:"):
        with pytest.raises(UserError, match="acp") as error:
            check_researcher(name)
        assert "\n" not in str(error.value)
    for name in ("acp:no-such-program", "acp:'"):
        with pytest.raises(NotConfigured, match="acp") as error:
            make_researcher(name)
        assert "\n" not in str(error.value)
    assert researcher_warnings("acp:x", "off")


def test_a_known_agent_keeps_its_own_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gemini").write_text("#!/bin/sh\n")
    (tmp_path / "gemini").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    known, other = acp_agent("gemini --acp"), acp_agent(command())
    assert known.state == AGENTS["gemini"].state and known.keys == AGENTS["gemini"].keys
    assert set(other.state) >= {state for agent in AGENTS.values() for state in agent.state} and other.keys == ()
