from pathlib import Path

import pytest

from agent.repo.branch_names import worktree_folder
from agent.repo.repository import make_repository
from tests.agent.repo.git_samples import BRANCH, FILES


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit, whose path has a space, on a machine whose git knows no identity."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    make_repository(tmp_path / "a repo", FILES)
    return tmp_path / "a repo"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the worktree of BRANCH, under a home."""
    return worktree_folder(tmp_path / "home", BRANCH)
