"""The farm on a Ray cluster of real nodes: what comes, goes, or is killed, nothing is lost, doubled or left running.

KILLS=10 in the environment repeats each kill ten times instead of once.
"""

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from results.journal import read_journal
from tests.cluster.ray_samples import kill, living, name_of, ray_cluster, raylets, text_of, wait_for
from tests.cluster.tiny_checkout import GOOD_LR, Checkout

KILLS = int(os.environ.get("KILLS", "1"))

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
        found = {process.info["name"]: process.pid for process in psutil.process_iter(["name"])}
        return [found[f"{self.name}-{n}"] for n in (1, 2)] if {f"{self.name}-{n}" for n in (1, 2)} <= found.keys() else []

    def check_gone(self, pids: list[int], killed: float) -> None:
        wait_for("end of the training", lambda: not living(pids), seconds=30)
        assert time.monotonic() - killed < 2.0


def node_worker_of(pid: int) -> int:
    """The Ray worker above a training process."""
    return next(parent.pid for parent in psutil.Process(pid).parents() if parent.name().startswith("ray::"))


def test_kill_9_of_worker_driver_and_raylet(checkout: Checkout, tmp_path: Path) -> None:
    """Whoever dies, the training and what it started are gone in 2 s; the farm, or its next start, goes on."""
    traces = Traces(checkout)
    researcher = checkout.script({"title": "learn", "constants": {"LR": GOOD_LR}})
    terms = ("--tag", "killed", "--devices", "cpu", "--researcher", researcher, "--experiments", "1", "--budget", "20")
    for _ in range(KILLS):
        with ray_cluster() as cluster:
            command = ("run", *terms, "--engine", "ray", "--address", cluster.address)
            farm = checkout.plain().start(*command)
            training = wait_for("training", traces.training)
            traces.check_gone(training, kill(node_worker_of(training[0])))
            training = wait_for("training by the next worker", traces.training)
            assert farm.poll() is None
            traces.check_gone(training, kill(farm.pid))
            farm.communicate()

            farm = checkout.plain().start(*command)
            training = wait_for("training after the farm's end", traces.training)
            raylet = next(parent for parent in psutil.Process(training[0]).parents() if name_of(parent) == "raylet")
            traces.check_gone(training, kill(raylet.pid))
            farm.kill()
            farm.communicate()

    lost = checkout.rows("SELECT run_id, reason FROM lost")
    assert len(lost) >= KILLS
    assert {state for (state,) in checkout.rows("SELECT state FROM work")} <= {"lost", "waiting", "running", "dropped"}
    assert checkout.rows("SELECT count(*) FROM experiments") == [[1]]  # the baseline is still due, and was asked for once


def test_two_nodes_one_removed_and_one_added(checkout: Checkout) -> None:
    """Every experiment is accounted for once, wherever it ran and however often it was lost."""
    newcomer = checkout.folder.parent / "newcomer"
    with ray_cluster(nodes=2) as cluster:
        farm = checkout.plain().start("run", "--tag", "two", "--devices", "cpu", "--budget", "2",
                              "--researcher", patient_researcher(checkout, newcomer),
                              "--engine", "ray", "--address", cluster.address, "--experiments", "1")  # fmt: skip
        logs = [checkout.home / "runs" / f"two-cpu{number}-0000-1" for number in range(2)]
        wait_for("two baselines on their way", lambda: len(work_told(checkout, "running")) == 2)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        wait_for("loss of its run", lambda: work_told(checkout, "lost"), seconds=60)
        cluster.add_node(num_cpus=1)
        wait_for("newcomer", lambda: workers_joined(checkout) == 3, seconds=60)
        newcomer.touch()
        output, _ = farm.communicate(timeout=240)
    assert farm.returncode == 0, output
    assert len(raylets()) == 0
    rows = checkout.rows("SELECT branch, number, decision, runs FROM history ORDER BY branch, number")
    branches = sorted({branch for branch, *_ in rows})
    assert branches == [f"autoresearch/two-cpu{number}" for number in range(2)]
    for branch in branches:
        mine = [row[1:] for row in rows if row[0] == branch]
        assert [(number, runs) for number, _, runs in mine] == [(0, 2), (1, 1)]
        assert [decision for _, decision, _ in mine] == ["keep", "keep"]
    lost = checkout.rows("SELECT run_id, reason FROM lost")
    assert 1 <= len(lost) <= 2, lost
    assert len(checkout.rows("SELECT id FROM runs WHERE status = 'ok'")) == 2 * 3
    states = checkout.rows("SELECT state, count(*) FROM work GROUP BY state ORDER BY state")
    assert states == [["done", 6], ["lost", len(lost)]]
    assert sorted(state for (state,) in checkout.rows("SELECT state FROM workers")) == ["joined", "joined", "left"]
    for log in logs:
        assert "step" in text_of(log / "run.log") or log.name in {run for run, _ in lost}


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
