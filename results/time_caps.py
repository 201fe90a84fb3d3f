"""How long a run may take before its clock starts and while it is scored, by the runs of its platform so far. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from research.result import RunResult

LONGEST_STARTUP, LEAST_STARTUP = 4.0, {"cuda": 120.0, "mps": 60.0, "cpu": 15.0}
"""Start-up may take this multiple of the longest one of the first FEWEST_RUNS runs, and at least as many seconds on a kind of
device: an edit may have to compile what the runs before it found compiled. Later runs raise it by nothing: a run that uses its
cap would let the next one take four times as long."""

LONGEST_ANSWERS, LEAST_ANSWERS = 3.0, 5.0
"""Answering the validation rows may take this multiple of the median so far, and as many seconds more."""

FEWEST_RUNS = 2
"""The number of runs with a score from which it is known how long runs take."""

LATEST = 16
"""The number of latest runs whose answers count."""


@dataclass(frozen=True, kw_only=True)
class TimeCaps:
    """Seconds that parts of a run may take; None: as long as any run may on such a device."""

    startup: float | None = None
    answers: float | None = None


def time_caps(runs: Sequence[RunResult]) -> TimeCaps:
    """The caps for the next run on the platform of these runs, oldest first."""
    scored = [run for run in runs if run.status == "ok" and run.startup_seconds and run.answer_seconds]
    if len(scored) < FEWEST_RUNS:
        return TimeCaps()
    device = scored[-1].device_kind
    startup = max(run.startup_seconds or 0.0 for run in scored[:FEWEST_RUNS])
    answers = median(run.answer_seconds or 0.0 for run in scored[-LATEST:])
    return TimeCaps(
        startup=max(LEAST_STARTUP[device], LONGEST_STARTUP * startup),
        answers=LONGEST_ANSWERS * answers + LEAST_ANSWERS,
    )
