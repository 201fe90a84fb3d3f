"""farm submit and farm fetch against a real Ray head."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster.ray_cluster.exposure import _belongs_to_ray, _open_ports
from results.journal import read_journal
from tests.cluster.project_copy import commit, copy_project, git
from tests.cluster.ray_head import RayHead
from tests.cluster.tiny_checkout import GOOD_LR, TRAIN_PY

KEY = "sk-that-nobody-may-print"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    head = RayHead(tmp_path_factory.mktemp("head"))
    yield head
    head.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a train.py that learns in a second, and one idea."""
    folder = copy_project(tmp_path_factory.mktemp("checkouts") / "checkout")
    (folder / "research" / "train.py").write_text(TRAIN_PY)
    (folder / "script.json").write_text(json.dumps([{"title": "learn", "constants": {"LR": GOOD_LR}}]))
    commit(folder)
    return folder


def farm(head: RayHead, folder: Path, *arguments: str, status: int = 0, **variables: str) -> str:
    """What a command of the farm prints, both streams; it must end with `status`."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    ended = subprocess.run(
        command, cwd=folder, env=head.environment() | variables, check=False, capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_farm_as_a_job_outlives_its_working_folder(head: RayHead, checkout: Path, tmp_path: Path) -> None:
    """Submitted, followed, fetched through the dashboard's port alone; fetched from the disk when Ray is gone: last in here."""
    at = ("--address", head.address)
    text = shutil.copytree(Path(torch.__file__).parent / "_inductor", tmp_path / "text")
    terms = ("--tag", "night", "--devices", "cpu", "--budget", "1", "--experiments", "1", "--cache", str(tmp_path / "cache"),
             "--source", f"files:{text}")  # fmt: skip
    said = farm(head, checkout, "submit", *at, *terms, "--researcher", "scripted:script.json", "--follow")
    assert "1 experiment, 1 kept" in said
    assert said.rstrip().endswith("SUCCEEDED") or "SUCCEEDED\n" in said
    assert f"farm fetch {' '.join(at)}" in said
    assert f"home: {head.home / 'autoresearch-farm'}" in said
    assert list(read_journal(head.home / "autoresearch-farm" / "journal.jsonl"))

    said = farm(head, checkout, "fetch", *at)
    (branch,) = git(checkout, "for-each-ref", "--format=%(refname)", "refs/heads/autoresearch").split()
    assert "night" in branch and "1 new experiment " in said
    assert f"+LR = {GOOD_LR}" in git(checkout, "show", branch)
    fetched = ("--home", "results/fetched/autoresearch-farm")
    assert "1 kept" in farm(head, checkout, "report", *fetched) or "gained" in farm(head, checkout, "report", *fetched)
    assert "learn" in farm(head, checkout, "sql", "SELECT title FROM history", *fetched)
    assert git(checkout, "status", "--porcelain") == ""


def test_what_a_job_gets_and_what_is_told(head: RayHead, checkout: Path) -> None:
    """The key is in the job's environment and nowhere in what is printed; a job's own default home outlives it too."""
    ask = (
        "import os; from cluster.home import find_home; "
        "print('key', len(os.environ['ANTHROPIC_API_KEY'])); print('home', find_home().folder)"
    )
    program = f"""
import shlex, sys
from pathlib import Path
from cluster.commands.cluster import key_for, what_next
from cluster.ray_cluster.jobs import Jobs
jobs = Jobs({head.address!r})
environment, lines = key_for("claude")
job = jobs.submit(shlex.join(["python", "-c", {ask!r}]), Path.cwd(), environment)
print(*lines, *what_next(job, "~/x", jobs), sep="\\n")
print(jobs.wait(job), jobs.log(job))
"""
    variables = head.environment() | {"ANTHROPIC_API_KEY": KEY}
    ended = subprocess.run([sys.executable, "-c", program], cwd=checkout, env=variables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "SUCCEEDED" in ended.stdout
    assert f"key {len(KEY)}" in ended.stdout
    assert f"home {head.home / 'autoresearch-farm'}" in ended.stdout
    assert "farm fetch --home '~/x' --address" in ended.stdout
    assert "dashboard can read it" in ended.stdout
    assert KEY not in ended.stdout + ended.stderr


def test_what_goes_wrong_is_one_line(head: RayHead, checkout: Path, tmp_path: Path) -> None:
    at = ("--address", head.address)
    nobody = {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}
    assert "refuses the token" in one_line(farm(head, checkout, "submit", *at, status=2, **nobody))
    assert "refuses the token" in one_line(farm(head, checkout, "fetch", *at, status=2, **wrong))
    assert "Nothing is recorded in /there/is/none" in one_line(
        farm(head, checkout, "fetch", *at, "--home", "/there/is/none", status=2)
    )


def one_line(said: str) -> str:
    lines = said.splitlines()
    assert lines[-1].startswith("farm: "), said
    assert len(lines) <= 2 and "Traceback" not in said, said  # where it comes from, and what is wrong
    return lines[-1]


def test_no_port_of_a_head_on_loopback_is_open_to_others(head: RayHead) -> None:
    processes = head.processes()
    for process in processes:
        process.info = process.as_dict(["name", "cmdline"])
    of_ray = [process for process in processes if _belongs_to_ray(process)]
    assert any(process.info["name"] == "gcs_server" for process in of_ray)
    assert [_open_ports(process) for process in of_ray if _open_ports(process)] == []


def test_fetched_from_the_disk_when_ray_and_its_session_are_gone(head: RayHead, checkout: Path) -> None:
    head.stop()
    assert not head.session.exists()
    said = farm(head, checkout, "fetch", HOME=str(head.home))
    assert "on this machine" in said
    assert "results/fetched/autoresearch-farm" in said
    assert "learn" in farm(head, checkout, "show", "1", "--home", "results/fetched/autoresearch-farm")
