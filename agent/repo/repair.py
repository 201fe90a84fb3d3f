"""Repair of what a killed git or farm leaves behind: stale locks, and worktree folders that are incomplete or copied."""

import glob
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from agent.repo.branch_names import EXPERIMENT_REFS, branch_ref, experiment_ref
from agent.repo.git_command import GitFailed, run_git
from agent.repo.repository import TRAIN_FILE

STALE_LOCK_S = 3.0
"""Git holds the locks that the farm may remove only for milliseconds: one this old belongs to a dead process."""


def common_folder(repo: Path) -> Path:
    """The .git folder that all worktrees of a repository share. Raises GitFailed."""
    own = repo / ".git"
    if own.is_dir() and (own / "HEAD").is_file() and not (own / "commondir").exists():  # a process of git takes milliseconds
        return own.resolve()
    return Path(run_git(repo, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip("\n"))


def is_any_head_at(repo: Path, branch: str) -> bool:
    """Whether a checkout or worktree of the repository is on a branch, as their HEAD files have it."""
    common = common_folder(repo)
    on = f"ref: {branch_ref(branch)}"
    return any(head.read_text(errors="replace").strip() == on for head in (common / "HEAD", *common.glob("worktrees/*/HEAD")))


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
        run_git(repo, "worktree", "add", "--quiet", "--force", str(folder), branch)
    else:
        run_git(folder, "symbolic-ref", "HEAD", branch_ref(branch))
        run_git(folder, "reset", "--quiet", "--hard")
    if aside.exists():
        _move_missing(aside, folder)
        shutil.rmtree(aside)


def restore_experiments(repo: Path, commits: Mapping[str, str]) -> list[str]:
    """Makes the refs of these experiments (id -> commit) again that somebody has deleted, as far as git still has the commits.

    Returns the ids of the experiments whose refs were made.
    """
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
    locks = [common / f"{branch_ref(branch)}.lock", *common.glob(f"{EXPERIMENT_REFS}/*.lock")]
    for admin_folder in _admin_folders(repo, folder):
        locks += admin_folder.glob("*.lock")
    for lock in locks:
        _remove_when_stale(lock)


def _admin_folders(repo: Path, folder: Path) -> list[Path]:
    """The folders in `.git/worktrees` that git keeps about this worktree: usually one, none if git doesn't know it."""
    named_by_git = glob.escape(folder.name)  # git appends a digit where there is another of that name
    links = common_folder(repo).glob(f"worktrees/{named_by_git}*/gitdir")
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
