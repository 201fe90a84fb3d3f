"""Git in environments that would turn it to another repository, and where it can't do its work."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.rebase import merge_texts
from agent.repo import git_command
from agent.repo.git_command import GitFailed, run_git, variables_to_drop
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from research.errors import UserError
from tests.agent.repo.git_samples import BETTER, BRANCH, FILES, git

ROOT = Path(__file__).parents[3]

ABOUT_ONE_CALL = ("GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0", "GIT_NAMESPACE", "GIT_QUARANTINE_PATH", "GIT_ICASE_PATHSPECS",
                  "GIT_COMMITTER_DATE", "GIT_ATTR_SOURCE", "GIT_DEFAULT_HASH", "GIT_TRACE")  # fmt: skip
"""Variables that git doesn't list as local to a repository, and that change what a command does or prints all the same."""


def local_variables() -> list[str]:
    return subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True).stdout.split()


def test_no_variable_about_a_repository_reaches_git() -> None:
    names = [*local_variables(), *ABOUT_ONE_CALL]
    assert "GIT_DIR" in names
    assert variables_to_drop([*names, "GIT_COMMITTER_NAME", "GIT_CONFIG_GLOBAL", "HOME", "PATH"]) == sorted(names)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Somebody's checkout with edits, which must be the same at the end."""
    folder = tmp_path / "foreign"
    make_repository(folder, FILES)
    (folder / "README.md").write_text("staged\n")
    git(folder, "add", "README.md")
    (folder / "research/train.py").write_text("an edit that is nowhere else\n")
    asked = (("rev-parse", "HEAD"), ("symbolic-ref", "HEAD"), ("for-each-ref",), ("status", "--porcelain"), ("diff", "HEAD"))
    before, names = [git(folder, *question) for question in asked], local_variables()
    yield folder
    with monkeypatch.context() as context:
        for name in names:
            context.delenv(name, raising=False)
        assert [git(folder, *question) for question in asked] == before
    assert (folder / "research/train.py").read_text() == "an edit that is nowhere else\n"


def work_on_a_branch(repo: Path, folder: Path) -> None:
    """All that a loop does with git: start, commit, keep, restore, merge."""
    worktree = Worktree.create(repo, folder, BRANCH)
    worktree.advance(worktree.commit(BETTER, message="idea", parent=worktree.head(), experiment_id="e1"))
    worktree.restore(worktree.head())
    assert (folder / "research/train.py").read_text() == BETTER
    assert merge_texts("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n") == "A\nb\nC\n"


def test_git_variables_lead_to_no_other_repository(
    repo: Path, folder: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in local_variables():
        monkeypatch.setenv(name, "/nowhere" if name != "GIT_CONFIG_COUNT" else "1")
    monkeypatch.setenv("GIT_DIR", str(foreign / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(foreign))
    monkeypatch.setenv("GIT_INDEX_FILE", str(foreign / ".git/index"))
    work_on_a_branch(repo, folder)


WORK = (
    "from pathlib import Path; from tests.agent.repo.test_git_command import work_on_a_branch as w; w(Path({!r}), Path({!r}))"
)


@pytest.mark.parametrize("way", ["alias", "rebase"])
def test_git_may_start_the_farm(repo: Path, folder: Path, foreign: Path, tmp_path: Path, way: str) -> None:
    script = tmp_path / "work.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + WORK.format(str(repo), str(folder)))
    command = f"{sys.executable} {script}"
    if way == "alias":
        git(foreign, "-c", f"alias.farm=!{command}", "farm")
        return
    clean = tmp_path / "rebased"
    make_repository(clean, FILES)
    (clean / "README.md").write_text("two\n")
    user = ("-c", "user.name=T", "-c", "user.email=t@localhost")
    git(clean, *user, "commit", "--quiet", "--all", "--message", "two")
    git(clean, *user, "rebase", "--quiet", "--exec", command, "HEAD~1")
    assert git(clean, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def one_line_of(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_lock_that_stays_is_named(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_command, "_LOCK_PAUSE_S", 0.0)
    git(repo, "switch", "-q", "-c", BRANCH)
    lock = repo / ".git/index.lock"
    lock.touch()
    with pytest.raises(UserError) as error:
        Worktree.in_place(repo, BRANCH).restore("HEAD")
    assert f"remove {lock}" in one_line_of(error) and lock.exists()


def test_a_machine_without_git_says_so(repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (lambda: run_git(repo, "status"), lambda: merge_texts("a", "b", "c")):
        with pytest.raises(UserError, match="install it") as error:
            ask()
        assert "git was not found" in one_line_of(error)


def test_what_git_says_is_one_line_that_a_user_can_read(repo: Path) -> None:
    with pytest.raises(GitFailed) as error:
        run_git(repo, "checkout", "no-such-branch", "--", "no-such-file")
    assert "no-such" in one_line_of(error) and isinstance(error.value, UserError)


def test_a_full_disk_is_called_one() -> None:
    said = "error: file write error: No space left on device\nfatal: unable to write loose object file"
    assert "make room" in git_command._cure(said, Path("/x"))
    assert git_command._cure("fatal: bad revision", Path("/x")) == ""
    assert "\n" not in str(GitFailed(said, cure="make room"))
