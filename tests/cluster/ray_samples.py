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

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    cluster = _started(before)
    try:
        yield cluster
    finally:
        ray.shutdown()  # a cluster doesn't end a node that this process is connected to
        with contextlib.suppress(Exception):
            cluster.shutdown()
        _end_all_but(before)


def _started(before: set[int]) -> Any:
    """A cluster; on a busy machine its node may not start within the 30 s that Ray gives it, so it is tried again."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
    for _ in range(2):
        try:
            return Cluster(initialize_head=True, head_node_args=head)
        except Exception as error:
            if "timed out" not in str(error):
                raise
            _end_all_but(before)
    return Cluster(initialize_head=True, head_node_args=head)


def _end_all_but(before: set[int]) -> None:
    """Ends this process's children that are not in `before`."""
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
