"""farm submit and farm fetch against a real Ray head."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_cluster.exposure import _belongs_to_ray, _open_ports
from results.journal import read_journal
from tests.cluster.farm_samples import write_text
from tests.cluster.forked_farm import ForkedFarm
from tests.cluster.project_copy import commit, copy_project, git
from tests.cluster.ray_head import RayHead
from tests.cluster.tiny_checkout import GOOD_LR, TRAIN_PY

KEY = "sk-that-nobody-may-print"

RESEARCHER = f"""\
import os, pathlib, re

train_py = pathlib.Path("research/train.py")
train_py.write_text(re.sub("^LR = .*", "LR = {GOOD_LR}", train_py.read_text(), flags=re.MULTILINE))
pathlib.Path("IDEA.md").write_text(f"learn with a key of {{len(os.environ['ANTHROPIC_API_KEY'])}} letters")
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    head = RayHead(tmp_path_factory.mktemp("head"))
    yield head
    head.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a train.py that learns in a second, one run of the baseline, and few evaluation rows."""
    folder = copy_project(tmp_path_factory.mktemp("checkouts") / "checkout")
    (folder / "research" / "train.py").write_text(TRAIN_PY)
    for name, old, new in (
        ("cluster/farm_options.py", "baseline_runs: int = 2", "baseline_runs: int = 1"),
        ("research/profiles.py", "EVAL_TOKENS=2**16", "EVAL_TOKENS=2**13"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    commit(folder)
    return folder


def farm(head: RayHead, folder: Path, *arguments: str, status: int = 0, **variables: str) -> str:
    """What a command of the farm prints, both streams; it must end with `status`."""
    output = Path(tempfile.mkstemp(dir=head.home, prefix="printed-")[1])
    command = ForkedFarm(arguments, folder=folder, environment=head.environment() | variables, output=output)
    said, _ = command.communicate(timeout=180)
    assert command.returncode == status, said
    return said


def plain_farm(head: RayHead, folder: Path, *arguments: str, status: int, **variables: str) -> str:
    """The same in a Python of its own: Ray reads some variables when it is imported."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    ended = subprocess.run(
        command, cwd=folder, env=head.environment() | variables, check=False, capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_a_farm_as_a_job_outlives_its_working_folder(head: RayHead, checkout: Path, tmp_path: Path) -> None:
    """Submitted, followed, fetched through the dashboard's port alone; fetched from the disk when Ray is gone: last in here.

    The key is in the job's environment and nowhere in what is printed.
    """
    at = ("--address", head.address)
    text = write_text(tmp_path / "text", documents=1500)
    (tmp_path / "researcher.py").write_text(RESEARCHER)
    terms = ("--tag", "night", "--devices", "cpu", "--budget", "1", "--experiments", "1", "--cache", str(tmp_path / "cache"),
             "--source", f"files:{text}", "--researcher", f"command:{sys.executable} {tmp_path / 'researcher.py'}")  # fmt: skip
    said = farm(head, checkout, "submit", *at, *terms, "--follow", ANTHROPIC_API_KEY=KEY)
    assert "dashboard can read it" in said and KEY not in said
    assert "1 experiment, 1 kept" in said
    assert said.rstrip().endswith("SUCCEEDED") or "SUCCEEDED\n" in said
    assert f"farm fetch {' '.join(at)}" in said
    assert f"home: {head.home / 'autoresearch-farm'}" in said
    assert list(read_journal(head.home / "autoresearch-farm" / "journal.jsonl"))

    said = farm(head, checkout, "fetch", *at)
    branch, of_loop = git(checkout, "for-each-ref", "--format=%(refname)", "refs/heads/autoresearch").split()
    assert branch == "refs/heads/autoresearch/night" and of_loop.startswith(branch) and "1 new experiment " in said
    assert f"+LR = {GOOD_LR}" in git(checkout, "show", branch)
    fetched = ("--home", "results/fetched/autoresearch-farm")
    report = farm(head, checkout, "report", *fetched)
    assert "1 kept" in report or "gained" in report
    assert f"learn with a key of {len(KEY)} letters" in farm(head, checkout, "sql", "SELECT title FROM history", *fetched)
    assert git(checkout, "status", "--porcelain") == ""


def test_what_goes_wrong_is_one_line(head: RayHead, checkout: Path, tmp_path: Path) -> None:
    at = ("--address", head.address)
    nobody = {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}
    assert "refuses the token" in one_line(farm(head, checkout, "submit", *at, status=2, **nobody))
    assert "refuses the token" in one_line(plain_farm(head, checkout, "fetch", *at, status=2, **wrong))


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
