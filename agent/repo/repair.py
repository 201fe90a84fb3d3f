"""Repair of what a killed git or farm leaves behind: stale locks, and worktree folders that are incomplete or copied."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from agent.repo.branch_names import EXPERIMENT_REFS, branch_ref, experiment_ref
from agent.repo.git_command import GitFailed, run_git
from agent.repo.ref_files import git_folder, linked_folder
from agent.repo.repository import TRAIN_FILE

STALE_LOCK_S = 3.0
"""Git holds the locks that the farm may remove only for milliseconds: one this old belongs to a dead process."""


def common_folder(repo: Path) -> Path:
    """The .git folder that all worktrees of a repository share. Raises GitFailed."""
    if (own := git_folder(repo)) is not None:
        return own.resolve()
    return Path(run_git(repo, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip("\n"))


def is_any_head_at(repo: Path, branch: str, *, but_for: Path) -> bool:
    """Whether a checkout or worktree of the repository is on a branch, as their HEAD files have it; not that in `but_for`."""
    common = common_folder(repo)
    worktrees = (common / "worktrees").resolve()
    own = linked_folder(but_for)
    left_out = own.name if own is not None and own.parent.resolve() == worktrees else None
    folders = (common, *(worktrees / name for name in _names_in(worktrees) if name != left_out))
    return any(_is_on(folder, branch) for folder in folders)


def _is_on(git_folder: Path, branch: str) -> bool:
    """Whether the checkout whose HEAD is in this folder is on a branch."""
    return _is_text(git_folder / "HEAD", f"ref: {branch_ref(branch)}")


def _is_text(file: Path, text: str) -> bool:
    """Whether a file holds this text and at most a line's end; it is read only where its size fits, since there are many."""
    try:
        return file.stat().st_size - len(text) in (0, 1, 2) and file.read_text(errors="replace").strip() == text
    except FileNotFoundError:
        return False


def _names_in(folder: Path) -> list[str]:
    """The names of what is in a folder; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def same_repository(folder: Path, repo: Path) -> bool:
    """Whether a worktree belongs to `repo`; True if git can't tell. A copied repository lists the original's worktrees."""
    try:
        common = common_folder(folder)
    except GitFailed:
        return True
    return common.resolve() == common_folder(repo).resolve()


def is_sound(repo: Path, folder: Path) -> bool:
    """Whether the folder is a complete worktree of this repository.

    A folder without .git would pass for a part of the checkout around it; in a copied home .git points to the original's
    repository.
    """
    if not (folder / ".git").exists():
        return False
    try:
        top = run_git(folder, "rev-parse", "--show-toplevel").rstrip("\n")
        if not same_repository(folder, repo):
            return False
        run_git(folder, "ls-files", "--", TRAIN_FILE)  # reads the index
    except GitFailed:
        return False
    interrupted = any((admin_folder / "locked").exists() for admin_folder in _admin_folders(repo, folder))
    return Path(top).resolve() == folder.resolve() and not interrupted


def is_begun(folder: Path) -> bool:
    """Whether a worktree's folder is there, or what an interrupted repair has moved aside of it."""
    return folder.exists() or _aside(folder).exists()


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".broken")


def check_out(repo: Path, folder: Path, branch: str) -> None:
    """Brings a worktree folder to the branch's commit, whatever state it is in. Files that git doesn't track stay."""
    aside = _aside(folder)
    if not is_sound(repo, folder):
        if folder.exists() and not aside.exists():
            folder.rename(aside)
        shutil.rmtree(folder, ignore_errors=True)
        for admin_folder in _admin_folders(repo, folder):
            shutil.rmtree(admin_folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _add_worktree(repo, folder, branch)
    else:
        if (linked := linked_folder(folder)) is None or not _is_on(linked, branch):
            run_git(folder, "symbolic-ref", "HEAD", branch_ref(branch))
        run_git(folder, "reset", "--quiet", "--hard")
    if aside.exists():
        _move_missing(aside, folder)
        shutil.rmtree(aside)


def _add_worktree(repo: Path, folder: Path, branch: str) -> None:
    """Checks a branch out in a new folder, as `git worktree add --force` does.

    Git reads what it keeps of all other worktrees for that, which takes a farm of a thousand loops minutes. So the files that
    gitrepository-layout(5) describes are written here, and git checks out; `locked` says meanwhile that it is not complete.
    Where the repository is not laid out in the plain way, git does all of it.
    """
    common = common_folder(repo)
    is_plain = common == (repo / ".git").resolve() and (common / "refs" / "heads").is_dir()
    if not is_plain or (common / "config.worktree").exists() or (common / "info" / "sparse-checkout").exists():
        run_git(repo, "worktree", "add", "--quiet", "--force", str(folder), branch)
        return
    (common / "worktrees").mkdir(exist_ok=True)
    admin_folder = _new_admin_folder(common / "worktrees" / folder.name)
    (admin_folder / "gitdir").write_text(f"{folder / '.git'}\n")  # first: by this a repair knows whose it is
    (admin_folder / "locked").write_text("initializing\n")
    (admin_folder / "commondir").write_text("../..\n")
    (admin_folder / "HEAD").write_text(f"ref: {branch_ref(branch)}\n")
    folder.mkdir()
    (folder / ".git").write_text(f"gitdir: {admin_folder}\n")
    run_git(folder, "reset", "--quiet", "--hard")
    (admin_folder / "locked").unlink()


def _new_admin_folder(wanted: Path) -> Path:
    """A new folder by this name, or with a number behind it where another worktree has it. An empty one has no worktree."""
    for number in count():
        folder = wanted.with_name(f"{wanted.name}{number or ''}")
        with contextlib.suppress(OSError):
            folder.rmdir()
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def restore_experiments(repo: Path, commits: Mapping[str, str]) -> list[str]:
    """Makes the refs of these experiments (id -> commit) again that somebody has deleted, as far as git still has the commits.

    Returns the ids of the experiments whose refs were made.
    """
    if not commits:
        return []
    there = set(run_git(repo, "for-each-ref", "--format=%(refname)", EXPERIMENT_REFS).split())
    missing = {id: commit for id, commit in commits.items() if experiment_ref(id) not in there}
    if not missing:
        return []
    asked = "".join(f"{commit}^{{commit}}\n" for commit in missing.values())
    answers = run_git(repo, "cat-file", "--batch-check=%(objecttype)", stdin=asked).splitlines()
    found = [(id, commit) for (id, commit), kind in zip(missing.items(), answers, strict=True) if kind == "commit"]
    commands = "".join(f"create {experiment_ref(id)} {commit}\n" for id, commit in found)
    try:
        run_git(repo, "update-ref", "--stdin", stdin=commands)
    except GitFailed:  # another git holds one of them now: the next start tries again
        return []
    return [id for id, _ in found]


def remove_stale_locks(repo: Path, folder: Path, branch: str) -> None:
    """Removes the locks that a killed git left on files that only the farm writes."""
    common = common_folder(repo)
    experiments = common / EXPERIMENT_REFS
    locks = [common / f"{branch_ref(branch)}.lock"]
    locks += [experiments / name for name in _names_in(experiments) if name.endswith(".lock")]
    for admin_folder in _admin_folders(repo, folder):
        locks += admin_folder.glob("*.lock")
    for lock in locks:
        _remove_when_stale(lock)


def _admin_folders(repo: Path, folder: Path) -> list[Path]:
    """The folders in `.git/worktrees` that git keeps about this worktree: usually one, none if git doesn't know it."""
    named_by_git = re.compile(re.escape(folder.name) + "[0-9]*")  # git appends a number where there is another of that name
    worktrees = common_folder(repo) / "worktrees"
    named = [worktrees / name for name in _names_in(worktrees) if named_by_git.fullmatch(name)]
    links = [admin_folder / "gitdir" for admin_folder in named if (admin_folder / "gitdir").is_file()]
    git_files = {link.parent: link.parent / link.read_text().strip() for link in links}
    return [admin_folder for admin_folder, git_file in git_files.items() if git_file.parent.resolve() == folder.resolve()]


def _remove_when_stale(lock: Path) -> None:
    """Gives a live git time to finish, then removes what is still there."""
    deadline = time.monotonic() + STALE_LOCK_S
    while lock.exists() and time.monotonic() < deadline and time.time() - lock.stat().st_mtime < STALE_LOCK_S:
        time.sleep(0.05)
    lock.unlink(missing_ok=True)


def _move_missing(source: Path, target: Path) -> None:
    """Moves what `target` lacks: the untracked files of a broken worktree into the new one."""
    for entry in source.iterdir():
        if entry.name != ".git" and not (target / entry.name).exists():
            shutil.move(entry, target / entry.name)
