"""The available researchers, and how to make one from its name on the command line."""

from typing import TYPE_CHECKING

from agent.researchers.coding_agents import AGENTS
from agent.researchers.mix import ACP, EXAMPLE, HYBRID, MEMBERS, WITH_MODEL, parts_of, shares_of
from agent.researchers.prices import PRICES
from research.errors import UserError
from research.formatting import shortened
from research.result import SandboxMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.researcher import Researcher
    from agent.researchers.budget import Budget
    from agent.researchers.containment import AgentBounds
    from agent.researchers.prices import Price

RESEARCHERS = f"search, hybrid, claude, {', '.join(AGENTS)}, acp:'COMMAND', command:'COMMAND' or scripted:FILE"
"""The names that `--researcher` takes, as help and error messages list them."""

ARGUMENTS = {
    "acp": ("a command line", "'acp:gemini --acp'"),
    "command": ("a command line", "'command:claude -p'"),
    "scripted": ("a file", "scripted:ideas.jsonl"),
}
"""What follows the colon, by kind of researcher: in words, and in an example."""

CLAUDE_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
"""The environment variables that hold a key for Claude: of the public API, or of a gateway."""

CLAUDE_GATEWAY = "ANTHROPIC_BASE_URL"
"""The environment variable with the address that keys are sent to; without it they go to the public one."""


def check_researcher(name: str) -> None:
    """Raises UserError for an unknown name, or a mix that isn't one. Imports no researcher."""
    if len(shares_of(name)) > 1:
        return
    kind, _, argument = name.partition(":")
    if kind in ARGUMENTS and not argument.strip():
        what, example = ARGUMENTS[kind]
        raise UserError(f"--researcher {kind}: needs {what} after the colon, as in --researcher {example}.")
    if kind == HYBRID and (name == HYBRID or argument in WITH_MODEL):
        return
    if kind == HYBRID and argument.partition(":")[0] == ACP:
        return check_researcher(argument)
    if kind in MEMBERS and argument:
        raise UserError(
            f"--researcher {shortened(name, 80)}: what follows the colon is {kind}'s share in a mix, as in {EXAMPLE}: "
            f"for all loops it is --researcher {kind}."
        )
    if name not in ("search", "claude", *AGENTS) and kind not in ARGUMENTS:
        raise UserError(f"No researcher is called {shortened(name, 80)!r}: use {RESEARCHERS}.")


def researcher_warnings(name: str, sandbox: SandboxMode) -> list[str]:
    """A line for each thing that is known against a researcher: that it will probably fail, or that it isn't contained."""
    shares = shares_of(name)
    if len(shares) > 1:
        return list(dict.fromkeys(line for member in shares for line in researcher_warnings(member, sandbox)))
    kind, _, argument = parts_of(name)[-1].partition(":")
    if kind not in (ACP, "command", *AGENTS):
        return []
    from agent.researchers.command import permission_warning
    from agent.researchers.containment import containment_warning

    permission = permission_warning(argument) if kind == "command" else None
    return [line for line in (permission, containment_warning(sandbox)) if line is not None]


def make_researcher(name: str, *, seed: int = 0, model: str | None = None, effort: str | None = None,
                    budgets: "Sequence[Budget]" = (), bounds: "AgentBounds | None" = None,
                    prices: "Mapping[str, Price]" = PRICES) -> "Researcher":  # fmt: skip
    """The researcher with this name, which is no mix. Raises UserError, for instance NotConfigured if a key is missing.

    `seed` is for search: loops with different seeds try ideas in a different order. `model` and `effort` (None: the default),
    `budgets` (which loops share) and `prices` are for claude and coding agents. `bounds` are a command's.
    """
    check_researcher(name)
    kind, _, argument = name.partition(":")
    if kind == "search":
        from agent.search.search import SearchResearcher

        return SearchResearcher(seed=seed)
    if kind == HYBRID:
        from agent.researchers.hybrid import HybridResearcher

        optimizer, thinker = parts_of(name)
        return HybridResearcher(
            make_researcher(optimizer, seed=seed),
            make_researcher(thinker, model=model, effort=effort, budgets=budgets, bounds=bounds, prices=prices),
        )
    if kind == "claude":
        from agent.researchers.claude import DEFAULT_MODEL, ClaudeResearcher

        return ClaudeResearcher(model=model or DEFAULT_MODEL, effort=effort, budgets=budgets, prices=prices)
    if kind in AGENTS:
        from agent.researchers.coding_agent import CodingAgentResearcher

        return CodingAgentResearcher(AGENTS[kind], model=model, effort=effort, budgets=budgets, bounds=bounds,
                                     prices=prices)  # fmt: skip
    if kind == ACP:
        from agent.researchers.acp import acp_agent
        from agent.researchers.coding_agent import CodingAgentResearcher

        return CodingAgentResearcher(acp_agent(argument), model=model, effort=effort, budgets=budgets, bounds=bounds,
                                     prices=prices)  # fmt: skip
    if kind == "command":
        from agent.researchers.command import CommandResearcher

        return CommandResearcher(argument, bounds=bounds)
    from agent.researchers.scripted import ScriptedResearcher

    return ScriptedResearcher.from_file(argument)
