"""Executes runs on a Ray cluster: one actor per GPU, or per node of a cluster without GPUs. Nodes may join and leave."""

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.background import in_background
from cluster.engine import ALIVE, ALIVE_SECONDS, Change
from cluster.hardware import Device, DeviceKind
from cluster.home import inside_job, package_folder
from cluster.judge_process import JUDGE_COMMAND, Progress
from cluster.ray_cluster.checkout_zip import zip_checkout
from cluster.ray_cluster.data_shipping import SHIP_BYTES, NodeData, packed
from cluster.ray_cluster.own_cluster import LOCALHOST, OwnCluster, start_own_cluster
from cluster.ray_cluster.worker import NodeWorker, Outcome
from research.contract import Contract
from research.data.prepared import PreparedData
from research.errors import UserError
from research.files import not_writable, write_atomically
from research.formatting import one_line
from research.profiles import require_cuda_for_limit
from research.result import RunResult, RunSpec

LOOK_SECONDS = 2.0
"""How often the cluster is checked for nodes that joined or left."""

FIRST_SECONDS, SETTLE_SECONDS = 60.0, 10.0
"""How long the first check waits for a worker, and then for the others; those that take longer join later."""

ANSWER_SECONDS = 10.0
"""How long a worker may take to report a run's progress."""

UNANSWERED = 3
"""A worker that leaves this many requests in a row unanswered is abandoned."""

CANCEL_SECONDS = 5.0
"""How long a worker may take to end a cancelled run."""

NOTHING_TO_GIVE = (
    "no node of the cluster has {what} for Ray to give, so nothing can run yet: start its nodes with `ray start --num-cpus N` "
    "(and --num-gpus N), or add nodes that have some"
)
"""What is said of a cluster whose nodes were started without resources."""

LONGEST_REASON = 500
"""Characters of Ray's own message; one about versions has several lines, all of which matter."""

log = logging.getLogger(__name__)

Terms = Callable[[Device], tuple[Contract, PreparedData]]
"""The contract that a device works under and the farm's own data for it. Raises UserError."""


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node of the cluster."""

    id: str
    name: str
    gpus: int
    cpus: int


@dataclass(kw_only=True, eq=False)
class _Serving:
    """An actor that serves a device."""

    actor: Any
    device: Device
    node_id: str
    data_folder: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class RayEngine:
    """Workers on all nodes of a Ray cluster. Used in the farm's driver only."""

    def __init__(
        self,
        *,
        terms: Terms,
        runs_folder: Path,
        kind: DeviceKind | None = None,
        address: str | None = None,
        gpus: tuple[int, ...] | None = None,
        cache: str | None = None,
        num_shards: int | None = None,
        gpu_memory_bytes: int | None = None,
        judge_command: Sequence[str] = JUDGE_COMMAND,
    ) -> None:
        """Joins the cluster at `address`, else the one that this process or machine belongs to; else starts one here.

        Each run gets a folder in `runs_folder`. `kind` None: the GPUs, or the CPUs of a cluster without GPUs. `gpus`: the
        indices of the GPUs that a cluster started here may use. `gpu_memory_bytes`: limit of each GPU's memory for its runs.
        Raises UserError if the cluster can't be joined.
        """
        self._terms, self._kind, self._cache, self._num_shards = terms, kind, cache, num_shards
        self._runs_folder, self._gpu_memory_bytes = runs_folder, gpu_memory_bytes
        self._judge_command = tuple(judge_command)
        self._workers: dict[str, _Serving] = {}
        self._starting: list[tuple[str, asyncio.Task[Change | None]]] = []
        """Ids of nodes, each with the task that starts a worker there."""
        self._refused: dict[str, str] = {}
        """Ids of refused nodes, and why."""
        self._dead: dict[str, str] = {}
        """Workers that were abandoned since the last check, and why."""
        self._warned: set[str] = set()
        self._shipped: dict[str, Any] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._own_cluster = join_cluster(address, gpus, runs_folder)

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        yield await self._look(first=True)
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
            self._wake.clear()
            if group := await self._look():
                yield group

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        from ray.exceptions import RayError

        worker = self._workers.get(device.key)
        if worker is None:
            return RunResult.lost(spec, f"{device.key} is gone", device=device.key)
        async with worker.turn:
            run = asyncio.wrap_future(worker.actor.run.remote(train_py, spec, worker.data_folder).future())
            run.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask a lost run for its error
            try:
                outcome: Outcome = await _followed(worker.actor, run, on_progress)
            except asyncio.CancelledError:
                await self._cancel(worker, spec.run_id, run)
                raise
            except (RayError, TimeoutError) as error:
                reason = _reason_of(error)
                self._abandon(worker, reason)
                return RunResult.lost(spec, reason, device=device.key)
        try:
            await asyncio.to_thread(_write_files, outcome, self._runs_folder / spec.run_id)
        except OSError as error:
            raise not_writable("folder of runs", self._runs_folder, error, option="--home") from None
        return replace(outcome.result, device=device.key)

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        worker = self._workers.get(device.key)
        if worker is not None:
            worker.actor.start_speculatively.remote(train_py, spec, worker.data_folder)

    async def close(self) -> None:
        import ray

        self._closed = True
        self._wake.set()
        for _, task in self._starting:
            task.cancel()
        if await self._is_dead():  # asking it for anything would wait for a minute, and Ray would end this process then
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(in_background(ray.shutdown), CANCEL_SECONDS)
        else:
            await self._end_workers()
        if self._own_cluster is not None:
            await asyncio.to_thread(self._own_cluster.end)

    async def _end_workers(self) -> None:
        """Ends all runs and workers, and leaves the cluster."""
        import ray

        closing = [asyncio.wrap_future(worker.actor.close.remote().future()) for worker in self._workers.values()]
        if closing:
            await asyncio.wait(closing, timeout=CANCEL_SECONDS)
        for worker in self._workers.values():
            ray.kill(worker.actor)
        await asyncio.to_thread(ray.shutdown)

    async def _is_dead(self) -> bool:
        """Whether the cluster was started here and is gone; others have ways of their own to come back."""
        return self._own_cluster is not None and await asyncio.to_thread(self._own_cluster.is_dead)

    # --- runs -------------------------------------------------------------------------------------------------------

    async def _cancel(self, worker: _Serving, run_id: str, run: "asyncio.Future[Outcome]") -> None:
        import ray

        if self._closed:
            return  # all workers have ended their runs
        worker.actor.cancel.remote(run_id)
        done, _ = await asyncio.wait([run], timeout=CANCEL_SECONDS)
        if not done:  # it can't be reached; its judge ends with the actor
            ray.kill(worker.actor)
            self._abandon(worker, "it didn't end a cancelled run")
        elif run.exception() is not None:
            self._abandon(worker, _reason_of(run.exception()))

    def _abandon(self, worker: _Serving, reason: str) -> None:
        """Ends a worker. The next check reports that it left, and starts another if its device is still there."""
        import ray

        ray.kill(worker.actor)
        if self._workers.get(worker.device.key) is worker:
            del self._workers[worker.device.key]
            self._dead[worker.device.key] = reason
        self._wake.set()

    # --- nodes and workers ------------------------------------------------------------------------------------------

    async def _look(self, *, first: bool = False) -> tuple[Change, ...]:
        """What has changed since the last check; the first one waits for workers that are starting. Raises UserError."""
        if await self._is_dead():
            raise UserError(
                "The Ray that the farm had started on this machine was ended: the same command resumes with another."
            )
        nodes = {node.id: node for node in await in_background(alive_nodes)}
        kind = self._kind or ("cuda" if any(node.gpus for node in nodes.values()) else "cpu")
        changes = [Change(kind="left", name=name, reason=reason) for name, reason in self._dead.items()]
        self._dead.clear()
        gone: list[Change] = []
        for key, worker in list(self._workers.items()):
            if worker.node_id not in nodes:
                del self._workers[key]
                gone.append(Change(kind="left", name=key, reason="its node is gone"))
        for node in nodes.values():
            self._start_workers_on(node, kind)
        if nodes and not any(node.gpus if kind == "cuda" else node.cpus for node in nodes.values()):
            self._warn(NOTHING_TO_GIVE.format(what="GPUs" if kind == "cuda" else "CPUs"))
        if self._starting and first:
            starting = [task for _, task in self._starting]
            await asyncio.wait(starting, timeout=FIRST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(starting, timeout=SETTLE_SECONDS)
        changes += [change for _, task in self._starting if task.done() and (change := task.result()) is not None]
        changes += gone  # after what joined: a node may leave before its worker was reported, and must not be served forever
        self._starting = [(id, task) for id, task in self._starting if not task.done()]
        if nodes and not self._workers and not self._starting and set(nodes) <= set(self._refused):
            reasons = "; ".join(f"{nodes[id].name}: {self._refused[id]}" for id in nodes)
            raise UserError(f"No node of the cluster can work for this farm. {reasons}")
        return tuple(changes)

    def _start_workers_on(self, node: _Node, kind: DeviceKind) -> None:
        """Starts workers for the devices of a node that have none."""
        if node.id in self._refused:
            return
        wanted = node.gpus if kind == "cuda" else min(1, node.cpus)
        there = [*(worker.node_id for worker in self._workers.values()), *(id for id, _ in self._starting)].count(node.id)
        for _ in range(wanted - there):
            starting = asyncio.create_task(self._start_worker(node, kind, threads=max(1, node.cpus // wanted)))
            self._starting.append((node.id, starting))

    async def _start_worker(self, node: _Node, kind: DeviceKind, *, threads: int) -> Change | None:
        """Starts a worker on a node and finds its data; None if it could not be started now."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        resources = {"num_gpus": 1, "num_cpus": 0} if kind == "cuda" else {"num_gpus": 0, "num_cpus": 1}
        options: dict[str, Any] = {**resources, "max_concurrency": 8, "max_restarts": 0, "scheduling_strategy": here}
        actor: Any = (
            ray.remote(NodeWorker)
            .options(**options)
            .remote(kind, node.name, threads, self._gpu_memory_bytes, self._judge_command)
        )
        try:
            device: Device = await _answer(actor.describe.remote())
            if self._gpu_memory_bytes is not None:
                require_cuda_for_limit(device.kind)
            contract, data = await in_background(self._terms, device)
            given: NodeData = await _answer(self._find_data(actor, contract, data))
        except UserError as error:
            given = NodeData(problem=str(error))
        except RayError as error:
            self._warn(f"{node.name}: a worker could not be started, which is tried again: {_reason_of(error)}")
            return None
        if given.problem:
            self._refused[node.id] = given.problem
            ray.kill(actor)
            return Change(kind="refused", name=node.name, reason=given.problem)
        self._workers[device.key] = _Serving(actor=actor, device=device, node_id=node.id, data_folder=given.folder)
        return Change(kind="joined", name=device.key, device=device)

    def _warn(self, text: str) -> None:
        """Warns of something once, however often it is found."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning(text)

    def _find_data(self, actor: Any, contract: Contract, data: PreparedData) -> Any:
        """Lets a worker find, unpack or prepare the contract's data on its node; in its process, since another takes seconds
        to start.
        """
        import ray

        name = f"{data.folder.name}-{data.data_fingerprint}"
        if name not in self._shipped:
            files = packed(data, SHIP_BYTES)
            self._shipped[name] = None if files is None else ray.put(files)
        wanted = data.score_fingerprint(contract)
        return actor.find_data.remote(contract, self._cache, self._num_shards, wanted, self._shipped[name], data)


def join_cluster(address: str | None, gpus: tuple[int, ...] | None, folder: Path) -> OwnCluster | None:
    """Connects this process to Ray; returns the cluster if it was started here for that. Raises UserError.

    The zipped checkout lies in `folder` meanwhile, where the next call overwrites and removes what a killed one left.
    """
    address = address or cluster_here()
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    # in a process started by `uv run`, Ray would start every worker with it too, and so resolve the project on each node
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    own = None
    if address is None:
        own = start_own_cluster(gpus)
        settings["_node_ip_address"] = LOCALHOST
    import ray

    code = folder / "checkout.zip"
    try:
        if address is not None and not inside_job() and (package_folder() / "pyproject.toml").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            zip_checkout(package_folder(), code)
            settings["runtime_env"] = {"working_dir": str(code)}
        ray.init(address=own.address if own else address, **settings)
    except Exception as error:  # Ray raises many kinds, even plain ones
        if own is not None:
            own.end()
        if isinstance(error, UserError) or (isinstance(error, OSError) and not isinstance(error, ConnectionError)):
            raise
        said = one_line(str(error), LONGEST_REASON) or type(error).__name__
        if own is not None:
            raise UserError(f"The Ray that was started here can't be used ({said}): try again, or --engine local.") from None
        cure = "start one with `ray start --head`"
        if "ersion mismatch" in said:
            cure = "run the farm with the Python and the Ray of that cluster"
        raise UserError(f"No Ray cluster can be used at {address} ({said}): {cure}.") from None
    finally:
        code.unlink(missing_ok=True)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the driver trains nothing, though Ray leaves it every GPU
    return own


def cluster_here() -> str | None:
    """The address of the Ray cluster that this process or machine belongs to; None if none answers."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    if inside_job():
        return "auto"
    try:
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        address = Path(folder, "ray", "ray_current_cluster").read_text().strip()  # what `ray start` leaves
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=1.0):
            return address
    except (OSError, ValueError):
        return None


def alive_nodes() -> list[_Node]:
    """The cluster's nodes with the resources that Ray reports."""
    import ray

    nodes = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            resources = node["Resources"]
            name = f"{node['NodeManagerHostname']}-{node['NodeID'][:6]}"
            gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))  # Ray leaves out what is 0
            nodes.append(_Node(id=node["NodeID"], name=name, gpus=gpus, cpus=cpus))
    return nodes


async def _followed(actor: Any, run: "asyncio.Future[Outcome]", on_progress: Callable[[Progress], None]) -> Outcome:
    """Asks the actor for its run's progress every second until the run ends. Raises TimeoutError if it doesn't answer."""
    unanswered = 0
    while not (await asyncio.wait([run], timeout=ALIVE_SECONDS))[0]:
        try:
            progress: Progress = await asyncio.wait_for(_answer(actor.progress.remote()), ANSWER_SECONDS)
        except TimeoutError:
            unanswered += 1
            if unanswered == UNANSWERED:
                raise TimeoutError(f"the worker didn't answer for {UNANSWERED * ANSWER_SECONDS:.0f} s") from None
            continue
        unanswered = 0
        on_progress(progress or ALIVE)
    return run.result()


async def _answer(reference: Any) -> Any:
    """The value of an object reference."""
    return await asyncio.wrap_future(reference.future())


def _write_files(outcome: Outcome, folder: Path) -> None:
    """Writes what the judge left on the node into the run's folder in the home."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in outcome.files.items():
        write_atomically(folder / name, content)


def _reason_of(error: BaseException | None) -> str:
    """The first line of a Ray error, without ids."""
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    if isinstance(error, ActorDiedError):
        return "its worker died"
    if isinstance(error, ActorUnavailableError):
        return "its worker can't be reached"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
