"""The interface through which a research loop reports what it does."""

from typing import Any, Protocol

from results.experiment import ExperimentRecord
from results.head_gain import ExpectedGain


class LoopObserver(Protocol):
    """Receives what a loop reports, to show or record it."""

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        """The loop's state has changed, or its run has progressed. `fields` holds only what has changed."""

    def on_verdict(self, record: ExperimentRecord) -> None:
        """An experiment has its verdict."""

    def on_head_gain(self, group: str, gain: ExpectedGain) -> None:
        """All runs of a group have said something new of its head."""

    def on_event(self, kind: str, **fields: Any) -> None:
        """Anything else that people may want to know: `proposal_failed`, `proposal_withdrawn`, `proposal_refused`, `run_lost`,
        `adopting`, `moved_aside`, `decision_changed`, `head_moved`, `share_unusual`, `overhead_unusual`, `no_wave`,
        `wave_ended`.
        """
