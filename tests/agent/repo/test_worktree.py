"""Worktrees with a real git, in the states that real repositories are in."""

import multiprocessing
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.repo.branch_names import worktree_folder
from agent.repo.git_command import GitFailed, run_git
from agent.repo.repository import make_repository, uncommitted_train_py
from agent.repo.worktree import Worktree, branch_exists, checked_out_branch
from research.errors import UserError
from tests.agent.repo.git_samples import BETTER, BRANCH, git, propose
from tests.agent.samples import TRAIN_PY


def changed_files(repo: Path, old: str, new: str) -> list[str]:
    return git(repo, "diff-tree", "-r", "--name-only", old, new).splitlines()


def experiments(repo: Path) -> dict[str, str]:
    """Experiment id -> commit."""
    lines = git(repo, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/experiments").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)


# a fresh start


def test_a_branch_starts_with_the_given_train_py_and_nothing_else(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH, train_py=BETTER)
    assert worktree.train_py(worktree.head()) == BETTER == (folder / "research/train.py").read_text()
    assert changed_files(repo, "HEAD", worktree.head()) == ["research/train.py"]
    assert git(repo, "rev-parse", f"{BRANCH}^") == git(repo, "rev-parse", "HEAD")
    assert git(folder, "status", "--porcelain") == ""
    assert checked_out_branch(repo) == "main" and checked_out_branch(folder) == BRANCH


@pytest.mark.parametrize("train_py", [None, TRAIN_PY])
def test_an_unchanged_train_py_starts_at_the_base_itself(repo: Path, folder: Path, train_py: str | None) -> None:
    assert Worktree.create(repo, folder, BRANCH, train_py=train_py).head() == git(repo, "rev-parse", "HEAD")


def test_the_branchs_commit_is_found_however_git_keeps_it(repo: Path, folder: Path) -> None:
    """In a file of its own, packed with all others, packed and newer in a file, as a link, and asked from a linked worktree."""
    worktree = Worktree.create(repo, folder, BRANCH, train_py=BETTER)
    linked = replace(worktree, repo=folder)
    for change in ((), ("pack-refs", "--all"), ("update-ref", f"refs/heads/{BRANCH}", "HEAD"),
                   ("symbolic-ref", f"refs/heads/{BRANCH}", "refs/heads/main")):  # fmt: skip
        if change:
            git(repo, *change)
        assert worktree.head() == linked.head() == git(repo, "rev-parse", f"refs/heads/{BRANCH}")
    assert worktree.head() == git(repo, "rev-parse", "main")
    git(repo, "symbolic-ref", "--delete", f"refs/heads/{BRANCH}")
    with pytest.raises(UserError, match=f"{BRANCH} is gone"):
        worktree.head()


def test_a_tag_is_started_once(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH, train_py=BETTER)
    worktree.advance(propose(worktree, TRAIN_PY))
    with pytest.raises(UserError, match=f"{BRANCH} already exists"):
        Worktree.create(repo, folder, BRANCH, train_py=BETTER)


@pytest.mark.parametrize("tag", ["", "-x", "a/b", "a b", "a..b", "a.lock", "x.", ".x", "ü", "a\nb", "a;b", "@{1}"])
def test_a_bad_tag_is_refused(repo: Path, folder: Path, tag: str) -> None:
    with pytest.raises(UserError, match="valid tag"):
        Worktree.create(repo, folder, f"autoresearch/{tag}")


def test_a_branch_that_is_checked_out_elsewhere_is_named(repo: Path, folder: Path) -> None:
    git(repo, "switch", "-q", "-c", BRANCH)
    for start in (Worktree.create, Worktree.open):
        with pytest.raises(UserError, match=f"is checked out in {repo}"):
            start(repo, folder, BRANCH)


def test_what_cannot_be_started_says_why(repo: Path, folder: Path, tmp_path: Path) -> None:
    make_repository(tmp_path / "plain", {"a.txt": "a"})
    with pytest.raises(UserError, match=r"train\.py isn't committed"):
        Worktree.create(tmp_path / "plain", folder, BRANCH)
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(UserError, match="no commit HEAD"):
        Worktree.create(tmp_path / "empty", folder, BRANCH)
    with pytest.raises(UserError, match="no branch"):
        Worktree.open(repo, folder, BRANCH)
    git(repo, "branch", "autoresearch")
    with pytest.raises(UserError, match="branch 'autoresearch'"):
        Worktree.create(repo, folder, BRANCH)


# candidates, keeps


def test_a_candidate_changes_train_py_alone_and_checks_nothing_out(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    before = worktree.head()
    commit = propose(worktree)
    assert worktree.head() == before
    assert (folder / "research/train.py").read_text() == TRAIN_PY
    assert changed_files(repo, before, commit) == ["research/train.py"]
    assert worktree.train_py(commit) == BETTER
    assert experiments(repo) == {"e1": commit}
    assert git(repo, "log", "-1", "--format=%s|%an|%ae", commit) == "an idea|autoresearch farm|farm@localhost"


def test_the_users_identity_is_taken_where_there_is_one(repo: Path, folder: Path) -> None:
    git(repo, "config", "user.name", "Ada L")
    git(repo, "config", "user.email", "ada@example.org")
    assert git(repo, "log", "-1", "--format=%an <%ae>", propose(Worktree.create(repo, folder, BRANCH))) == (
        "Ada L <ada@example.org>"
    )


@pytest.mark.parametrize("text", ["", "no line end", "a\r\nb\r\n", "data 3\nfrom x\n", "ü = 'ü'\n", "done\n"])
def test_any_text_is_committed_to_the_byte(repo: Path, folder: Path, text: str) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    commit = worktree.commit(text, message="from x\n\0done\nü", parent=worktree.head(), experiment_id="e1")
    assert worktree.train_py(commit) == text
    assert git(repo, "log", "-1", "--format=%B", commit) == "from x\ndone\nü"


def test_the_same_experiment_is_committed_once(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    commit = propose(worktree)
    time.sleep(1.1)  # another second, another commit
    assert propose(worktree) == commit
    with pytest.raises(UserError, match="experiment id"):
        propose(worktree, experiment_id="../heads/main")


def test_a_commit_that_was_never_recorded_is_moved_to_another_ref(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    left = propose(worktree)
    commit = propose(worktree, TRAIN_PY + "# other\n")
    assert experiments(repo) == {"e1": commit} and commit != left
    assert git(repo, "rev-parse", f"refs/unrecorded/{left}") == left
    assert propose(worktree, TRAIN_PY + "# other\n") == commit


def test_a_keep_moves_branch_and_files_and_leaves_untracked_ones(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    (folder / "results.tsv").write_text("commit\n")
    commit = propose(worktree)
    worktree.advance(commit)
    worktree.advance(commit)
    assert worktree.head() == commit == git(folder, "rev-parse", "HEAD")
    assert (folder / "research/train.py").read_text() == BETTER
    assert git(folder, "status", "--porcelain") == "?? results.tsv"


def test_an_interrupted_keep_is_completed(repo: Path, folder: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    commit = propose(worktree)
    git(repo, "update-ref", f"refs/heads/{BRANCH}", commit)
    worktree.advance(commit)
    assert (folder / "research/train.py").read_text() == BETTER
    assert git(folder, "status", "--porcelain") == ""


def test_an_interrupted_start_is_completed(repo: Path, folder: Path) -> None:
    head = Worktree.create(repo, folder, BRANCH, train_py=BETTER).head()
    git(repo, "worktree", "remove", "--force", str(folder))
    assert Worktree.create(repo, folder, BRANCH, train_py=BETTER).head() == head
    assert Worktree.create(repo, folder, BRANCH, train_py=BETTER).head() == head


# unusual repositories


def test_failing_hooks_and_line_end_conversion_do_no_harm(repo: Path, folder: Path) -> None:
    for hook in ("post-checkout", "reference-transaction", "pre-commit", "post-index-change"):
        path = repo / ".git/hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    git(repo, "config", "core.autocrlf", "true")
    git(repo, "config", "core.fsmonitor", "/bin/false")
    git(repo, "config", "commit.gpgsign", "true")
    worktree = Worktree.create(repo, folder, BRANCH)
    assert b"\r\n" in (folder / "research/train.py").read_bytes()
    commit = propose(worktree)
    worktree.advance(commit)
    assert worktree.train_py(commit) == BETTER
    assert uncommitted_train_py(folder) is None


def test_a_detached_head_can_be_started_from(repo: Path, folder: Path) -> None:
    git(repo, "checkout", "-q", "--detach")
    worktree = Worktree.create(repo, folder, BRANCH)
    worktree.advance(propose(worktree))
    assert checked_out_branch(repo) is None and branch_exists(repo, BRANCH)


# by hand, in the user's own checkout


@pytest.fixture
def by_hand(repo: Path) -> Worktree:
    git(repo, "switch", "-q", "-c", BRANCH)
    (repo / "README.md").write_text("my own edit\n")
    (repo / "research/other.py").write_text("x = 2\n")
    git(repo, "add", "research/other.py")
    (repo / "notes.txt").write_text("untracked\n")
    return Worktree.in_place(repo, BRANCH)


OTHER_EDITS = " M README.md\nM  research/other.py\n?? notes.txt"


def status(repo: Path) -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=repo, capture_output=True, text=True).stdout.rstrip()


def test_a_keep_by_hand_leaves_all_other_edits(by_hand: Worktree) -> None:
    (by_hand.repo / "research/train.py").write_text(BETTER)
    commit = propose(by_hand)
    by_hand.advance(commit)
    by_hand.advance(commit)
    assert git(by_hand.repo, "rev-parse", "HEAD") == commit
    assert status(by_hand.repo) == OTHER_EDITS
    assert changed_files(by_hand.repo, f"{commit}^", commit) == ["research/train.py"]


def test_a_keep_by_hand_leaves_an_edit_that_was_made_since(by_hand: Worktree) -> None:
    commit = propose(by_hand)
    (by_hand.repo / "research/train.py").write_text("next = 1\n")
    by_hand.advance(commit)
    assert (by_hand.repo / "research/train.py").read_text() == "next = 1\n"
    assert status(by_hand.repo) == " M README.md\nM  research/other.py\n M research/train.py\n?? notes.txt"


def test_a_discard_by_hand_undoes_train_py_alone(by_hand: Worktree) -> None:
    (by_hand.repo / "research/train.py").write_text(BETTER)
    git(by_hand.repo, "add", "research/train.py")
    assert not by_hand.restore(by_hand.head(), tried=TRAIN_PY + "# what was tried\n")
    assert (by_hand.repo / "research/train.py").read_text() == BETTER
    assert by_hand.restore(by_hand.head(), tried=BETTER)
    assert (by_hand.repo / "research/train.py").read_text() == TRAIN_PY
    assert status(by_hand.repo) == OTHER_EDITS


def test_a_branch_by_hand_loses_no_commit_that_was_made_on_it(by_hand: Worktree) -> None:
    """The command in the error turns it into an edit, and the branch can advance."""
    commit = propose(by_hand)
    (by_hand.repo / "research/train.py").write_text("mine = 1\n")
    git(by_hand.repo, "-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "mine", "research/train.py")
    mine = by_hand.head()
    with pytest.raises(UserError, match="1 commit made by hand") as error:
        by_hand.advance(commit)
    assert by_hand.head() == mine
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    by_hand.advance(commit)
    assert by_hand.head() == commit
    assert (by_hand.repo / "research/train.py").read_text() == "mine = 1\n"


def test_by_hand_needs_the_branch_to_be_checked_out(repo: Path) -> None:
    with pytest.raises(UserError, match=f"no branch {BRANCH}"):
        Worktree.in_place(repo, BRANCH)
    git(repo, "branch", BRANCH)
    with pytest.raises(UserError, match=f"git switch {BRANCH}"):
        Worktree.in_place(repo, BRANCH)


def test_a_lock_held_for_a_moment_is_waited_for(by_hand: Worktree) -> None:
    lock = by_hand.repo / ".git/index.lock"
    lock.touch()
    subprocess.Popen(["sh", "-c", 'sleep 0.3; rm "$0"', str(lock)])
    assert by_hand.restore(by_hand.head())


# many at once


def research_loop(repo: Path, home: Path, loop: int, count: int) -> None:
    branch = f"autoresearch/stress-gpu{loop}"
    worktree = Worktree.create(repo, worktree_folder(home, branch), branch)
    for number in range(count):
        text = TRAIN_PY + f"# {loop} {number}\n"
        commit = worktree.commit(text, message=f"{loop}.{number}", parent=worktree.head(), experiment_id=f"{loop}-{number}")
        if number % 4 == 0:
            worktree.advance(commit)


def test_eight_loops_commit_at_once(repo: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    loops = [multiprocessing.Process(target=research_loop, args=(repo, tmp_path / "home", loop, 20)) for loop in range(8)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert [loop.exitcode for loop in loops] == [0] * 8
    assert len(experiments(repo)) == 160
    git(repo, "fsck", "--strict")
    for loop in range(8):
        assert git(repo, "rev-list", "--count", f"main..autoresearch/stress-gpu{loop}") == "5"
    print(f"8 x 20 commits in {time.monotonic() - started:.1f} s on {os.cpu_count()} cores")


def test_git_is_quick_and_says_what_is_wrong(repo: Path, folder: Path, tmp_path: Path) -> None:
    worktree = Worktree.create(repo, folder, BRANCH)
    parent = worktree.head()
    started = time.monotonic()
    for number in range(20):
        worktree.commit(BETTER, message="idea", parent=parent, experiment_id=f"e{number}")
    each = (time.monotonic() - started) / 20
    print(f"a candidate commit takes {each * 1e3:.1f} ms")
    assert each < 0.1
    with pytest.raises(GitFailed, match="ambiguous argument"):
        run_git(repo, "rev-parse", "nothing")
    with pytest.raises(GitFailed, match="no folder"):
        run_git(tmp_path / "none", "status")
