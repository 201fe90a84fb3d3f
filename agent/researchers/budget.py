"""Limits of what researchers cost, of which each call reserves its worst case before it is made: no limit is ever exceeded."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from agent.researcher import BudgetSpent, Context
from results.researcher_costs import spent_text

Scope = Literal["tag", "loop"]
"""What a limit is for: all loops and sessions of a tag, or one loop, its earlier sessions included."""

OPTIONS = {"tag": "--max-cost", "loop": "--max-loop-cost"}
"""The option that sets a limit, by its scope."""


class Budget:
    """A limit in US dollars. The loops of a tag share one, in one event loop."""

    def __init__(self, limit_usd: float, scope: Scope = "tag") -> None:
        self.limit_usd, self.scope = limit_usd, scope
        self._reserved = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    def free_usd(self, context: Context) -> float:
        """US dollars that are neither spent nor reserved."""
        return self.limit_usd - self._spent(context)() - self._reserved

    @asynccontextmanager
    async def reserved(self, usd: float, context: Context) -> AsyncIterator[None]:
        """Keeps so much of the limit for a call whose cost is recorded within the block.

        It waits while calls under way hold what it needs. Raises BudgetSpent if it would not fit without them either.
        """
        while self.free_usd(context) < usd:
            if self._reserved <= 0:
                spent = self._spent(context)()
                whose = context.branch.tag if self.scope == "tag" else context.branch.name
                told = spent_text(spent, self.limit_usd, whose, option=OPTIONS[self.scope])
                raise BudgetSpent(told if spent >= self.limit_usd else f"{told}, and the next call may cost ${usd:.2f}")
            await self._until_released()
        self._reserved += usd
        try:
            yield
        finally:
            self._reserved = max(0.0, self._reserved - usd)
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if not one.done():
                    one.set_result(None)

    async def _until_released(self) -> None:
        released = asyncio.get_running_loop().create_future()
        self._waiting.append(released)
        await released

    def _spent(self, context: Context) -> Callable[[], float]:
        return context.spent_usd if self.scope == "tag" else context.spent_by_loop_usd


@asynccontextmanager
async def all_reserved(budgets: Sequence[Budget], usd: float, context: Context) -> AsyncIterator[None]:
    """Keeps so much of each limit for a call. Raises BudgetSpent."""
    async with AsyncExitStack() as held:
        for budget in budgets:
            await held.enter_async_context(budget.reserved(usd, context))
        yield


def least_free_usd(budgets: Sequence[Budget], context: Context) -> float | None:
    """US dollars that all limits leave; None without a limit."""
    return min((budget.free_usd(context) for budget in budgets), default=None)


def budgets_of(max_cost: float | None, max_loop_cost: float | None) -> tuple[Budget, ...]:
    """The limits in US dollars that the options of these names set."""
    limits: tuple[tuple[float | None, Scope], ...] = ((max_cost, "tag"), (max_loop_cost, "loop"))
    return tuple(Budget(limit, scope) for limit, scope in limits if limit is not None)
