"""The next run of a loop, started speculatively: while a GPU scores one run, the processes of the next already start."""

from collections.abc import Callable
from typing import Any

from research.result import RunSpec

StartSpeculatively = Callable[[str, str, RunSpec], None]
"""Called with the id of the run that is being scored, and with the train.py and the spec of the run that will probably follow
it on the same device."""


class SpeculativeStart:
    """Starts the next run once per run, on the guess that the current experiment will be discarded, as most are.

    A wrong guess costs nothing but the start: the device abandons a run that is not the one requested next.
    """

    def __init__(self, start: StartSpeculatively, next_run: Callable[[], tuple[str, RunSpec] | None]) -> None:
        """`next_run` returns the train.py and the spec of the next run; None while no proposal is prepared."""
        self._start, self._next_run = start, next_run
        self._started_during = ""
        """The run during whose scoring the last one was started."""

    def on_progress(self, run_id: str, progress: dict[str, Any]) -> None:
        """Run `run_id` has progressed."""
        if progress.get("phase") != "scoring" or run_id == self._started_during:
            return
        run = self._next_run()
        if run is not None:
            self._started_during = run_id
            self._start(run_id, *run)
