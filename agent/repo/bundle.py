"""Branches and experiments as one file (a git bundle): written from one repository, taken into another."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from agent.repo.branch_log import is_ancestor
from agent.repo.branch_names import BRANCH_REFS, EXPERIMENT_REFS, arrival_folder, branch_of_ref, branch_ref
from agent.repo.git_command import GitFailed, run_git
from agent.repo.worktree import checked_out_branches
from research.errors import UserError

FOLDERS = (BRANCH_REFS, EXPERIMENT_REFS)
"""The folders of refs that the farm writes in a repository."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The branches and experiments that a bundle added to a repository."""

    branches: tuple[str, ...]
    """Names of branches that are new or moved."""
    experiments: int
    """The number of new experiments."""
    aside: tuple[tuple[str, str, str], ...]
    """(name, the name it got instead, why) of each branch or ref that would have overwritten something."""


def write_bundle(repo: Path, path: Path, *, since: str | None = None) -> bool:
    """Writes all branches and experiments of a repository. Returns False, and writes no file, if it has none.

    Leaves out the commits that `since` has: only a repository that has them can take the bundle then. Raises UserError for a
    shallow clone, whose bundle can't be read, and if `since` is no commit or has the whole of a branch.
    """
    refs = _refs(repo, *FOLDERS)
    if not refs:
        return False
    if run_git(repo, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise UserError(f"{repo} is a shallow clone, which can't be bundled: run `git fetch --unshallow` in it.")
    left_out = [] if since is None else [f"^{_commit(repo, since)}"]
    for ref, commit in refs.items() if left_out else ():
        if is_ancestor(repo, commit, left_out[0][1:]):
            raise UserError(f"{since} has all commits of {branch_of_ref(ref)}: name an earlier one, such as {commit[:12]}~1.")
    globs = (f"--glob={folder}/*" for folder in FOLDERS)
    run_git(repo, "bundle", "create", "--quiet", str(path.absolute()), *globs, *left_out)
    return True


def _commit(repo: Path, name: str) -> str:
    """The commit of that name. Raises UserError."""
    try:
        return run_git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except GitFailed:
        raise UserError(f"{name!r} is no commit of {repo}: name one that the other clone has, such as main~1.") from None


def take_bundle(repo: Path, path: Path) -> Taken:
    """Adds a bundle's branches and experiments to a repository, and overwrites nothing.

    A branch moves only forward, and only if it isn't checked out; a ref whose name is taken becomes `<name>-fetched`.
    All refs change in one transaction. If it raises UserError, none has changed.
    """
    arrival = arrival_folder(uuid.uuid4().hex)
    refspecs = [f"{folder}/*:{arrival}/{folder.removeprefix('refs/')}/*" for folder in FOLDERS]
    quietly = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules")
    try:
        run_git(repo, "fetch", *quietly, str(path.absolute()), *refspecs)
        return _rename(repo, arrival)
    except GitFailed as error:
        if "prerequisite" in error.said:
            raise UserError(
                f"{repo} lacks commits that were left out of {path.name}: fetch the project's history first."
            ) from None
        raise UserError(f"git can't add the branches to {repo}: {error.said.splitlines()[-1]}") from None
    finally:
        leftover = "".join(f"delete {ref}\n" for ref in _refs(repo, arrival))
        run_git(repo, "update-ref", "--stdin", stdin=leftover)


def _rename(repo: Path, arrival: str) -> Taken:
    """Gives the refs that arrived their final names, in one transaction."""
    there = _refs(repo, *FOLDERS)
    checked_out = {branch_ref(branch) for branch in checked_out_branches(repo)}
    commands, moved, aside = [], [], []
    for temporary, commit in _refs(repo, arrival).items():
        wanted = "refs/" + temporary.removeprefix(f"{arrival}/")
        ref, why = wanted, ""
        number = 1
        while (problem := _obstacle(repo, ref, commit, there, checked_out)) is not None:
            why = why or problem
            ref = f"{wanted}-fetched" if number == 1 else f"{wanted}-fetched-{number}"
            number += 1
        old = there.get(ref)
        if old is None or not is_ancestor(repo, commit, old):
            commands.append(f"update {ref} {commit} {old or '0' * len(commit)}\n")
            moved.append(ref)
        if ref != wanted:
            aside.append((branch_of_ref(wanted), branch_of_ref(ref), why))
    run_git(repo, "update-ref", "-m", "farm fetch", "--stdin", stdin="".join(commands))
    branches = tuple(branch_of_ref(ref) for ref in moved if ref.startswith("refs/heads/"))
    return Taken(branches=branches, experiments=len(moved) - len(branches), aside=tuple(aside))


def _obstacle(repo: Path, ref: str, commit: str, there: dict[str, str], checked_out: set[str]) -> str | None:
    """The reason why a ref can't move to a commit; None if it can, or already contains it."""
    old = there.get(ref)
    if old is None or is_ancestor(repo, commit, old):
        return None
    if not is_ancestor(repo, old, commit):
        return "it has other commits here"
    return "it is checked out here" if ref in checked_out else None


def _refs(repo: Path, *folders: str) -> dict[str, str]:
    """Ref -> commit, for all refs in these folders of refs."""
    lines = run_git(repo, "for-each-ref", "--format=%(refname) %(objectname)", *folders).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)
