"""A Ray cluster of several nodes on this machine, and a farm on it whose runs leave traces."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil


@contextlib.contextmanager
def ray_cluster() -> Iterator[Any]:
    """A real node with one CPU; it and those that are added are ended here, whatever became of them."""
    import ray
    from ray.cluster_utils import Cluster

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    head = {"num_cpus": 1, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        ray.shutdown()  # a cluster doesn't end a node that this process is connected to
        with contextlib.suppress(Exception):
            cluster.shutdown()
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                with contextlib.suppress(psutil.Error):
                    child.kill()


def add_node(cluster: Any) -> None:
    """One more, with one CPU."""
    cluster.add_node(num_cpus=1, include_log_monitor=False)


def raylets() -> list[psutil.Process]:
    """The raylets that this process started."""
    return [child for child in psutil.Process().children(recursive=True) if name_of(child) == "raylet"]


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Polls, ten times a second, until `condition()` is true, and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)
    return value


def living(pids: list[int]) -> list[int]:
    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end between two questions
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(pid)
    return alive


def kill(pid: int) -> float:
    """kill -9, and when that was."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""
