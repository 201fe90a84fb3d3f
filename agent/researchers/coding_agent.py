"""A researcher that runs one of the coding agents that are known by name, and records what it cost."""

import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.researcher import Context, NotConfigured, ProposalFailed
from agent.researchers.agent_output import AgentOutput, read_output
from agent.researchers.budget import Budget, all_reserved, least_free_usd
from agent.researchers.coding_agents import CodingAgent, check_effort
from agent.researchers.command_run import CommandLine, CommandRun, scratch_folder
from agent.researchers.contained import NOT_STARTED
from agent.researchers.containment import AgentBounds, containment
from agent.researchers.prices import PRICES, PRICES_AS_OF, Price
from research.errors import UserError
from research.sandbox.layers import BROKEN
from results.experiment import Proposal, Usage

LEAST_BUDGET_USD = 0.01
"""What an agent may spend at least, if there is anything left."""

USUAL_MOST_USD = 2.0
"""What is kept of a limit for one proposal, if there is as much: other loops may spend the rest meanwhile."""


class CodingAgentResearcher:
    """Lets a coding agent edit a temporary copy of the branch's files, and takes train.py and IDEA.md from it.

    What its output says of tokens and dollars is recorded before anything is made of the edit, also if it failed or was killed.
    Of each limit so much is kept for a proposal as the agent is told that it may spend.
    """

    def __init__(self, agent: CodingAgent, *, model: str | None = None, effort: str | None = None,
                 budgets: Sequence[Budget] = (), bounds: AgentBounds | None = None,
                 prices: Mapping[str, Price] = PRICES) -> None:  # fmt: skip
        """Raises UserError for what the agent can't do, and NotConfigured if it isn't installed."""
        self.agent, self.name = agent, agent.name
        self.model, self.effort, self.budgets = model, effort, tuple(budgets)
        self.prices = prices
        if effort is not None:
            check_effort(agent, effort)
        if self.budgets:
            check_cost_is_known(agent, model, prices)
        if shutil.which(agent.program) is None:
            raise NotConfigured(f"{agent.name} isn't installed ({agent.program} was not found on PATH): {agent.how_to_install}")
        self._bounds = bounds or AgentBounds()
        self._containment = containment(self._bounds.sandbox)
        self._has_unknown_cost = False

    async def propose(self, context: Context) -> Proposal:
        """One edit made by the agent. Raises BudgetSpent, ProposalFailed with the reason and the cost, or NotConfigured once
        there is a limit that can't be kept.
        """
        if self._has_unknown_cost:
            raise NotConfigured(
                f"{self.name} reported no cost for its last proposal, so a limit can't be enforced: give --model a model whose "
                "price is known, or leave --max-cost and --max-loop-cost out, and set a limit where you pay."
            )
        budget = self._budget(context)
        async with all_reserved(self.budgets, budget or 0.0, context):
            return await self._propose(context, self._command(budget))

    async def _propose(self, context: Context, command: CommandLine) -> Proposal:
        started = time.monotonic()
        with scratch_folder() as scratch:
            run = CommandRun(command, scratch=scratch, bounds=self._bounds, here=self._containment)
            told = AgentOutput(usage=Usage())
            try:
                status = None
                try:
                    status = await run.to_end(context)
                finally:
                    if run.output.exists() and status not in (NOT_STARTED, BROKEN):
                        told = self._charge(run, context, time.monotonic() - started)
                if status != 0:
                    raise ProposalFailed(f"{self.name} exited with status {status}. {told.problem or run.tail()}")
                self._has_unknown_cost = bool(self.budgets) and told.usage.cost_usd is None
                return run.proposal(context, researcher=self.name, usage=told.usage)
            except ProposalFailed as failure:
                failure.usage = told.usage
                raise

    async def close(self) -> None:
        """Does nothing: a proposal that is cancelled kills its command itself."""

    def _budget(self, context: Context) -> float | None:
        """US dollars that the next proposal may cost; None without a limit."""
        free = least_free_usd(self.budgets, context)
        return None if free is None else max(min(free, USUAL_MOST_USD), LEAST_BUDGET_USD)

    def _command(self, budget: float | None) -> CommandLine:
        """The command line for a proposal that may cost so much."""
        return CommandLine(
            arguments=self.agent.arguments(model=self.model, effort=self.effort, budget_usd=budget),
            reads_prompt=self.agent.reads_prompt,
            timeout_s=self.agent.timeout_s,
            agent=self.agent,
        )

    def _charge(self, run: CommandRun, context: Context, seconds: float) -> AgentOutput:
        """What the output says, whose cost is recorded."""
        told = read_output(run.output, self.agent.output, model=self.model, prices=self.prices)
        problem = told.problem or read_output(run.errors, self.agent.output, model=None).problem  # gemini reports its own there
        told = AgentOutput(
            usage=replace(told.usage, researcher=self.name, seconds=seconds, proposal=uuid.uuid4().hex), problem=problem
        )
        context.charge(told.usage)
        return told


def check_cost_is_known(agent: CodingAgent, model: str | None, prices: Mapping[str, Price]) -> None:
    """Raises UserError if the agent's cost can't be held below a limit, since nothing says what it is."""
    if agent.tells_dollars or (model is not None and model in prices):
        return
    unknown = f"{agent.name} reports no dollars, and the list price of its model isn't known (as of {PRICES_AS_OF})"
    raise UserError(
        f"--max-cost can't be enforced, since {unknown}: give --prices FILE a list with that of --model, or leave it out, "
        "and set a limit where you pay."
    )
