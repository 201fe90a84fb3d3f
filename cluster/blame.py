"""Who is to blame for lost runs, the device or the train.py that ran. Pure: the dispatcher executes what is asked for here.

A judge can die because its device is broken, or because of what the run did. So a device is never quarantined by runs of ideas,
and an idea is never charged, by a lost run alone: a control, the baseline's train.py on the same device, decides. It is asked
for if a run is lost again after its repetition, or if a device has lost several runs in a row. Runs of the baseline itself are
such evidence without a control.
"""

from collections import Counter
from dataclasses import replace

from cluster.workqueue import WorkItem, WorkKind
from research.result import RunResult

LOST_IN_A_ROW = 3
"""A worker that has lost this many runs in a row is suspected."""

KNOWN_TO_WORK: tuple[WorkKind, ...] = ("baseline", "control")
"""Kinds of work that run the baseline's train.py. A merge is none of them: it holds the code of ideas."""


class Blame:
    """What the lost runs of each worker say about it."""

    def __init__(self) -> None:
        self.quarantined: dict[str, str] = {}
        """The workers that get no more runs, and why."""
        self._lost: Counter[str] = Counter()

    def note(self, worker: str, item: WorkItem, result: RunResult, *, has_control: bool) -> bool:
        """Counts a worker's result. Returns whether a control must decide before the result is used.

        Where no control can run, LOST_IN_A_ROW lost runs quarantine the worker.
        """
        self._lost[worker] = self._lost[worker] + 1 if result.status == "lost" else 0
        is_suspected = self._lost[worker] >= LOST_IN_A_ROW
        if result.status != "lost" or (has_control and item.kind not in KNOWN_TO_WORK):
            return is_suspected or (result.status == "lost" and item.repeats > 0)
        if is_suspected:
            self.quarantined[worker] = f"{LOST_IN_A_ROW} runs in a row were lost, the last one because {result.reason}"
        return False

    def decide(self, worker: str, item: WorkItem, result: RunResult, control: RunResult) -> RunResult:
        """What becomes of a lost run after a control on the same worker.

        A lost control quarantines the worker. If it works, the worker is cleared, and a run that was lost before is a crash.
        """
        if control.status == "lost":
            self.quarantined[worker] = (
                f"a run was lost because {result.reason}, and then one of the baseline because {control.reason}"
            )
            return result
        self._lost[worker] = 0
        if item.repeats == 0:
            return result
        reason = (
            f"the judge ended twice without a result while this train.py ran, and the baseline ran on {worker}: {result.reason}"
        )
        return replace(result, status="crash", reason=reason)

    def describe(self) -> str:
        """All quarantined workers and the reasons, in one line."""
        return "; ".join(f"{worker}: {reason}" for worker, reason in self.quarantined.items())
