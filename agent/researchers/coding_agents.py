"""The coding agents that `--researcher` knows by name: the command line of each for one proposal, and what it keeps where.

Their options are those of their own help in November 2026; docs/researchers.md has the table for people.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from research.errors import UserError
from research.formatting import shortened

OutputKind = Literal["result", "turns", "stats", "steps", "messages", "protocol"]
"""What an agent prints, by which its tokens and dollars are read (agent_output.py)."""

VERSION_SECONDS = 30.0
"""How long a program may take to print its version."""

WORD = re.compile(r"[A-Za-z0-9][\w.-]*")
"""An effort that can be handed on: one word."""


@dataclass(frozen=True, kw_only=True)
class CodingAgent:
    """A program that edits files as a prompt asks, and how to run it without a person."""

    name: str
    """Its name for `--researcher`."""
    program: str
    package: str
    """The npm package that has the program."""
    options: tuple[str, ...]
    """Arguments of every proposal."""
    prompt: tuple[str, ...] = ()
    """The last arguments. `{prompt}` stands for the prompt; if it isn't there, the prompt is the standard input."""
    model: tuple[str, ...]
    """Arguments that choose a model, for which `{}` stands."""
    effort: tuple[str, ...] = ()
    """Arguments that say how much to think, for which `{}` stands; none if it has no such option."""
    efforts: tuple[str, ...] = ()
    """The values that its help lists for it; none if that depends on the model."""
    budget: tuple[str, ...] = ()
    """Arguments by which it ends itself at a number of US dollars, for which `{}` stands; none if it can't."""
    output: OutputKind
    tells_dollars: bool
    """Whether its output has what it cost in US dollars, as opposed to tokens alone."""
    state: tuple[str, ...]
    """What it writes in the home folder: tokens that it refreshes, sessions, caches."""
    configuration: tuple[str, ...] = ()
    """What it only reads there."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that name a folder with its state instead, and the path below that folder."""
    keys: tuple[str, ...] = ()
    """Environment variables with its keys; none if it can use those of any provider."""
    timeout_s: float = 1800.0

    @property
    def reads_prompt(self) -> bool:
        """Whether its prompt is its standard input."""
        return not any("{prompt}" in part for part in self.prompt)

    def arguments(
        self, *, model: str | None = None, effort: str | None = None, budget_usd: float | None = None
    ) -> tuple[str, ...]:
        """The command line for one proposal, with `{prompt}` for the prompt. A budget that it can't hold is left out."""
        chosen: list[str] = []
        for pattern, value in ((self.model, model), (self.effort, effort),
                               (self.budget, None if budget_usd is None else f"{budget_usd:.2f}")):  # fmt: skip
            if value is not None:
                chosen += [part.replace("{}", value) for part in pattern]
        return (self.program, *self.options, *chosen, *self.prompt)

    @property
    def how_to_install(self) -> str:
        """The command that installs it."""
        return f"npm install -g {self.package}"


_AGENTS = (
    CodingAgent(
        name="claude-code",
        program="claude",
        package="@anthropic-ai/claude-code",
        options=(
            *("-p", "--output-format", "json", "--permission-mode", "acceptEdits", "--tools", "Read,Edit,Write,Grep,Glob"),
            *("--strict-mcp-config", "--setting-sources", "user", "--no-session-persistence"),
        ),
        model=("--model", "{}"),
        effort=("--effort", "{}"),
        efforts=("low", "medium", "high", "xhigh", "max"),
        budget=("--max-budget-usd", "{}"),
        output="result",
        tells_dollars=True,
        state=(".claude", ".claude.json", ".cache/claude-cli-nodejs"),
        variables={"CLAUDE_CONFIG_DIR": ""},
        keys=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    ),
    CodingAgent(
        name="codex",
        program="codex",
        package="@openai/codex",
        options=(
            *("exec", "--json", "--ephemeral", "--skip-git-repo-check", "--ignore-user-config", "--ignore-rules"),
            *("--sandbox", "workspace-write", "-C", "."),
        ),
        prompt=("-",),
        model=("-m", "{}"),
        effort=("-c", 'model_reasoning_effort="{}"'),
        output="turns",
        tells_dollars=False,
        state=(".codex",),
        variables={"CODEX_HOME": ""},
        keys=("OPENAI_API_KEY", "CODEX_API_KEY"),
    ),
    CodingAgent(
        name="gemini",
        program="gemini",
        package="@google/gemini-cli",
        options=("--output-format", "json", "--approval-mode", "auto_edit", "--skip-trust"),
        prompt=("-p", "{prompt}"),
        model=("-m", "{}"),
        output="stats",
        tells_dollars=False,
        state=(".gemini",),
        variables={"GEMINI_CLI_HOME": ".gemini"},
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ),
    CodingAgent(
        name="opencode",
        program="opencode",
        package="opencode-ai",
        options=("run", "--format", "json", "--pure", "--auto", "--dir", "."),
        prompt=("{prompt}",),
        model=("-m", "{}"),
        effort=("--variant", "{}"),
        output="steps",
        tells_dollars=True,
        state=(".local/share/opencode", ".local/state/opencode", ".cache/opencode"),
        configuration=(".config/opencode", ".opencode"),
        variables={"XDG_DATA_HOME": "opencode", "XDG_STATE_HOME": "opencode", "XDG_CACHE_HOME": "opencode"},
    ),
    CodingAgent(
        name="pi",
        program="pi",
        package="@mariozechner/pi-coding-agent",
        options=(
            *("-p", "--mode", "json", "--no-session", "--no-extensions", "--no-context-files"),
            *("--tools", "read,edit,write,grep,find,ls"),
        ),
        prompt=("{prompt}",),
        model=("--model", "{}"),
        effort=("--thinking", "{}"),
        efforts=("off", "minimal", "low", "medium", "high", "xhigh"),
        output="messages",
        tells_dollars=True,
        state=(".pi/agent",),
        variables={"PI_CODING_AGENT_DIR": ""},
    ),
)

AGENTS: Mapping[str, CodingAgent] = MappingProxyType({agent.name: agent for agent in _AGENTS})
"""The coding agents by their names."""

OTHER_KEYS = ("GITHUB_TOKEN", "GH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
"""Environment variables with keys that no coding agent needs."""


def keys_of_others(agent: CodingAgent) -> frozenset[str]:
    """The environment variables with keys that aren't this agent's."""
    others = set(keys_of_all()) - set(agent.keys) if agent.keys else set()
    return frozenset((*others, *OTHER_KEYS))


def keys_of_all() -> tuple[str, ...]:
    """The environment variables with keys of all agents."""
    return tuple(key for agent in _AGENTS for key in agent.keys)


def names_of_others(agent: CodingAgent) -> list[str]:
    """What other agents keep in the home folder, with their logins, and this one doesn't."""
    own = {*agent.state, *agent.configuration}
    every = [name for other in _AGENTS for name in (*other.state, *other.configuration)]
    return [name for name in every if name not in own]


def check_effort(agent: CodingAgent, effort: str) -> None:
    """Raises UserError for an effort that the agent doesn't take."""
    if not agent.effort:
        raise UserError(f"--effort is for other researchers: {agent.name} has no option for it, so leave it out.")
    if agent.efforts and effort not in agent.efforts:
        raise UserError(f"--effort {shortened(effort, 40)}: {agent.name} takes {', '.join(agent.efforts)}.")
    if not WORD.fullmatch(effort):
        raise UserError(f"--effort {shortened(effort, 40)!r} must be one word, such as high.")


def version_of(agent: CodingAgent) -> str | None:
    """The version that the installed program prints, `unknown` if it prints none; None if it isn't on PATH."""
    path = shutil.which(agent.program)
    if path is None:
        return None
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                              timeout=VERSION_SECONDS, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"\d+\.\d+[\w.+-]*", told.stdout) or re.search(r"\d+\.\d+[\w.+-]*", told.stderr)
    return found[0] if found else "unknown"


def state_folders(agent: CodingAgent, home: Path, environment: Mapping[str, str]) -> list[Path]:
    """What the agent writes, in this home folder and where these variables say."""
    named = [(Path(environment.get(name, "")), below) for name, below in agent.variables.items()]
    return [*(home / name for name in agent.state), *(folder / below for folder, below in named if folder.is_absolute())]
