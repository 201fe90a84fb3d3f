"""A researcher of two: an optimizer tunes the constants, and a model changes the structure in a third of its ideas at most.

A structural idea that may help is tried again with its nearest constants by the farm itself (`agent/follow_ups.py`), before it
is given up.
"""

from dataclasses import replace
from itertools import islice

from agent.researcher import Context, OutOfIdeas, Researcher
from results.experiment import Proposal

MODEL_IDEAS, OF_IDEAS = 3, 10
"""How many of so many ideas of a loop are the model's."""


class HybridResearcher:
    """Asks one of two researchers for each idea, by what the loop has tried last."""

    name = "hybrid"

    def __init__(self, optimizer: Researcher, model: Researcher) -> None:
        self.optimizer, self.model = optimizer, model

    async def propose(self, context: Context) -> Proposal:
        """The model's idea if it is its turn, a person suggests something, or the optimizer has none left.

        Raises BudgetSpent, ProposalFailed or NotConfigured, for the model.
        """
        if context.guidance.suggestion is None and not self._is_models_turn(context):
            try:
                return await self.optimizer.propose(context)
            except OutOfIdeas:
                pass
        return await self.model.propose(replace(context, guidance=replace(context.guidance, wants_structure=True)))

    async def close(self) -> None:
        """Closes both."""
        await self.optimizer.close()
        await self.model.close()

    def _is_models_turn(self, context: Context) -> bool:
        """Whether fewer of the loop's latest ideas are the model's than its share. The first idea is."""
        both = (self.optimizer.name, self.model.name)
        ideas = (one.experiment for one in islice(reversed(context.records), 4 * OF_IDEAS) if one.experiment.kind == "explore")
        latest = list(islice((idea.researcher for idea in ideas if idea.researcher in both), OF_IDEAS - 1))
        return latest.count(self.model.name) * OF_IDEAS < MODEL_IDEAS * (len(latest) + 1)
