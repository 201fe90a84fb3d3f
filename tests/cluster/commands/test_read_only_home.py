"""Commands that only look, on a home that they can't write: somebody else's, or on a read-only mount."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.repo.repository import make_repository
from cluster.home import Home
from tests.agent.repo.git_samples import git
from tests.agent.samples import TRAIN_PY
from tests.cluster.farm_samples import make_history
from tests.unprivileged import unprivileged

ROOT = Path(__file__).parents[3]

LOOKS = (["status"], ["report"], ["show", "1"], ["sql", "SELECT * FROM history"], ["diff"], ["audit"])

LOOK = """import sys
from cluster.cli import main
for words in {looks!r}:
    print(words[0], main([*words, "--home", {home!r}]), flush=True)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home with a branch in a repository of its own. Nothing in it can be written."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    home = Home(tmp_path / "home")
    repository = home.folder / "repository"
    make_repository(repository, {"research/train.py": TRAIN_PY})
    commits = [git(repository, "rev-parse", "HEAD")]
    for depth in (3, 4):
        (repository / "research/train.py").write_text(TRAIN_PY.replace("DEPTH = 2", f"DEPTH = {depth}"))
        git(repository, "-c", "user.name=T", "-c", "user.email=t", "commit", "-q", "-a", "-m", f"depth {depth}")
        commits.append(git(repository, "rev-parse", "HEAD"))
    make_history(home.folder, commits=(commits[0], commits[1], commits[2]))
    home.record_repository(repository)
    permit(home, 0o555)
    yield home
    permit(home, 0o755)


def permit(home: Home, mode: int) -> None:
    for folder in (home.folder, *(path for path in home.folder.rglob("*") if path.is_dir())):
        folder.chmod(mode)


def look(home: Home, looks: Any) -> "subprocess.CompletedProcess[str]":
    """The commands in one Python that can't write where permissions forbid it."""
    command = unprivileged(sys.executable, "-c", LOOK.format(looks=looks, home=str(home.folder)))
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=home.folder.parent, capture_output=True, text=True, check=False, env=path)


def everything_in(home: Home) -> list[str]:
    return sorted(str(path) for path in home.folder.rglob("*"))


def test_looking_needs_no_permission_to_write_and_leaves_nothing(home: Home) -> None:
    before = everything_in(home)
    done = look(home, LOOKS)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "-DEPTH = 2" in done.stdout and "+DEPTH = 3" in done.stdout
    assert {f"{words[0]} 0" for words in LOOKS} <= set(done.stdout.splitlines())
    assert everything_in(home) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a home to another user")
def test_what_another_user_owns_is_one_line(home: Home) -> None:
    """Git doesn't trust their repository; a home that is private can't be read at all."""
    for path in (home.folder / "repository", home.folder / "repository/.git"):
        os.chown(path, 65534, 65534)
    done = look(home, [["diff"]])
    assert "diff 2" in done.stdout and "safe.directory" in done.stderr and len(done.stderr.splitlines()) == 1
    home.folder.chmod(0o700)
    os.chown(home.folder, 65534, 65534)
    looks = [*LOOKS, ["abandon"]]
    done = look(home, looks)
    assert done.stdout.splitlines() == [f"{words[0]} 2" for words in looks], done.stderr
    assert len(done.stderr.splitlines()) == len(looks) and "Traceback" not in done.stderr
    assert all(str(home.folder) in line for line in done.stderr.splitlines())


def test_a_repository_that_is_gone_is_not_made_anew(home: Home) -> None:
    permit(home, 0o755)
    shutil.rmtree(home.folder / "repository")
    done = look(home, [["diff"]])
    assert "diff 2" in done.stdout and not (home.folder / "repository").exists() and len(done.stderr.splitlines()) == 1
