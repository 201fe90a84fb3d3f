"""Worktrees that a killed farm, or a person, has damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.repo import repair
from agent.repo.branch_names import worktree_folder
from agent.repo.repair import restore_experiments
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from tests.agent.repo.git_samples import BETTER, BRANCH, FILES, git, propose
from tests.agent.samples import TRAIN_PY


def lose_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_git_file(folder: Path) -> None:
    (folder / ".git").unlink()


def lose_admin_folder(folder: Path) -> None:
    shutil.rmtree(git(folder, "rev-parse", "--absolute-git-dir"))


def break_index(folder: Path) -> None:
    Path(git(folder, "rev-parse", "--absolute-git-dir"), "index").write_bytes(b"torn")


def lose_index(folder: Path) -> None:
    Path(git(folder, "rev-parse", "--absolute-git-dir"), "index").unlink()


def stop_worktree_add_half_way(folder: Path) -> None:
    Path(git(folder, "rev-parse", "--absolute-git-dir"), "locked").write_text("initializing")
    (folder / "research/train.py").unlink()


def leave_edits(folder: Path) -> None:
    (folder / "research/train.py").write_text("half a fi")
    git(folder, "checkout", "-q", "--detach")


def leave_locks(folder: Path) -> None:
    admin = Path(git(folder, "rev-parse", "--absolute-git-dir"))
    common = admin.parent.parent
    locks = [admin / "index.lock", admin / "HEAD.lock", common / f"refs/heads/{BRANCH}.lock"]
    (common / "refs/experiments").mkdir(exist_ok=True)
    for lock in [*locks, common / "refs/experiments/e1.lock"]:
        lock.touch()


@pytest.mark.parametrize(
    "damage",
    [
        lose_folder,
        lose_git_file,
        lose_admin_folder,
        break_index,
        lose_index,
        stop_worktree_add_half_way,
        leave_edits,
        leave_locks,
    ],
)
def test_a_damaged_worktree_is_repaired(
    tmp_path: Path, repo: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "STALE_LOCK_S", 0.2)
    folder = worktree_folder(repo / "results/data", BRANCH)  # inside the checkout, as by default
    first = Worktree.create(repo, folder, BRANCH, train_py=BETTER)
    (folder / "results.tsv").write_text("commit\n")
    damage(folder)
    worktree = Worktree.open(repo, folder, BRANCH)
    assert worktree.head() == first.head()
    assert (folder / "research/train.py").read_text() == BETTER
    assert (folder / "results.tsv").exists() or damage is lose_folder
    worktree.advance(propose(worktree, TRAIN_PY))
    assert git(folder, "rev-parse", "--abbrev-ref", "HEAD") == BRANCH
    assert (folder / "research/train.py").read_text() == TRAIN_PY
    assert [path.name for path in folder.parent.iterdir()] == ["mar5"]
    assert git(repo, "worktree", "list").count("\n") == 1


def test_a_moved_home_does_not_hold_the_branch(repo: Path, folder: Path, tmp_path: Path) -> None:
    Worktree.create(repo, folder, BRANCH)
    (tmp_path / "home").rename(tmp_path / "new")
    assert Worktree.open(repo, worktree_folder(tmp_path / "new", BRANCH), BRANCH).folder.is_dir()


def test_a_copied_home_leaves_the_original_alone(repo: Path, tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    make_repository(home / "repository", FILES)
    worktree = Worktree.create(home / "repository", worktree_folder(home, BRANCH), BRANCH)
    (worktree.folder / "results.tsv").write_text("rows\n")
    before = worktree.head()
    shutil.copytree(home, copy, symlinks=True)
    there = Worktree.open(copy / "repository", worktree_folder(copy, BRANCH), BRANCH)
    there.advance(propose(there))
    assert (there.folder / "research/train.py").read_text() == BETTER
    assert (there.folder / "results.tsv").read_text() == "rows\n"
    assert worktree.head() == before != there.head()
    assert git(worktree.folder, "status", "--porcelain", "--untracked-files=no") == ""


def test_refs_of_experiments_that_were_deleted_are_made_again(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    commits = {name: propose(worktree, TRAIN_PY + f"# {name}\n", name) for name in ("e1", "e2", "e3")}
    git(repo, "pack-refs", "--all")
    for name in ("e1", "e3"):
        git(repo, "update-ref", "-d", f"refs/experiments/{name}")
    known = {**commits, "elsewhere": "ab" * 20}
    assert restore_experiments(repo, known) == ["e1", "e3"] and restore_experiments(repo, known) == []
    assert [git(repo, "rev-parse", f"refs/experiments/{name}") for name in commits] == list(commits.values())


def test_git_takes_a_worktree_for_one_of_its_own(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    make_repository(repo, FILES)
    homes = [tmp_path / name for name in ("one", "other")]
    (repo / ".git/worktrees/mar8").mkdir(parents=True)  # as a kill leaves it, before anything is in it
    trees = [Worktree.create(repo, home / "mar8", f"autoresearch/mar8-{home.name}") for home in homes]
    assert sorted(folder.name for folder in (repo / ".git/worktrees").iterdir()) == ["mar8", "mar81"]
    listed = git(repo, "worktree", "list", "--porcelain")
    for tree in trees:
        assert f"worktree {tree.folder}" in listed and f"branch refs/heads/{tree.branch}" in listed
        assert git(tree.folder, "status", "--porcelain") == "" and git(tree.folder, "rev-parse", "HEAD") == tree.head()
    assert "locked" not in listed and "prunable" not in listed
    git(repo, "worktree", "remove", str(trees[0].folder))
    git(repo, "worktree", "prune")
    assert not trees[0].folder.exists() and git(trees[1].folder, "rev-parse", "--show-toplevel") == str(trees[1].folder)


def test_a_sparse_checkout_is_passed_on_by_git_itself(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    make_repository(repo, {**FILES, "large/data.txt": "x"})
    git(repo, "sparse-checkout", "set", "research")
    tree = Worktree.create(repo, tmp_path / "home" / "mar8", "autoresearch/mar8")
    assert (tree.folder / "research/train.py").is_file() and not (tree.folder / "large").exists()
