"""Which researcher a farm has if nobody names one: hybrid where a model can be asked, with a limit of what that costs."""

import os
import shutil
from argparse import Namespace
from pathlib import Path

from agent.researchers.coding_agents import AGENTS
from agent.researchers.make import CLAUDE_KEYS
from agent.researchers.mix import HYBRID, shares_of

DEFAULT_MAX_COST = 10.0
"""US dollars that the researcher may cost at most if nobody has asked for it, nor set a limit."""


def model_here() -> str | None:
    """The researcher whose model can be asked here: claude with a key, else a coding agent that has been used here and that
    tells what it costs. None without one.
    """
    if any(os.environ.get(name) for name in CLAUDE_KEYS):
        return "claude"
    ready = (agent.name for agent in AGENTS.values() if agent.tells_dollars and shutil.which(agent.program) is not None
             and any((Path.home() / place).exists() for place in agent.state))  # fmt: skip
    return next(ready, None)


def with_researcher(options: Namespace) -> Namespace:
    """The options of a command line with a researcher: the one that was asked for, by the name of its model.

    Where none was, and a model is here, it is hybrid, with a limit of its cost if there is none.
    """
    asked, model = options.researcher, model_here()
    if asked is not None and HYBRID in (shares := shares_of(asked)):
        hybrid = f"{HYBRID}:{model or 'claude'}"
        members = {hybrid if member == HYBRID else member: share for member, share in shares.items()}
        named = hybrid if asked == HYBRID else ",".join(f"{member}:{share}" for member, share in members.items())
        return Namespace(**{**vars(options), "researcher": named})
    if asked is not None or model is None or options.model is not None or options.effort is not None:
        return options if asked is not None else Namespace(**{**vars(options), "researcher": "search"})
    limit = options.max_cost or DEFAULT_MAX_COST
    return Namespace(**{**vars(options), "researcher": f"{HYBRID}:{model}", "max_cost": limit})


def chosen_line(asked: str | None, researcher: str) -> str:
    """A line on a researcher that nobody asked for and that costs; empty for another one."""
    if asked is not None or researcher.partition(":")[0] != HYBRID:
        return ""
    return f"researcher: {researcher}, since its model can be asked here; --researcher search costs nothing"
