"""What Ray's dashboard and Prometheus show of a farm: experiments, scores, and how much of their time devices work."""

import time
from collections import Counter, defaultdict

from cluster.workqueue import WorkItem
from results.experiment import ExperimentRecord, Head


class FarmMetrics:
    """Ray's application metrics of one farm. Needs a process that is connected to Ray."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        # gauges also for what only grows: one of Ray's counters was seen to export 3 after it had been raised once
        self._experiments = Gauge("farm_experiments", "Experiments by verdict.", tag_keys=("branch", "decision"))
        self._best = Gauge("farm_best_val_bpb", "The head's validation bits per byte.", tag_keys=("branch",))
        self._lost = Gauge("farm_lost_runs", "Runs that the infrastructure lost.", tag_keys=("branch",))
        self._waiting = Gauge("farm_waiting_runs", "Runs in line for a device.")
        self._duty = Gauge("farm_duty", "Share of the time since its first run that a device had one.", tag_keys=("worker",))
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[str, float] = {}
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._running: dict[str, tuple[str, float]] = {}

    def verdict(self, record: ExperimentRecord, head: Head | None) -> None:
        """An experiment is decided."""
        branch = record.experiment.branch
        if record.is_idea and record.verdict is not None:  # the baseline is no experiment
            decision = record.verdict.decision
            self._counts[branch, decision] += 1
            self._experiments.set(self._counts[branch, decision], tags={"branch": branch, "decision": decision})
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
            self._counts[item.branch, "lost run"] += 1
            self._lost.set(self._counts[item.branch, "lost run"], tags={"branch": item.branch})
