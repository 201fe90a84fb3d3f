"""A loop's researcher as it was asked for, and search where that can't work: without its key or its program."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.researcher import NotConfigured, Researcher
from agent.researchers.budget import Budget
from agent.researchers.containment import AgentBounds
from agent.researchers.make import make_researcher
from agent.researchers.mix import ACP, WITH_MODEL, kinds_in


@dataclass(frozen=True, kw_only=True)
class AskedResearcher:
    """What is asked of one loop's researcher, which is no mix."""

    name: str
    seed: int = 0
    model: str | None = None
    effort: str | None = None
    budgets: Sequence[Budget] = ()
    bounds: AgentBounds | None = None
    falls_back: bool = True
    """Whether search stands in for a researcher with a model."""

    def made(self) -> tuple[Researcher, str]:
        """The researcher, and why it is search instead; empty if it is the one that was asked for.

        Raises UserError, for instance NotConfigured where nothing stands in.
        """
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

    def _make(self, name: str) -> Researcher:
        return make_researcher(name, seed=self.seed, model=self.model, effort=self.effort, budgets=self.budgets,
                               bounds=self.bounds)  # fmt: skip
