"""The choice of the repository, and the train.py in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.repo.repository import (
    TRAIN_FILE,
    head_train_py,
    make_repository,
    repository_for,
    source_tree,
    train_py_to_try,
    uncommitted_train_py,
)
from research.errors import UserError
from tests.agent.repo.git_samples import BETTER, FILES, git
from tests.agent.samples import TRAIN_PY
from tests.unprivileged import unprivileged

ROOT = Path(__file__).parents[3]


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


def test_a_sparse_checkout_is_told_a_command_that_works_there(repo: Path, tmp_path: Path) -> None:
    git(repo, "sparse-checkout", "set", "docs")
    with pytest.raises(UserError) as error:
        repository_for(repo, tmp_path / "home")
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    assert repository_for(repo, tmp_path / "home") == repo and train_py_to_try(repo) == TRAIN_PY


# source trees that git can't commit to


@pytest.fixture
def monorepo(tmp_path: Path, repo: Path) -> Path:
    """A folder of a larger repository, with the project in it."""
    make_repository(tmp_path / "mono", {f"lab/{name}": text for name, text in FILES.items()} | {"a.txt": "a"})
    return tmp_path / "mono" / "lab"


def test_an_edit_in_a_folder_of_a_larger_repository_is_not_the_baseline(monorepo: Path, tmp_path: Path) -> None:
    (monorepo / TRAIN_FILE).write_text(BETTER)
    repository = repository_for(monorepo, tmp_path / "home", edited=True)
    assert repository == tmp_path / "home" / "repository" and head_train_py(repository) == TRAIN_PY
    assert source_tree(monorepo / "research") == monorepo
    assert repository_for(monorepo, tmp_path / "home", renew=True) == repository
    assert head_train_py(repository) == TRAIN_PY


def test_an_edit_that_nothing_can_be_compared_with_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree without git, as a ZIP has it; the line's commands make it one that works."""
    tree = tmp_path / "tree"
    (tree / "research").mkdir(parents=True)
    (tree / "research/__init__.py").touch()
    (tree / TRAIN_FILE).write_text(TRAIN_PY)
    monkeypatch.setattr("research.__file__", str(tree / "research/__init__.py"))
    with pytest.raises(UserError) as error:
        repository_for(tree, tmp_path / "home", edited=True)
    assert "\n" not in str(error.value) and not (tmp_path / "home").exists()
    identity = "GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t"
    subprocess.run(f"export {identity}; {str(error.value).split('`')[1]}", shell=True, check=True, cwd=tree)
    (tree / TRAIN_FILE).write_text(BETTER)
    assert repository_for(tree, tmp_path / "home", edited=True) == tree and head_train_py(tree) == TRAIN_PY


def test_a_tree_without_git_is_compared_with_what_the_farm_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed train.py elsewhere, or one that a farm has begun with."""
    tree, installed = tmp_path / "tree", tmp_path / "installed"
    for folder, text in ((tree, BETTER), (installed, TRAIN_PY)):
        (folder / "research").mkdir(parents=True)
        (folder / TRAIN_FILE).write_text(text)
    monkeypatch.setattr("research.__file__", str(installed / "research/__init__.py"))
    repository = repository_for(tree, tmp_path / "home", edited=True)
    monkeypatch.setattr("research.__file__", str(tree / "research/__init__.py"))
    assert repository_for(tree, tmp_path / "home", edited=True) == repository
    assert head_train_py(repository) == TRAIN_PY


def test_a_branch_that_somebody_works_on_gets_no_new_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agent.repo.repository._installed_files", lambda: {TRAIN_FILE: TRAIN_PY})
    repository = repository_for(tmp_path, tmp_path / "home")
    git(repository, "switch", "-q", "-c", "autoresearch/mar8")
    monkeypatch.setattr("agent.repo.repository._installed_files", lambda: {TRAIN_FILE: BETTER})
    repository_for(tmp_path, tmp_path / "home", renew=True)
    assert head_train_py(repository) == TRAIN_PY


def test_a_checkout_that_cannot_be_written_is_left_alone(repo: Path, tmp_path: Path) -> None:
    """The branches go to a repository under the home, which begins with what is committed."""
    (repo / TRAIN_FILE).write_text(BETTER)
    folders = [repo / ".git", *(path for path in (repo / ".git").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    home = tmp_path / "home"
    code = (
        "from pathlib import Path; from agent.repo.repository import head_train_py, repository_for\n"
        f"own = repository_for(Path({str(repo)!r}), Path({str(home)!r}), edited=True)\n"
        "print(own, 'DEPTH = 2' in head_train_py(own))\n"
    )
    command = unprivileged(sys.executable, "-c", code)
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for folder in folders:
        folder.chmod(0o755)
    assert printed == f"{home / 'repository'} True\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_checkout_that_another_user_owns_is_one_line_whose_command_helps(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (repo, repo / ".git"):
        os.chown(path, 65534, 65534)
    with pytest.raises(UserError) as error:
        repository_for(repo, tmp_path / "home")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    assert repository_for(repo, tmp_path / "home") == repo
