"""The researcher of one of a farm's loops, as the farm's options ask for it."""

from collections.abc import Mapping
from pathlib import Path

from agent.researchers.budget import Budget, budgets_of
from agent.researchers.containment import AgentBounds
from agent.researchers.fallback import AskedResearcher
from agent.researchers.mix import of_loop
from cluster.farm_options import FarmOptions
from cluster.home import usual_cache, usual_homes
from cluster.known_folders import known_folders
from cluster.loop_plans import LoopPlan
from research.data.prepared import PreparedData
from research.sandbox.visible import is_needed


def asked_of(options: FarmOptions, plan: LoopPlan, *, loops: Mapping[str, int], shared: tuple[Budget, ...]) -> AskedResearcher:
    """What is asked of a loop's researcher.

    `loops` are the numbers of the tag's loops by branch, of which a branch keeps its own, and `shared` the limits of all loops.
    """
    return AskedResearcher(
        name=of_loop(options.researcher, loops.get(plan.branch_name, plan.number), options.mix),
        seed=plan.number,
        model=options.model,
        effort=options.effort,
        budgets=(*shared, *budgets_of(None, options.max_loop_cost)),
        bounds=agent_bounds(options, plan.data),
        prices=options.prices,
        falls_back=options.fallback == "search",
    )


def agent_bounds(options: FarmOptions, data: PreparedData) -> AgentBounds:
    """The bounds of a researcher's command: it may not read this farm's home or others, nor what runs are scored on."""
    of_data = [path for path in (data.folder, *map(Path, data.hidden_paths)) if not is_needed(path)]  # Python's library is
    return AgentBounds(
        sandbox=options.sandbox,
        hidden=(
            options.home.folder,
            *usual_homes(options.source_tree or options.repo),
            *known_folders(),
            options.cache,
            usual_cache(),
            *of_data,
        ),
        writable=options.agent_writes,
    )
