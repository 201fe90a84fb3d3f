"""What a person has put on a branch of the farm is kept, wherever the farm moves the branch. Real git."""

from pathlib import Path

import pytest

from agent.repo.branch_log import _is_known_ancestor, is_ancestor
from agent.repo.parking import park_edits
from agent.repo.repository import uncommitted_train_py
from agent.repo.worktree import Worktree
from tests.agent.repo.git_samples import BETTER, BRANCH, git, propose
from tests.agent.samples import TRAIN_PY

MINE = TRAIN_PY + "# mine\n"


def commit_by_hand(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.md").write_text(text)
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "mine")
    return git(folder, "rev-parse", "HEAD")


def parked(repo: Path) -> list[str]:
    return git(repo, "for-each-ref", "--format=%(objectname)", "refs/parked").split()


@pytest.fixture
def worktree(repo: Path, folder: Path) -> Worktree:
    return Worktree.create(repo, folder, BRANCH)


def test_keeps_park_nothing(repo: Path, worktree: Worktree) -> None:
    for text in (BETTER, TRAIN_PY):
        assert worktree.advance(propose(worktree, text, f"e{len(text)}")) == []
    worktree.move_shared("autoresearch/head", worktree.head())
    assert worktree.move_shared("autoresearch/head", propose(worktree, MINE, "next")) is None and parked(repo) == []


def test_commits_and_edits_by_hand_are_parked_when_the_head_is_elsewhere(repo: Path, worktree: Worktree) -> None:
    commit = propose(worktree)
    mine = commit_by_hand(worktree.folder, notes="what I found", README="changed")
    (worktree.folder / "README.md").write_text("not committed yet")
    refs = worktree.advance(commit)
    assert worktree.head() == commit and (worktree.folder / "README.md").read_text() == "hello\n"
    assert mine in parked(repo) and len(refs) == 2
    texts = {git(repo, "show", f"{ref}:README.md") for ref in refs}
    assert texts == {"changed", "not committed yet"} and git(repo, "show", f"{mine}:notes.md") == "what I found"


def test_commits_by_hand_on_the_shared_branch_are_parked(repo: Path, worktree: Worktree) -> None:
    worktree.move_shared("autoresearch/head", worktree.head())
    mine = commit_by_hand(worktree.folder, notes="mine")
    git(repo, "update-ref", "refs/heads/autoresearch/head", mine)
    ref = worktree.move_shared("autoresearch/head", git(repo, "rev-parse", f"{mine}^"))
    assert ref is not None and parked(repo) == [mine]


def test_other_files_that_a_merge_leaves_out_are_parked(repo: Path, worktree: Worktree) -> None:
    """The commit is an ancestor of the new head, whose other files are those of its first parent."""
    base = worktree.head()
    (worktree.folder / "research/train.py").write_text(MINE)
    mine = commit_by_hand(worktree.folder, README="changed")
    merge = worktree.commit(MINE, message="merge", parent=base, experiment_id="m", merged=[mine])
    assert worktree.advance(merge) != [] and parked(repo) == [mine]


def test_other_files_that_are_in_the_next_head_are_not(repo: Path, worktree: Worktree) -> None:
    commit_by_hand(worktree.folder, README="changed")
    assert worktree.advance(propose(worktree)) == [] and parked(repo) == []
    assert (worktree.folder / "README.md").read_text() == "changed"


def test_a_move_that_was_cut_off_is_no_edit(repo: Path, worktree: Worktree) -> None:
    git(repo, "update-ref", "--create-reflog", f"refs/heads/{BRANCH}", propose(worktree))
    assert uncommitted_train_py(worktree.folder) is not None
    assert park_edits(repo, worktree.folder, BRANCH) is None


def test_what_is_deleted_while_a_loop_runs_is_made_again(repo: Path, folder: Path, worktree: Worktree) -> None:
    """The folder lies inside the user's checkout, which a reset there would reach."""
    inside = Worktree.create(repo, repo / "results/data/worktrees/mar6", "autoresearch/mar6")
    commit = propose(inside)
    inside.advance(commit)
    for delete in (
        lambda: git(repo, "worktree", "remove", "--force", str(inside.folder)),
        lambda: (inside.folder / ".git").unlink(),
        lambda: git(repo, "update-ref", "-d", "refs/heads/autoresearch/mar6"),
    ):
        delete()
        (repo / "README.md").write_text("my edit\n")
        assert inside.mend(commit) != [] and inside.mend(commit) == []
        inside.advance(commit)
        assert inside.head() == commit and (inside.folder / "research/train.py").read_text() == BETTER
        assert (repo / "README.md").read_text() == "my edit\n" and uncommitted_train_py(repo) is None


def test_what_git_said_of_two_commits_is_remembered_and_of_a_branch_while_it_stays_so(repo: Path, worktree: Worktree) -> None:
    first, second = propose(worktree, BETTER, "first"), propose(worktree, MINE, "second")
    assert not is_ancestor(repo, first, second) and not is_ancestor(repo, first, BRANCH)
    asked = [_is_known_ancestor.knows(repo, first, newer) for newer in (second, BRANCH)]
    assert asked == [True, False]
    worktree.advance(first)
    assert not is_ancestor(repo, first, second) and is_ancestor(repo, first, BRANCH)
    assert not is_ancestor(repo, first, "0" * 40) and not _is_known_ancestor.knows(repo, first, "0" * 40)
