"""What Ray's dashboard and Prometheus show of a farm: experiments, scores, and how much of their time devices work."""

import time
from collections import defaultdict

from cluster.workqueue import WorkItem
from results.experiment import ExperimentRecord, Head


class FarmMetrics:
    """Ray's application metrics of one farm. Needs a process that is connected to Ray."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._experiments = Counter("farm_experiments", "Experiments by verdict.", tag_keys=("branch", "decision"))
        self._best = Gauge("farm_best_val_bpb", "The head's validation bits per byte.", tag_keys=("branch",))
        self._lost = Counter("farm_lost_runs", "Runs that the infrastructure lost.", tag_keys=("branch",))
        self._waiting = Gauge("farm_waiting_runs", "Runs in line for a device.")
        self._duty = Gauge("farm_duty", "Share of the time since its first run that a device had one.", tag_keys=("worker",))
        self._first: dict[str, float] = {}
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._running: dict[str, tuple[str, float]] = {}

    def verdict(self, record: ExperimentRecord, head: Head | None) -> None:
        """An experiment is decided."""
        branch = record.experiment.branch
        if record.verdict is not None:
            self._experiments.inc(1, tags={"branch": branch, "decision": record.verdict.decision})
        if head is not None:
            self._best.set(head.mean, tags={"branch": branch})

    def work(self, item: WorkItem, state: str, worker: str, waiting: int) -> None:
        """A run was put in line, began or ended; `worker` where it began."""
        now = time.monotonic()
        self._waiting.set(waiting)
        if state == "running":
            self._first.setdefault(worker, now)
            self._running[item.id] = (worker, now)
        elif item.id in self._running:
            worker, began = self._running.pop(item.id)
            self._busy[worker] += now - began
            self._duty.set(self._busy[worker] / max(now - self._first[worker], 1e-9), tags={"worker": worker})
        if state == "lost":
            self._lost.inc(1, tags={"branch": item.branch})
