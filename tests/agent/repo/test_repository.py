"""The choice of the repository, and the train.py in it."""

import subprocess
from pathlib import Path

import pytest

from agent.repo.repository import (
    TRAIN_FILE,
    head_train_py,
    make_repository,
    repository_for,
    train_py_to_try,
    uncommitted_train_py,
)
from research.errors import UserError
from tests.agent.repo.git_samples import BETTER, FILES, git
from tests.agent.samples import TRAIN_PY


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


def test_uncommitted_edits_are_found(repo: Path) -> None:
    assert uncommitted_train_py(repo) is None
    (repo / "research/train.py").write_bytes(TRAIN_PY.replace("\n", "\r\n").encode())
    assert uncommitted_train_py(repo) is None
    (repo / "research/train.py").write_text(BETTER)
    assert uncommitted_train_py(repo) == BETTER
    git(repo, "add", ".")
    assert uncommitted_train_py(repo) == BETTER
    assert head_train_py(repo) == TRAIN_PY
    (repo / "research/train.py").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        uncommitted_train_py(repo)


def test_the_checkout_is_used_where_there_is_one(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.repo.repository._installed_files", lambda: FILES)
    home = tmp_path / "home"
    assert repository_for(repo / "research", home) == repo
    assert not home.exists()
    own = repository_for(tmp_path, home)
    assert own == home / "repository" == repository_for(tmp_path, home)
    assert head_train_py(own) == TRAIN_PY
    make_repository(own, {"a": "b"})  # another process was faster
    assert head_train_py(own) == TRAIN_PY
    assert [path.name for path in home.iterdir()] == ["repository"]


def test_new_branches_start_from_what_is_installed_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"research/train.py": TRAIN_PY, "program.md": "policy\n"}
    monkeypatch.setattr("agent.repo.repository._installed_files", lambda: files)
    repository = repository_for(tmp_path, tmp_path / "home", renew=True)
    first = git(repository, "rev-parse", "HEAD")
    (repository / "program.md").write_text("policy by hand\n")
    files = {"research/train.py": BETTER, "program.md": "policy 2\n"}
    assert repository_for(tmp_path, tmp_path / "home") == repository
    assert head_train_py(repository) == TRAIN_PY
    repository_for(tmp_path, tmp_path / "home", renew=True)
    assert head_train_py(repository) == BETTER == (repository / "research/train.py").read_text()
    assert (repository / "program.md").read_text() == "policy by hand\n"
    assert git(repository, "rev-parse", "HEAD^") == first
    repository_for(tmp_path, tmp_path / "home", renew=True)
    assert git(repository, "rev-parse", "HEAD^") == first
