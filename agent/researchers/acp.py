"""Agents that speak the Agent Client Protocol (JSON-RPC over standard streams), by their command: `acp:gemini --acp`."""

import shlex
import shutil
import sys
from pathlib import Path

from agent.researcher import NotConfigured
from agent.researchers.coding_agents import AGENTS, CodingAgent

CLIENT = Path(__file__).with_name("acp_client.py")
"""The program that talks to the agent, beside it in its sandbox."""


def acp_agent(command: str) -> CodingAgent:
    """The agent that a command starts. Raises NotConfigured for a command that can't be parsed or isn't there.

    An agent that is known by name keeps its own state alone; of another one it isn't known what it keeps, so that it may have
    what any agent has.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise NotConfigured(f"--researcher acp: the command can't be parsed: {error}.") from None
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise NotConfigured(
            f"--researcher acp: the command {words[0] if words else ''!r} was not found: install it, or check PATH."
        )
    known = [agent for agent in AGENTS.values() if agent.program == Path(program).name] or list(AGENTS.values())
    return CodingAgent(
        name="acp",
        program=sys.executable,
        package="",
        options=("-I", str(CLIENT)),
        model=("--model", "{}"),
        effort=("--effort", "{}"),
        prompt=("--", program, *words[1:]),
        output="protocol",
        tells_dollars=True,
        state=tuple(dict.fromkeys(name for agent in known for name in agent.state)),
        configuration=tuple(dict.fromkeys(name for agent in known for name in agent.configuration)),
        variables={name: below for agent in known for name, below in agent.variables.items()},
        keys=known[0].keys if len(known) == 1 else (),
    )
