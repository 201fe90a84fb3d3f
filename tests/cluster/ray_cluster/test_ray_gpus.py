"""A farm as a job on two GPUs of one host, one of whose workers is killed on the way. With -s -n0 it shows what came of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.cluster.project_copy import copy_project, git
from tests.cluster.ray_head import RayHead
from tests.cluster.ray_samples import text_of, wait_for

BUDGET = 60


def run(head: RayHead, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    ended = subprocess.run(command, cwd=folder, env=head.environment(), check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)
    return ended.stdout


def node_workers(head: RayHead) -> list[psutil.Process]:
    return [process for process in head.processes() if process.name().startswith("ray::Nod")]


def kill_one_that_trains(head: RayHead, home: Path) -> None:
    """One of the workers, a while after the first run of a baseline has ended."""
    (ended, *_) = wait_for("end of a run", lambda: list(home.glob("runs/*-0000-1/result.json")), 300)
    print("first run to end:", ended.parent.name)
    time.sleep(BUDGET / 4)
    worker = node_workers(head)[0]
    print(f"kill -9 {worker.pid} ({worker.name()})")
    os.kill(worker.pid, signal.SIGKILL)


def two_loops_one_worker_killed(folder: Path, *, gpus: int, terms: tuple[str, ...]) -> None:
    checkout = copy_project(folder / "checkout")
    head = RayHead(folder, gpus=gpus)
    try:
        at = ("--address", head.address)
        run(head, checkout, "submit", *at, "--tag", "night", "--loops", "2", "--experiments", "2", *terms)
        home = head.home / "autoresearch-farm"
        kill_one_that_trains(head, home)
        wait_for("end of the farm", lambda: "farm_ended" in text_of(home / "logs" / "farm.log.jsonl"), 900)
        run(head, checkout, "fetch", *at)
    finally:
        head.stop()
    assert len(git(checkout, "for-each-ref", "--format=%(refname)", "refs/heads/autoresearch").split()) == 2
    fetched = ("--home", "results/fetched/autoresearch-farm")
    for query in ("SELECT branch, number, kind, decision, val_bpb, runs, title FROM history ORDER BY branch, number",
                  "SELECT run, state, worker, began, ended, reason FROM work", "SELECT * FROM workers",
                  "SELECT run_id, branch, reason FROM lost",
                  "SELECT id, device, startup_seconds, scoring_seconds, total_seconds, reported_tokens FROM runs"):  # fmt: skip
        answer = run(head, checkout, "sql", query, *fetched)
        if "FROM lost" in query:
            assert "its worker died" in answer


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_two_gpus(tmp_path: Path) -> None:
    text = tmp_path / "text"  # torch's own folder would be no good: a run reads it, and may not read what it is scored on
    text.mkdir()
    for number, path in enumerate(sorted(Path(torch.__file__).parent.rglob("*.py"))):
        shutil.copy(path, text / f"{number}.py")
    terms = ("--profile", "small", "--source", f"files:{text}", "--budget", str(BUDGET))
    two_loops_one_worker_killed(tmp_path, gpus=2, terms=terms)
