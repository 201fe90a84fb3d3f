"""Engine and farm on a Ray cluster of real nodes: what comes, goes, or is killed, nothing is lost, doubled or left running.

All tests in here share one cluster, which the last one kills. KILLS=10 in the environment repeats each kill ten times.
"""

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_cluster.engine import RayEngine
from research.contract import Contract
from research.data.prepare import prepare
from research.data.prepared import PreparedData
from research.errors import UserError
from research.gpu_memory import GIB
from research.profiles import contract_for
from results.journal import read_journal
from tests.cluster import test_engines
from tests.cluster.farm_samples import FAKE_JUDGE, write_text
from tests.cluster.forked_farm import Cheaper
from tests.cluster.ray_samples import add_node, kill, living, name_of, ray_cluster, raylets, text_of, wait_for
from tests.cluster.test_engines import Opened
from tests.cluster.tiny_checkout import GOOD_LR, Checkout
from tests.in_time import in_time

KILLS = int(os.environ.get("KILLS", "1"))


@pytest.fixture(scope="module")
def cluster(judge_command: tuple[str, ...]) -> Iterator[Any]:
    """A cluster of one node. What it leaves is ended with it, so the judges of the session are started before."""
    with ray_cluster() as cluster:
        yield cluster
    assert raylets() == []


@pytest.fixture
def checkout(checkout: Checkout, judge_command: tuple[str, ...]) -> Checkout:
    """Its farms have those judges."""
    return replace(checkout, cheaper=Cheaper(ray_judge=judge_command))


# --- the engine ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contract, PreparedData]:
    """A short contract on little text, with its prepared data."""
    text = write_text(tmp_path_factory.mktemp("texts") / "text", documents=400)
    contract = replace(contract_for("cpu", source=f"files:{text}"), MAX_SEQ_LEN=32, EVAL_TOKENS=256, VOCAB_SIZE=300)
    return contract, prepare(contract, cache=tmp_path_factory.mktemp("cache"), say=lambda line: None)


@pytest.fixture(scope="class")
def on_ray(cluster: Any, data: tuple[Contract, PreparedData], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """One for all promises of an engine: joining a cluster and starting a worker takes seconds."""
    runs, cache = tmp_path_factory.mktemp("runs"), str(tmp_path_factory.mktemp("node-cache"))
    opened = Opened(lambda: RayEngine(terms=lambda device: data, runs_folder=runs, kind="cpu", address=cluster.address,
                                      cache=cache, judge_command=FAKE_JUDGE), runs)  # fmt: skip
    yield opened
    opened.close()


@pytest.fixture
def opened(on_ray: Opened) -> Opened:
    return on_ray


def test_a_cluster_without_gpus_refuses_a_limit_of_their_memory(
    cluster: Any, data: tuple[Contract, PreparedData], tmp_path: Path
) -> None:
    """The first test here, since a process is in one cluster at a time."""

    async def first_look() -> None:
        engine = RayEngine(terms=lambda device: data, runs_folder=tmp_path, address=cluster.address, gpu_memory_bytes=24 * GIB)
        try:
            await anext(engine.changes())
        finally:
            await engine.close()

    with pytest.raises(UserError, match=r"No node of the cluster.*cpu"):
        asyncio.run(first_look())


class TestPromisesOfAnEngine:
    """Those of tests/cluster/test_engines.py; closing is the last."""

    test_result_progress_and_files = staticmethod(test_engines.test_a_run_gives_its_result_its_progress_and_its_files)
    test_turns_and_losses = staticmethod(test_engines.test_runs_take_turns_and_a_lost_one_is_a_result)
    test_started_ahead = staticmethod(test_engines.test_a_run_that_was_guessed_is_started_ahead)
    test_blame = staticmethod(test_engines.test_a_control_decides_whether_the_idea_or_the_device_is_charged)
    test_cancelling = staticmethod(test_engines.test_cancelling_ends_the_whole_tree)
    test_closing = staticmethod(test_engines.test_closing_ends_what_runs)


# --- the farm -----------------------------------------------------------------------------------------------------------

TRACE = """\
    import ctypes, os, time
    grandchild = os.fork() == 0
    ctypes.CDLL(None).prctl(15, b"{name}-2" if grandchild else b"{name}-1")
    if grandchild:
        os.setsid()
        time.sleep(600)
"""
"""A training and its grandchild get names by which they can be seen from outside of a sandbox."""


PATIENT = """\
import os, pathlib, re, time

while not pathlib.Path({sign!r}).exists():
    time.sleep(0.05)
train_py = pathlib.Path("research/train.py")
train_py.write_text(re.sub("^LR = .*", f"LR = {lr} + {{os.getpid()}}e-12", train_py.read_text(), flags=re.MULTILINE))
pathlib.Path("IDEA.md").write_text("learn")
"""


class Traces:
    """What trainings left behind: their own process and a grandchild in a session of its own."""

    def __init__(self, checkout: Checkout) -> None:
        self.name = f"t{secrets.token_hex(4)}"
        checkout.edit("def train(session):\n", "def train(session):\n" + TRACE.format(name=self.name))
        checkout.git("commit", "--quiet", "--all", "--message", "leave traces")

    def training(self) -> list[int]:
        """The processes of the training that goes on now: the trainer and its grandchild."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/comm"):  # psutil would read all else that there is to know of each process
            with contextlib.suppress(OSError):  # it has ended
                found[path.read_text().strip()] = int(path.parent.name)
        return [found[f"{self.name}-{n}"] for n in (1, 2)] if {f"{self.name}-{n}" for n in (1, 2)} <= found.keys() else []

    def check_gone(self, pids: list[int], killed: float) -> None:
        wait_for("end of the training", lambda: not living(pids), seconds=120)
        assert in_time(killed, 2)


def node_worker() -> int:
    """The Ray worker of the one node."""
    [raylet] = raylets()
    return next(child.pid for child in raylet.children(recursive=True) if name_of(child).startswith("ray::NodeW"))


def test_two_nodes_one_removed_and_one_added(cluster: Any, checkout: Checkout) -> None:
    """Every experiment is accounted for once, wherever it ran and however often it was lost."""
    newcomer = checkout.folder.parent / "newcomer"
    add_node(cluster)
    farm = checkout.start("run", "--tag", "two", "--devices", "cpu", "--budget", "2",
                          "--researcher", patient_researcher(checkout, newcomer),
                          "--engine", "ray", "--address", cluster.address, "--experiments", "1",
                          "--sandbox", "off")  # fmt: skip
    logs = [checkout.home / "runs" / f"two-cpu{number}-0000-1" for number in range(2)]
    wait_for("two baselines on their way", lambda: len(work_told(checkout, "running")) == 2)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    wait_for("loss of its run", lambda: work_told(checkout, "lost"), seconds=60)
    add_node(cluster)
    wait_for("newcomer", lambda: workers_joined(checkout) == 3, seconds=60)
    newcomer.touch()
    output, _ = farm.communicate(timeout=240)
    cluster.remove_node(next(iter(cluster.worker_nodes)))
    assert farm.returncode == 0, output
    told = "SELECT branch, number, decision, runs FROM history WHERE kind IN ('baseline', 'explore') ORDER BY branch, number"
    rows = checkout.rows(told)  # a merge may follow, and a run that had less of the machine may be repeated
    branches = sorted({branch for branch, *_ in rows})
    assert branches == [f"autoresearch/two-cpu{number}" for number in range(2)]
    for branch in branches:
        mine = [row[1:] for row in rows if row[0] == branch]
        assert [number for number, _, _ in mine] == [0, 1] and all(1 <= runs <= 2 for _, _, runs in mine)
        assert mine[0][1] == "keep"
    tried = [decision for _, number, decision, _ in rows if number == 1]
    assert set(tried) <= {"keep", "discard"} and "keep" in tried, "what changes the same thing as well as the other is no keep"
    lost = checkout.rows("SELECT run_id, reason FROM lost")
    assert 1 <= len(lost) <= 2, lost
    scored = len(checkout.rows("SELECT id FROM runs WHERE status = 'ok'"))
    assert scored >= sum(runs for *_, runs in rows) >= 2 * 2
    states = checkout.rows("SELECT state, count(*) FROM work GROUP BY state ORDER BY state")
    assert states == [["done", scored], ["lost", len(lost)]]
    assert sorted(state for (state,) in checkout.rows("SELECT state FROM workers")) == ["joined", "joined", "left"]
    for log in logs:
        assert "step" in text_of(log / "run.log") or log.name in {run for run, _ in lost}


def test_kill_9_of_worker_driver_and_raylet(cluster: Any, checkout: Checkout) -> None:
    """Whoever dies, the training and what it started are gone in 2 s; the farm, or its next start, goes on. Last in here."""
    traces = Traces(checkout)
    researcher = checkout.script({"title": "learn", "constants": {"LR": GOOD_LR}})
    terms = ("--tag", "killed", "--devices", "cpu", "--researcher", researcher, "--experiments", "1", "--budget", "20")
    for to_kill in (contextlib.nullcontext(cluster), *(ray_cluster() for _ in range(KILLS - 1))):
        with to_kill as cluster:
            command = ("run", *terms, "--engine", "ray", "--address", cluster.address)
            farm = checkout.start(*command)
            training = wait_for("training", traces.training)
            traces.check_gone(training, kill(node_worker()))
            training = wait_for("training by the next worker", traces.training)
            assert farm.poll() is None
            traces.check_gone(training, kill(farm.pid))
            farm.communicate()

            farm = checkout.start(*command)
            training = wait_for("training after the farm's end", traces.training)
            [raylet] = raylets()
            traces.check_gone(training, kill(raylet.pid))
            farm.kill()
            farm.communicate()

    lost = checkout.rows("SELECT run_id, reason FROM lost")
    assert len(lost) >= KILLS
    assert {state for (state,) in checkout.rows("SELECT state FROM work")} <= {"lost", "waiting", "running", "cancelled"}
    assert checkout.rows("SELECT count(*) FROM experiments") == [[1]]  # the baseline is still due, and was asked for once


def patient_researcher(checkout: Checkout, sign: Path) -> str:
    """A researcher that proposes nothing before the file `sign` is there."""
    script = checkout.folder.parent / "patient.py"
    script.write_text(PATIENT.format(sign=str(sign), lr=GOOD_LR))
    return f"command:{sys.executable} {script}"


def workers_joined(checkout: Checkout) -> int:
    return sum(event["kind"] == "worker" and event["details"]["state"] == "joined" for event in events_of(checkout))


def work_told(checkout: Checkout, state: str) -> set[str]:
    """Runs that have been in a state, by the journal: asking the farm itself would slow down what it runs here."""
    work = [event["details"] for event in events_of(checkout) if event["kind"] == "work"]
    return {item["run"] for item in work if item["state"] == state}


def events_of(checkout: Checkout) -> list[Any]:
    return [record.body for record in read_journal(checkout.home / "journal.jsonl") if record.kind == "event"]
