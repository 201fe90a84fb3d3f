"""A mix that chooses each idea's researcher by what all of them have found so far: `--mix adaptive`."""

from collections.abc import Mapping
from itertools import chain, count

from agent.researcher import BudgetSpent, Context, NotConfigured, OutOfIdeas, ProposalFailed, Researcher
from agent.researchers.bandit import chosen, credits
from agent.researchers.mix import reads_text, researcher_of_loop
from results.experiment import Proposal

DEALT_IDEAS = 20
"""How many first ideas of a group have the mix's own proportions, since no gain is known yet."""


class AdaptiveMix:
    """Asks one of several researchers for each idea, by the history alone (bandit.py) once there is one.

    One whose proposal has failed is passed over once, and one that can't go on is left out until the farm starts again.
    """

    def __init__(self, mix: str, members: Mapping[str, Researcher]) -> None:
        """`members` are those of the mix that can work here, at least one."""
        self.name, self._members = mix, dict(members)
        self._failed = ""

    async def propose(self, context: Context) -> Proposal:
        """The idea of the member whose turn it is. Raises ProposalFailed, or what ended the last member."""
        name = self._next(context)
        try:
            proposal = await self._members[name].propose(context)
        except ProposalFailed:
            self._failed = name
            raise
        except (BudgetSpent, NotConfigured, OutOfIdeas) as end:
            if len(self._members) == 1:
                raise
            await self._members.pop(name).close()
            raise ProposalFailed(f"{name} is left out of the mix: {end}") from None
        self._failed = ""
        return proposal

    async def close(self) -> None:
        """Closes all members."""
        for member in self._members.values():
            await member.close()

    def _next(self, context: Context) -> str:
        """Whose turn it is: by the mix's order at first, then by what each has gained per hour of devices."""
        able = [name for name in self._members if name != self._failed] or list(self._members)
        if context.guidance.suggestion is not None:
            able = [name for name in able if reads_text(name)] or able
        own = sum(record.experiment.researcher in self._members for record in context.records)
        ideas = [one for one in chain(context.records, context.others) if one.experiment.researcher in self._members]
        if len(ideas) < DEALT_IDEAS:
            dealt = (researcher_of_loop(self.name, place) for place in count(context.branch.loop + own))
            return next(name for name in dealt if name in able)
        return chosen(credits(able, ideas, context.effects()), seed=f"{context.branch.name} {len(ideas)}")
