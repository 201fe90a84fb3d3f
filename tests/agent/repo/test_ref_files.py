"""What is read of git's files is what git says, in every layout; where it can't be read, git is asked."""

import subprocess
from pathlib import Path

from agent.repo.branch_log import fitted_from, is_ancestor
from agent.repo.git_command import run_git
from agent.repo.ref_files import commit_of_head, git_folder, is_surely_missing, linked_folder, ref_of_head
from agent.repo.repository import head_train_py
from agent.repo.worktree import Worktree, branch_exists, checked_out_branch
from tests.agent.repo.git_samples import BETTER
from tests.agent.samples import TRAIN_PY


def test_what_the_files_say_is_what_git_says(repo: Path, tmp_path: Path) -> None:
    start = run_git(repo, "rev-parse", "HEAD").strip()
    main = run_git(repo, "symbolic-ref", "--short", "HEAD").strip()

    def agrees(folder: Path, *, branch: str | None, is_read: bool) -> None:
        assert (commit_of_head(folder) or start) == run_git(folder, "rev-parse", "HEAD").strip()
        assert (commit_of_head(folder) is not None, checked_out_branch(folder)) == (is_read, branch)
        assert head_train_py(folder) == TRAIN_PY

    agrees(repo, branch=main, is_read=True)
    assert not branch_exists(repo, "some/new") and is_surely_missing(repo, "refs/heads/some/new")
    run_git(repo, "pack-refs", "--all", "--prune")
    agrees(repo, branch=main, is_read=False)
    assert branch_exists(repo, main)
    run_git(repo, "switch", "--quiet", "--detach")
    agrees(repo, branch=None, is_read=True)
    linked = tmp_path / "linked"
    run_git(repo, "worktree", "add", "--quiet", str(linked), main)
    agrees(linked, branch=main, is_read=False)
    own = linked_folder(linked)
    assert own is not None and own.samefile(run_git(linked, "rev-parse", "--git-dir").strip())
    assert (git_folder(linked), linked_folder(repo), linked_folder(tmp_path)) == (None, None, None)
    unborn = tmp_path / "unborn"
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "first", str(unborn)], check=True)
    assert (checked_out_branch(unborn), commit_of_head(unborn), head_train_py(unborn)) == ("first", None, None)


def test_refs_in_another_format_are_asked_of_git(tmp_path: Path) -> None:
    made = subprocess.run(["git", "init", "--quiet", "--ref-format=reftable", "--initial-branch", "first", str(tmp_path)],
                          capture_output=True, check=False)  # fmt: skip
    (tmp_path / "file").write_text("")
    if made.returncode:  # an older git has no other format: its files would look so
        subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
        (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/.invalid\n")
    else:
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
        run_git(tmp_path, *identity, "commit", "--quiet", "--allow-empty", "--message", "start")
        assert checked_out_branch(tmp_path) == "first" and branch_exists(tmp_path, "first")
    assert (ref_of_head(tmp_path), commit_of_head(tmp_path)) == (None, None)
    assert not branch_exists(tmp_path, "other")


def test_what_is_remembered_of_a_new_commit_is_what_git_says(repo: Path, tmp_path: Path) -> None:
    worktree = Worktree.create(repo, tmp_path / "night", "autoresearch/night")
    start = worktree.head()
    commit = worktree.commit(BETTER, message="better\n\nwhy", parent=start, experiment_id="night-0001")
    fitted = worktree.commit(BETTER, message=f"fitted\n\nFitted-from: {start}\n", parent=start, experiment_id="night-0002")
    other = repo.rename(tmp_path / "moved")  # nothing is remembered of it
    for older, newer in ((start, commit), (commit, start), (start, fitted), (fitted, start), (start, start)):
        assert is_ancestor(repo, older, newer) == is_ancestor(other, older, newer) == (older == start)
    assert not is_ancestor(other, commit, fitted) and not is_ancestor(other, commit, "f" * 40)
    assert [fitted_from(other, each) for each in (start, commit, fitted)] == [None, None, start]
    assert fitted_from(repo, commit) is None
