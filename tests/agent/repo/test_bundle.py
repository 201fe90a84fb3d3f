"""Branches and experiments move from one real repository to another and overwrite nothing."""

from pathlib import Path

import pytest

from agent.repo.bundle import take_bundle, write_bundle
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from research.errors import UserError
from tests.agent.repo.git_samples import BRANCH, git
from tests.agent.samples import TRAIN_PY


@pytest.fixture
def farm(tmp_path: Path) -> Worktree:
    """A branch with one keep, in a repository of its own."""
    make_repository(tmp_path / "farm", {"research/train.py": TRAIN_PY})
    worktree = Worktree.create(tmp_path / "farm", tmp_path / "home" / "worktrees" / "mar5", BRANCH)
    keep(worktree, 1)
    return worktree


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that has nothing in common with the farm's."""
    make_repository(tmp_path / "checkout", {"research/train.py": TRAIN_PY, "README.md": "mine\n"})
    return tmp_path / "checkout"


def keep(worktree: Worktree, number: int) -> str:
    text = f"{TRAIN_PY}# idea {number}\n"
    commit = worktree.commit(text, message="an idea", parent=worktree.head(), experiment_id=f"mar5-{number:04d}")
    worktree.advance(commit)
    return commit


def bundled(worktree: Worktree) -> Path:
    path = worktree.repo.parent / "branches.bundle"
    assert write_bundle(worktree.repo, path)
    return path


def test_branches_and_experiments_arrive_and_nothing_else(farm: Worktree, checkout: Path) -> None:
    git(farm.repo, "branch", "private")
    taken = take_bundle(checkout, bundled(farm))
    assert (taken.branches, taken.experiments, taken.aside) == ((BRANCH,), 1, ())
    refs = git(checkout, "for-each-ref", "--format=%(refname)").splitlines()
    assert refs == ["refs/experiments/mar5-0001", f"refs/heads/{BRANCH}", "refs/heads/main"]
    assert git(checkout, "rev-parse", BRANCH) == farm.head()
    assert git(checkout, "status", "--porcelain") == ""


def test_fetched_again_a_branch_moves_forward_and_only_what_is_new_is_reported(farm: Worktree, checkout: Path) -> None:
    take_bundle(checkout, bundled(farm))
    keep(farm, 2)
    taken = take_bundle(checkout, bundled(farm))
    assert (taken.branches, taken.experiments, taken.aside) == ((BRANCH,), 1, ())
    assert git(checkout, "rev-parse", BRANCH) == farm.head()
    again = take_bundle(checkout, bundled(farm))
    assert (again.branches, again.experiments, again.aside) == ((), 0, ())


def test_a_branch_with_other_commits_stays_as_it_is(farm: Worktree, checkout: Path) -> None:
    git(checkout, "branch", BRANCH)
    mine = git(checkout, "rev-parse", BRANCH)
    taken = take_bundle(checkout, bundled(farm))
    assert taken.aside == ((BRANCH, f"{BRANCH}-fetched", "it has other commits here"),)
    assert git(checkout, "rev-parse", BRANCH) == mine
    assert git(checkout, "rev-parse", f"{BRANCH}-fetched") == farm.head()
    keep(farm, 2)
    take_bundle(checkout, bundled(farm))
    assert git(checkout, "rev-parse", f"{BRANCH}-fetched") == farm.head()
    git(checkout, "branch", "--force", f"{BRANCH}-fetched", "main")
    keep(farm, 3)
    assert take_bundle(checkout, bundled(farm)).branches == (f"{BRANCH}-fetched-2",)


def test_a_branch_that_is_ahead_here_stays(farm: Worktree, checkout: Path) -> None:
    take_bundle(checkout, bundled(farm))
    git(checkout, "switch", "--quiet", BRANCH)
    git(checkout, "-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "--quiet", "--allow-empty", "-m", "more")
    ahead = git(checkout, "rev-parse", BRANCH)
    taken = take_bundle(checkout, bundled(farm))
    assert (taken.branches, taken.aside) == ((), ())
    assert git(checkout, "rev-parse", BRANCH) == ahead


def test_a_branch_that_is_checked_out_does_not_move(farm: Worktree, checkout: Path) -> None:
    take_bundle(checkout, bundled(farm))
    git(checkout, "switch", "--quiet", BRANCH)
    keep(farm, 2)
    taken = take_bundle(checkout, bundled(farm))
    assert taken.aside == ((BRANCH, f"{BRANCH}-fetched", "it is checked out here"),)
    assert git(checkout, "status", "--porcelain") == ""


def test_another_experiment_of_the_same_name_keeps_its_commit(farm: Worktree, checkout: Path) -> None:
    git(checkout, "update-ref", "refs/experiments/mar5-0001", "main")
    taken = take_bundle(checkout, bundled(farm))
    assert [instead for _, instead, _ in taken.aside] == ["refs/experiments/mar5-0001-fetched"]
    assert git(checkout, "rev-parse", "refs/experiments/mar5-0001") == git(checkout, "rev-parse", "main")


def test_all_or_nothing(farm: Worktree, checkout: Path) -> None:
    git(checkout, "branch", "autoresearch")  # no branch can be called autoresearch/... beside it
    with pytest.raises(UserError, match="can't add the branches"):
        take_bundle(checkout, bundled(farm))
    assert git(checkout, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/autoresearch", "refs/heads/main"]


def test_half_a_bundle_is_refused(farm: Worktree, checkout: Path) -> None:
    path = bundled(farm)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="can't add the branches"):
        take_bundle(checkout, path)
    assert git(checkout, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/main"]


def test_a_repository_without_a_farm_has_no_bundle(tmp_path: Path, checkout: Path) -> None:
    assert not write_bundle(checkout, tmp_path / "none")
    assert not (tmp_path / "none").exists()
