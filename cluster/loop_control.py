"""Pausing and stopping single loops of a running farm."""

import asyncio
from collections.abc import Callable, Mapping

from agent.loop import ResearchLoop
from agent.repo.branch_names import short_name
from cluster.farm_events import FarmEvents
from research.errors import UserError

POLL_SECONDS = 0.5
"""Seconds after which a paused loop looks whether it is resumed."""


class LoopControl:
    """The loops of a running farm, each of which can be paused or stopped alone. Created in their event loop."""

    def __init__(self, tasks: "Mapping[str, asyncio.Task[str]]", events: FarmEvents) -> None:
        """`tasks` are the loops by their branches; more may be added to it."""
        self._tasks, self._events = tasks, events
        self._stopped: set[str] = set()
        self._event_loop = asyncio.get_running_loop()

    def stop_from_thread(self, branch: str) -> str:
        """Ends one loop as a stop of the farm ends all; called in other threads. Returns one line that says so.

        Raises UserError if no such loop runs.
        """
        running = [name for name, task in list(self._tasks.items()) if not task.done() and name not in self._stopped]
        if branch not in running:
            there = ", ".join(map(short_name, running)) or "none"
            raise UserError(f"{branch} has no loop that runs; loops that do: {there}.")
        self._stopped.add(branch)
        self._event_loop.call_soon_threadsafe(self._tasks[branch].cancel)
        return f"The loop of {branch} is stopping; what it was training is finished when the farm is started again"

    def was_stopped(self, branch: str) -> bool:
        """Whether a person has stopped this loop alone."""
        return branch in self._stopped

    async def wait_while_paused(self, loop: ResearchLoop, limit: Callable[[], str | None]) -> None:
        """Waits until a loop is not paused, or `limit` gives a reason for it to end."""
        if not loop.steering.is_paused() or limit() is not None:
            return
        loop.steering.release()
        self._events.on_loop_state(loop.branch.name, phase="paused")
        self._events.on_event("loop_paused", branch=loop.branch.name)
        while loop.steering.is_paused() and limit() is None:
            await asyncio.sleep(POLL_SECONDS)
        if not loop.steering.is_paused():
            self._events.on_event("loop_resumed", branch=loop.branch.name)
