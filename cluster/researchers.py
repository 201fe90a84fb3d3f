"""The researcher that an option names."""

from agent.researcher import Researcher
from cluster.options import FarmOptions
from research.errors import UserError


def make_researcher(options: FarmOptions, number: int) -> Researcher:
    """The researcher of loop `number` by its name on the command line. Raises UserError."""
    kind, _, rest = options.researcher.partition(":")
    if kind == "search":
        from agent.search.search import SearchResearcher

        return SearchResearcher(seed=number)
    if kind == "claude":
        from agent.researchers.claude import ClaudeResearcher

        if options.model is None:
            return ClaudeResearcher(max_cost_usd=options.max_cost)
        return ClaudeResearcher(max_cost_usd=options.max_cost, model=options.model)
    if kind == "command" and rest:
        from agent.researchers.command import CommandResearcher

        return CommandResearcher(rest)
    if kind == "scripted" and rest:
        from agent.researchers.scripted import ScriptedResearcher

        return ScriptedResearcher.from_file(rest)
    raise UserError(f"No researcher is called {options.researcher!r}: search, claude, command:COMMAND or scripted:FILE.")
