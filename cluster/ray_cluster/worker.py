"""The part of the Ray engine that runs on the nodes. Doesn't import ray: the engine turns it into actors and tasks."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from cluster.hardware import Device, DeviceKind, detect_devices, limited
from cluster.judge_process import JUDGE_COMMAND, Progress
from cluster.ray_cluster.data_shipping import NodeData, data_on_node
from cluster.ray_cluster.node_folder import NodeFolder
from cluster.worker import Worker
from research.contract import Contract
from research.data.prepared import PreparedData
from research.result import RunResult, RunSpec

BROUGHT_BACK = ("run.log", "result.json", "rows.npz", "model.safetensors")
"""The files of a run folder that are sent to the farm's home; it has train.py already."""

RAYLET_SECONDS = 0.1
"""How often a worker checks that its node's raylet is alive."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run's result, and the files of its folder by name."""

    result: RunResult
    files: Mapping[str, bytes]


class NodeWorker:
    """One device of a node and its worker. The engine makes it an actor that answers while a run is executed."""

    def __init__(
        self,
        kind: DeviceKind,
        node: str,
        threads: int,
        gpu_memory_bytes: int | None = None,
        judge_command: Sequence[str] = JUDGE_COMMAND,
    ) -> None:
        """Finds the device: Ray lets this process see the one GPU that it may use. Raises RuntimeError if there is none."""
        end_with_raylet()
        found = [device for device in detect_devices() if device.kind == kind]
        if not found:
            raise RuntimeError(f"{node} has no {kind} device that a worker can see")
        self.device = limited(replace(found[0], node=node, threads=threads), gpu_memory_bytes)
        self._folder = NodeFolder()
        self._worker = Worker(self.device, runs_folder=self._folder.path, judge_command=judge_command)
        self._progress: Progress = {}
        self._busy = threading.Lock()

    def describe(self) -> Device:
        """The device."""
        return self.device

    def find_data(
        self,
        contract: Contract,
        cache: str | None,
        num_shards: int | None,
        wanted: str,
        shipped: Mapping[str, bytes] | None,
        farms: PreparedData,
    ) -> NodeData:
        """The prepared data of this node that a run's scores compare on; see `data_on_node`."""
        return data_on_node(contract, cache, num_shards, wanted, shipped, farms)

    def run(self, train_py: str, spec: RunSpec, data_folder: str) -> Outcome:
        """Executes one run, in a folder on this node, which is removed afterwards."""
        folder = self._folder.path / spec.run_id
        self._progress = {}
        try:
            with self._busy:
                result = self._worker.run(train_py, spec, data_folder, self._note)
            files = {name: (folder / name).read_bytes() for name in BROUGHT_BACK if (folder / name).is_file()}
            return Outcome(result=result, files=files)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def start_speculatively(self, train_py: str, spec: RunSpec, data_folder: str) -> None:
        """Starts the run that will probably be requested next."""
        self._worker.start_speculatively(train_py, spec, data_folder)

    def progress(self) -> Progress:
        """The judge's last progress message; empty before the first."""
        return self._progress

    def cancel(self, run_id: str) -> None:
        """Ends that run."""
        self._worker.cancel(run_id)

    def close(self) -> None:
        """Ends all processes; returns when they are gone, since this process is killed next."""
        self._worker.close()
        with self._busy:
            self._folder.remove()

    def _note(self, progress: Progress) -> None:
        self._progress = progress


def end_with_raylet() -> None:
    """Makes this process end soon after its raylet, so that the judge ends all training. (Ray by itself takes minutes.)"""
    raylet = psutil.Process(int(os.environ["RAY_RAYLET_PID"]))  # it isn't always the parent: `uv run` may be in between

    def watch() -> None:
        with contextlib.suppress(psutil.Error):  # it ended between two calls
            while raylet.is_running() and raylet.status() != psutil.STATUS_ZOMBIE:
                time.sleep(RAYLET_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="raylet-watch", daemon=True).start()
