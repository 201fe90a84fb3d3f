"""What Prometheus reads of a farm from Ray's agent on the driver's node."""

import time
import urllib.request
from typing import Any

from cluster.ray_cluster.metrics import FarmMetrics
from cluster.workqueue import WorkItem
from results.experiment import Experiment, ExperimentRecord, Head, Verdict
from tests.cluster.ray_samples import wait_for

BRANCH = "autoresearch/night"


def record() -> ExperimentRecord:
    experiment = Experiment(
        id="night-0001",
        branch=BRANCH,
        number=1,
        kind="explore",
        commit="c" * 40,
        parent_commit="0" * 40,
        title="idea",
        hypothesis="",
        researcher="search",
        created="2026-03-08T20:00:00Z",
    )
    return ExperimentRecord(experiment=experiment, verdict=Verdict(decision="keep", reason="it is better"))


def test_experiments_scores_and_duty_are_exported(cluster: Any) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        metrics = FarmMetrics()
        item = WorkItem(id="r", kind="explore", branch=BRANCH, experiment="night-0001", platform="p")
        metrics.work(item, "waiting", "", 1)
        metrics.work(item, "running", "node/cuda:0", 0)
        time.sleep(0.01)
        metrics.work(item, "done", "", 0)
        metrics.verdict(record(), Head(commit="c" * 40, experiment_id="night-0001", scores=(1.25,)))
        [node] = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        found = wait_for("export", lambda: exported(url), seconds=60)
    finally:
        ray.shutdown()
    assert found["ray_farm_best_val_bpb"] == (f'branch="{BRANCH}"', 1.25)
    assert found["ray_farm_experiments"] == (f'branch="{BRANCH}",decision="keep"', 1.0)
    assert found["ray_farm_duty"] == ('worker="node/cuda:0"', 1.0)
    assert found["ray_farm_waiting_runs"] == ("", 0.0)


def exported(url: str) -> dict[str, tuple[str, float]]:
    """The farm's metrics by name: their own labels, and the value. Empty until all four are there."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_farm_")]
    found = {}
    for line in lines:
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        own = [label for label in labels.split(",") if label.startswith(("branch=", "decision=", "worker="))]
        found[name] = (",".join(sorted(own)), float(value))
    return found if len(found) >= 4 else {}
