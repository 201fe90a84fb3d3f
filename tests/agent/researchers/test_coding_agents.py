"""The coding agents by name: small programs on PATH in place of the real ones, and the help of real ones that are installed."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from agent.researcher import BudgetSpent, NotConfigured, ProposalFailed
from agent.researchers.agent_output import read_output
from agent.researchers.budget import Budget
from agent.researchers.coding_agent import CodingAgentResearcher
from agent.researchers.coding_agents import AGENTS, CodingAgent, check_effort, version_of
from agent.researchers.command_run import PROMPT
from agent.researchers.containment import AgentBounds, containment_here, files_of_command
from agent.researchers.make import check_researcher, make_researcher
from research.errors import UserError
from results.experiment import Proposal, Usage
from tests.agent.repo.git_samples import BRANCH, FILES, propose
from tests.agent.researchers.agent_stand_ins import EDIT, OUTPUTS, install
from tests.agent.samples import TRAIN_PY, make_context

NAMES = sorted(AGENTS)


class Agents:
    """Stand-ins of agents on PATH, and what they saw and cost."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs, self.notes = folder / "programs", folder / "notes"
        self.programs.mkdir()
        self.notes.mkdir()
        monkeypatch.setenv("PATH", f"{self.programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
        self.charged: list[Usage] = []

    def install(self, name: str, output: str | None = None, *, does: str = EDIT) -> None:
        """Puts a stand-in on PATH; without an output it prints what the real one prints."""
        told = OUTPUTS[name] if output is None else output
        install(self.programs, AGENTS[name].program, told, does=does, notes=self.notes / name)

    def propose(self, agent: CodingAgent, *, spent_usd: float = 0.0, **options: Any) -> Proposal:
        bounds = AgentBounds(writable=(self.notes,))
        context = make_context(charge=self.charged.append, spent_usd=lambda: spent_usd)
        return asyncio.run(CodingAgentResearcher(agent, bounds=bounds, **options).propose(context))

    def seen(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.notes / name).read_text())
        return found


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agents:
    return Agents(tmp_path, monkeypatch)


# --- one proposal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_edits_train_py_and_its_cost_is_recorded(name: str, agents: Agents) -> None:
    agents.install(name)
    agent = AGENTS[name]
    proposal = agents.propose(agent)
    assert proposal.train_py == TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
    assert (proposal.title, proposal.hypothesis, proposal.researcher) == ("Deeper", "Depth helps.", name)

    assert proposal.discarded == ("other.txt", "research/run.py")

    seen = agents.seen(name)
    filled = [part.replace("{prompt}", PROMPT) for part in agent.arguments()[1:]]
    assert seen["arguments"] == filled
    assert seen["stdin"] == (PROMPT if agent.reads_prompt else "")
    assert (PROMPT in seen["arguments"]) != agent.reads_prompt

    assert agents.charged == [proposal.usage]
    (usage,) = agents.charged
    assert usage.researcher == name and usage.answers == 1 and usage.seconds > 0
    fresh = 415 if name == "gemini" else 15  # it doesn't tell what it writes to a cache
    written = 0 if name == "gemini" else 400
    assert (usage.input_tokens, usage.output_tokens) == (fresh, 201)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (3000, written)
    expected = (pytest.approx(0.125), "native-reported") if agent.tells_dollars else (None, "missing")
    assert (usage.cost_usd, usage.cost_basis) == expected


@pytest.mark.parametrize("name", NAMES)
def test_model_effort_and_budget_are_handed_on_where_the_agent_has_them(name: str, agents: Agents) -> None:
    agents.install(name)
    agent = AGENTS[name]
    effort = "high" if agent.effort else None
    limits = [Budget(2.0)] if agent.tells_dollars else []
    agents.propose(agent, model="vendor/m-1", effort=effort, budgets=limits, spent_usd=0.5)
    arguments = agents.seen(name)["arguments"]
    for pattern, value in ((agent.model, "vendor/m-1"), (agent.effort, effort), (agent.budget, "1.50")):
        filled = [part.replace("{}", value or "") for part in pattern]
        assert not filled or any(arguments[i : i + len(filled)] == filled for i in range(len(arguments)))
    assert ("1.50" in arguments) == bool(agent.budget)


def test_a_list_price_stands_in_where_an_agent_tells_tokens_of_a_known_model(agents: Agents) -> None:
    agents.install("codex")
    usage = agents.propose(AGENTS["codex"], model="claude-opus-5-5", budgets=[Budget(1.0)]).usage
    assert usage.cost_basis == "list-price-estimate"
    assert usage.cost_usd == pytest.approx((15 * 4 + 201 * 20 + 3000 * 0.4 + 400 * 5) / 1e6)


def test_other_agents_keys_stay_here(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(key, "secret")
    seen = {}
    for name in ("codex", "pi"):
        agents.install(name)
        agents.propose(AGENTS[name])
        seen[name] = {key for key, value in agents.seen(name)["environment"].items() if value == "secret"}
    assert seen == {"codex": {"OPENAI_API_KEY"}, "pi": {"ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"}}


# --- failures -------------------------------------------------------------------------------------------------------------


GARBAGE = [
    "",
    "hello",
    "{",
    "{}\n{}",
    "[" * 100_000,
    "null",
    '{"type": "result", "total_cost_usd": NaN, "usage": 3, "modelUsage": [1]}',
    '{"type": "result", "total_cost_usd": true, "modelUsage": {"m": null}}',
    '{"type": "result", "total_cost_usd": -1, "usage": {"input_tokens": "many", "output_tokens": 1e400}}',
    '{"type": "turn.completed", "usage": {"input_tokens": -5, "output_tokens": 1e30}}',
    '{"stats": {"models": {"m": {"tokens": []}}}}',
    '{"type": "step_finish", "part": {"cost": "free", "tokens": 7}}\n{"type": "step_finish"}',
    '{"type":"message_end","message":{"role":"assistant","model":"\\ud800","usage":{"input":{}}}}\n{"type":"message_end"}',
    '{"type": "error", "error": 5}',
    '{"error": {"message": ["no"]}}',
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: text[:30])
def test_garbage_costs_nothing_and_is_no_error(name: str, garbage: str, tmp_path: Path) -> None:
    (tmp_path / "output").write_text(garbage)
    told = read_output(tmp_path / "output", AGENTS[name].output, model=None)
    assert (told.usage.cost_usd, told.usage.tokens, told.usage.cost_basis) == (None, 0, "missing")
    json.dumps(str(told)).encode()


def test_an_edit_with_garbage_for_output_is_taken(agents: Agents) -> None:
    agents.install("claude-code", "\ufffd{not json\n")
    proposal = agents.propose(AGENTS["claude-code"])
    assert proposal.title == "Deeper" and proposal.usage.cost_basis == "missing" and len(agents.charged) == 1


def test_a_limit_ends_an_agent_that_tells_no_cost_after_its_first_proposal(agents: Agents) -> None:
    agents.install("claude-code", "no report")
    context = make_context(charge=agents.charged.append)
    researcher = CodingAgentResearcher(AGENTS["claude-code"], bounds=AgentBounds(writable=(agents.notes,)), budgets=[Budget(2)])
    assert asyncio.run(researcher.propose(context)).title == "Deeper"
    with pytest.raises(NotConfigured, match="--max-cost"):
        asyncio.run(researcher.propose(context))
    assert len(agents.charged) == 1


@pytest.mark.parametrize("noise", ["warning: an update is there\n", "{not json\n", "{}\n"])
@pytest.mark.parametrize("name", NAMES)
def test_lines_around_the_report_do_not_hide_it(name: str, noise: str, tmp_path: Path) -> None:
    for text in (noise + OUTPUTS[name], f"{OUTPUTS[name]}\n{noise}"):
        (tmp_path / "output").write_text(text)
        assert read_output(tmp_path / "output", AGENTS[name].output, model=None).usage.output_tokens == 201


FAILED = {
    "claude-code": '{"type": "result", "subtype": "error_max_budget_usd", "is_error": true, "total_cost_usd": 0.5}',
    "codex": '{"type": "turn.failed", "error": {"message": "stream error_max_budget_usd"}}',
    "gemini": '{"error": {"type": "Error", "message": "no error_max_budget_usd", "code": 42}}',
    "opencode": '{"type": "error", "error": {"name": "UnknownError", "data": {"message": "no error_max_budget_usd"}}}',
    "pi": '{"type":"message_end","message":{"role":"assistant","stopReason":"error","errorMessage":"error_max_budget_usd"}}',
}


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_is_in_the_agents_own_words_and_what_it_cost_counts(name: str, agents: Agents) -> None:
    agents.install(name, FAILED[name], does="import atexit; atexit.register(os._exit, 3)")
    with pytest.raises(ProposalFailed, match=rf"{name} exited with status 3\. .*error_max_budget_usd") as failure:
        agents.propose(AGENTS[name])
    assert "\n" not in str(failure.value) and agents.charged == [failure.value.usage]
    assert agents.charged[0].cost_usd == (0.5 if name == "claude-code" else None)


def test_a_failure_that_is_reported_among_the_errors_is_found(agents: Agents) -> None:
    report = json.dumps({"session_id": "s", "error": {"type": "Error", "message": "no auth method", "code": 41}}, indent=2)
    agents.install("gemini", "", does=f"print('noise', {report!r}, sep='\\n', file=sys.stderr); sys.exit(41)")
    with pytest.raises(ProposalFailed, match=r"status 41\. no auth method$"):
        agents.propose(AGENTS["gemini"])


def test_an_agent_that_takes_too_long_is_killed_and_what_it_told_counts(agents: Agents) -> None:
    stuck = f"print({OUTPUTS['opencode']!r}, flush=True); time.sleep(60)"
    agents.install("opencode", "", does=stuck)
    with pytest.raises(ProposalFailed, match="killed after 2 s"):
        agents.propose(replace(AGENTS["opencode"], timeout_s=2.0))
    assert [usage.cost_usd for usage in agents.charged] == [pytest.approx(0.125)]


def test_an_unchanged_train_py_fails_and_costs(agents: Agents) -> None:
    agents.install("pi", does="")
    with pytest.raises(ProposalFailed, match="unchanged"):
        agents.propose(AGENTS["pi"])
    assert len(agents.charged) == 1


def test_an_agent_that_cannot_be_started_costs_nothing(agents: Agents) -> None:
    agents.install("pi")
    program = agents.programs / "pi"
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(ProposalFailed, match="can't be started"):
        agents.propose(AGENTS["pi"])
    assert agents.charged == []


# --- limits and options ---------------------------------------------------------------------------------------------------


def test_a_limit_that_is_reached_ends_the_loop_before_a_request(agents: Agents) -> None:
    agents.install("claude-code")
    with pytest.raises(BudgetSpent, match=r"\$2\.50 of \$2"):
        agents.propose(AGENTS["claude-code"], budgets=[Budget(2.0)], spent_usd=2.5)
    assert agents.charged == [] and not (agents.notes / "claude-code").exists()


@pytest.mark.parametrize("name", ["codex", "gemini"])
def test_a_limit_is_refused_where_nothing_tells_the_cost(name: str, agents: Agents) -> None:
    agents.install(name)
    with pytest.raises(UserError, match="--max-cost") as error:
        make_researcher(name, model="unheard-of", budgets=[Budget(2.0)])
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_that_is_not_installed_is_refused_with_how_to_install_it(name: str, agents: Agents) -> None:
    check_researcher(name)
    with pytest.raises(NotConfigured, match=AGENTS[name].package) as error:
        make_researcher(name)
    assert "npm install" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "effort"), [("gemini", "high"), ("claude-code", "huge"), ("pi", ""), ("codex", 'a"\nb')])
def test_an_effort_that_an_agent_does_not_take_is_refused(name: str, effort: str) -> None:
    with pytest.raises(UserError, match="--effort") as error:
        check_effort(AGENTS[name], effort)
    assert "\n" not in str(error.value)


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_sees_its_own_state_and_no_other_agents(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = AGENTS[name]
    own = {tmp_path / state for state in agent.state}
    others = {tmp_path / state for other in AGENTS.values() if other is not agent for state in other.state}
    variables = {variable: str(tmp_path / variable) for known in AGENTS.values() for variable in known.variables}
    files = files_of_command(("agent",), AgentBounds(), folder=tmp_path / "f", temporary=tmp_path / "t",
                             prompt_file=tmp_path / "p", environment=variables, agent=agent)  # fmt: skip
    moved = {tmp_path / variable / below for variable, below in agent.variables.items()}
    assert set(files.writable) == {tmp_path / "f", *own, *moved}
    assert others <= set(files.hidden) and not own & set(files.hidden)
    assert {tmp_path / ".ssh", tmp_path / ".git-credentials"} <= set(files.hidden)
    assert not any(tmp_path / path in files.hidden for path in agent.configuration)


def test_another_agents_login_cannot_be_read(agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = containment_here()
    if not (here.namespaces or here.landlock):
        pytest.skip("nothing contains a command here")
    home = tmp_path / "user"
    for name in (".codex", ".claude", ".config/gh"):
        (home / name).mkdir(parents=True)
        (home / name / "login").write_text("secret")
    monkeypatch.setenv("HOME", str(home))
    look = f"""
found = []
for name in (".codex", ".claude", ".config/gh"):
    try:
        found.append(pathlib.Path({str(home)!r}, name, "login").read_text())
    except OSError:
        found.append("")
pathlib.Path("IDEA.md").write_text("looked\\n" + json.dumps(found))
"""
    agents.install("codex", does=EDIT + look)
    assert json.loads(agents.propose(AGENTS["codex"]).hypothesis) == ["secret", "", ""]


PLANTED = """
marker = pathlib.Path({marker!r})
for hooks in (pathlib.Path(".git", "hooks"), pathlib.Path({repo!r}, ".git", "hooks"), pathlib.Path(".claude", "hooks")):
    for name in ("pre-commit", "post-commit", "post-checkout", "post-index-change", "reference-transaction"):
        try:
            hooks.mkdir(parents=True, exist_ok=True)
            (hooks / name).write_text(f"#!/bin/sh\\necho ran >> {{marker}}\\n")
            (hooks / name).chmod(0o755)
        except OSError:
            pass
pathlib.Path(".git", "config").write_text(f"[core]\\nfsmonitor = touch {{marker}}\\n")
pathlib.Path(".gitattributes").write_text("* filter=f\\n")
pathlib.Path("research", "sitecustomize.py").write_text(f"open({{str(marker)!r}}, 'w')")
pathlib.Path("IDEA.md").write_text("Deeper\\n\\n" + marker.name)
"""


def test_a_hook_that_an_agent_plants_never_runs(agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    repo, marker = tmp_path / "repo", agents.notes / "hook-ran"  # the agent, and what it plants, may write there
    make_repository(repo, FILES)
    hooks = sorted(repo.joinpath(".git", "hooks").glob("*"))
    agents.install("claude-code", does=EDIT + PLANTED.format(marker=str(marker), repo=str(repo)))
    proposal = agents.propose(AGENTS["claude-code"])
    worktree = Worktree.create(repo, tmp_path / "worktree", BRANCH)
    worktree.advance(propose(worktree, proposal.train_py))
    assert worktree.train_py(worktree.head()) == proposal.train_py
    assert not marker.exists() and sorted(repo.joinpath(".git", "hooks").glob("*")) == hooks
    assert {".git/config", ".git/hooks/post-checkout"} <= set(proposal.discarded)


# --- the real programs ----------------------------------------------------------------------------------------------------


HELP: dict[str, tuple[str, ...]] = {"codex": ("exec", "--help"), "opencode": ("run", "--help")}
"""How the agents' help on their options is asked for, if not by --help alone."""


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_in_the_real_programs_help(name: str) -> None:
    agent = AGENTS[name]
    path = shutil.which(agent.program)
    if path is None:
        pytest.skip(f"{agent.program} is not installed here: {agent.how_to_install}")
    asked = [path, *HELP.get(name, ("--help",))]
    told = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
    text = told.stdout + told.stderr
    words = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))
    used = [part for part in agent.arguments(model="m", effort="high", budget_usd=1.0)[1:] if re.match(r"--?[a-zA-Z]", part)]
    assert used and [part for part in used if part not in words] == []
    assert [effort for effort in agent.efforts if not re.search(rf"\b{effort}\b", text)] == []


def test_the_version_of_a_program_is_what_it_prints(agents: Agents) -> None:
    assert version_of(AGENTS["pi"]) is None
    agents.install("pi", "pi version 0.74.2 (linux)", does="")
    assert version_of(AGENTS["pi"]) == "0.74.2"
    agents.install("pi", "", does="")
    assert version_of(AGENTS["pi"]) == "unknown"
