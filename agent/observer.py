"""Who is told what a research loop does."""

from typing import Any, Protocol

from results.experiment import ExperimentRecord


class LoopObserver(Protocol):
    """Is told what a loop does, to show it or to put it on record."""

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        """The loop does something else now, or its run has progressed: only what has changed is said."""

    def on_verdict(self, record: ExperimentRecord) -> None:
        """An experiment is decided."""

    def on_event(self, kind: str, **fields: Any) -> None:
        """Anything else that people may want to know: `proposal_failed`, `proposal_dropped`, `run_lost`."""
