"""A farm's branches and experiments as one file (a git bundle), and how they come into another repository."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from agent.repo.branch_names import BRANCH_REFS, EXPERIMENT_REFS, arrival_folder, branch_of_ref, branch_ref
from agent.repo.git_command import GitFailed, run_git
from agent.repo.worktree import checked_out_branches
from research.errors import UserError

FOLDERS = (BRANCH_REFS, EXPERIMENT_REFS)
"""The folders of refs that the farm writes in a repository."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a bundle brought into a repository."""

    branches: tuple[str, ...]
    """Branches that are new or moved, without `refs/heads/`."""
    experiments: int
    """Experiments that weren't there."""
    aside: tuple[tuple[str, str, str], ...]
    """(name, the name that it got instead, why), without `refs/heads/`: what would have overwritten something."""


def write_bundle(repo: Path, path: Path) -> bool:
    """Writes all branches and experiments of a repository; False, and no file, where it has none.

    Raises UserError, for instance for a shallow clone, whose bundle nobody could read.
    """
    if not _refs(repo, *FOLDERS):
        return False
    if run_git(repo, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise UserError(f"{repo} is a shallow clone, which can't be passed on: run `git fetch --unshallow` in it.")
    run_git(repo, "bundle", "create", "--quiet", str(path.absolute()), *(f"--glob={folder}/*" for folder in FOLDERS))
    return True


def take_bundle(repo: Path, path: Path) -> Taken:
    """Brings a bundle's branches and experiments into a repository, and overwrites nothing.

    A branch moves only forward, and only where it isn't checked out; what can't take its name is called `<name>-fetched`.
    All names appear at once or, with a UserError, none.
    """
    arrival = arrival_folder(uuid.uuid4().hex)
    refspecs = [f"{folder}/*:{arrival}/{folder.removeprefix('refs/')}/*" for folder in FOLDERS]
    quietly = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules")
    try:
        run_git(repo, "fetch", *quietly, str(path.absolute()), *refspecs)
        return _name(repo, arrival)
    except GitFailed as error:
        raise UserError(f"{repo} doesn't take the branches: {str(error).splitlines()[-1]}") from None
    finally:
        leftover = "".join(f"delete {ref}\n" for ref in _refs(repo, arrival))
        run_git(repo, "update-ref", "--stdin", stdin=leftover)


def _name(repo: Path, arrival: str) -> Taken:
    """Gives what arrived its names, in one transaction."""
    there = _refs(repo, *FOLDERS)
    checked_out = {branch_ref(branch) for branch in checked_out_branches(repo)}
    commands, moved, aside = [], [], []
    for temporary, commit in _refs(repo, arrival).items():
        wanted = "refs/" + temporary.removeprefix(f"{arrival}/")
        ref, why = wanted, ""
        number = 1
        while (problem := _in_the_way(repo, ref, commit, there, checked_out)) is not None:
            why = why or problem
            ref = f"{wanted}-fetched" if number == 1 else f"{wanted}-fetched-{number}"
            number += 1
        old = there.get(ref)
        if old is None or not _is_ancestor(repo, commit, old):
            commands.append(f"update {ref} {commit} {old or '0' * len(commit)}\n")
            moved.append(ref)
        if ref != wanted:
            aside.append((branch_of_ref(wanted), branch_of_ref(ref), why))
    run_git(repo, "update-ref", "-m", "farm fetch", "--stdin", stdin="".join(commands))
    branches = tuple(branch_of_ref(ref) for ref in moved if ref.startswith("refs/heads/"))
    return Taken(branches=branches, experiments=len(moved) - len(branches), aside=tuple(aside))


def _in_the_way(repo: Path, ref: str, commit: str, there: dict[str, str], checked_out: set[str]) -> str | None:
    """Why a ref can't be moved to a commit; None where it can, or holds it already."""
    old = there.get(ref)
    if old is None or _is_ancestor(repo, commit, old):
        return None
    if not _is_ancestor(repo, old, commit):
        return "it has other commits here"
    return "it is checked out here" if ref in checked_out else None


def _is_ancestor(repo: Path, older: str, newer: str) -> bool:
    if older == newer:
        return True
    try:
        run_git(repo, "merge-base", "--is-ancestor", older, newer)
    except GitFailed:
        return False
    return True


def _refs(repo: Path, *folders: str) -> dict[str, str]:
    """Ref -> commit, of everything below some folders of refs."""
    lines = run_git(repo, "for-each-ref", "--format=%(refname) %(objectname)", *folders).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)
