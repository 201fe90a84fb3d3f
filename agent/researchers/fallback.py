"""A loop's researcher as it was asked for, and search where that can't work: without its key or its program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.researcher import NotConfigured, Researcher
from agent.researchers.adaptive import AdaptiveMix
from agent.researchers.budget import Budget
from agent.researchers.containment import AgentBounds
from agent.researchers.make import make_researcher
from agent.researchers.mix import ACP, WITH_MODEL, kinds_in, shares_of
from agent.researchers.prices import PRICES, Price


@dataclass(frozen=True, kw_only=True)
class AskedResearcher:
    """What is asked of one loop's researcher."""

    name: str
    """A mix: each idea is that of one of its researchers."""
    seed: int = 0
    model: str | None = None
    effort: str | None = None
    budgets: Sequence[Budget] = ()
    bounds: AgentBounds | None = None
    prices: Mapping[str, Price] = field(default_factory=lambda: PRICES)
    falls_back: bool = True
    """Whether search stands in for a researcher with a model."""

    def made(self) -> tuple[Researcher, str]:
        """The researcher, and why it is search instead; empty if it is the one that was asked for.

        Raises UserError, for instance NotConfigured where nothing stands in.
        """
        if len(shares_of(self.name)) > 1:
            return self._mix()
        try:
            return self._make(self.name), ""
        except NotConfigured as problem:
            if not self._has_stopgap:
                raise
            return self._make("search"), str(problem)

    def stopgap(self) -> Researcher | None:
        """Who has ideas while the researcher fails or is slow; None for nobody."""
        return self._make("search") if self._has_stopgap else None

    @property
    def _has_stopgap(self) -> bool:
        return self.falls_back and not {ACP, *WITH_MODEL}.isdisjoint(kinds_in(self.name))

    def _mix(self) -> tuple[Researcher, str]:
        """A mix of the members that can work here, or what stands in for all of them."""
        members, problems = {}, []
        for name in shares_of(self.name):
            researcher, problem = replace(self, name=name).made()
            if problem:
                problems.append(problem)
            else:
                members[name] = researcher
        return (AdaptiveMix(self.name, members), "") if members else (self._make("search"), " ".join(problems))

    def _make(self, name: str) -> Researcher:
        return make_researcher(name, seed=self.seed, model=self.model, effort=self.effort, budgets=self.budgets,
                               bounds=self.bounds, prices=self.prices)  # fmt: skip
