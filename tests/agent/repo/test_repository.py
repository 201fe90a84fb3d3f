"""The choice of the repository where research/train.py is missing."""

import subprocess
from pathlib import Path

import pytest

from agent.repo.repository import TRAIN_FILE, make_repository, repository_for, train_py_to_try
from research.errors import UserError
from tests.agent.samples import TRAIN_PY


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    make_repository(tmp_path / "a repo", {TRAIN_FILE: TRAIN_PY})
    return tmp_path / "a repo"


def test_a_missing_train_py_is_one_line_whose_command_restores_it(repo: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "rm", "--quiet", TRAIN_FILE], cwd=repo, check=True)
    for ask in (lambda: repository_for(repo, tmp_path / "home"), lambda: train_py_to_try(repo)):
        with pytest.raises(UserError) as error:
            ask()
        assert "train.py is missing" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "home").exists()
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    assert repository_for(repo, tmp_path / "home") == repo
    assert train_py_to_try(repo) == TRAIN_PY


def test_an_installation_without_train_py_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("research.__file__", str(tmp_path / "nowhere" / "__init__.py"))
    with pytest.raises(UserError, match=r"nowhere/train\.py is missing"):
        repository_for(tmp_path, tmp_path / "home")
