"""Removes what a tag leaves in a git repository: the farm's own worktrees, and refs once they are in a bundle."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from agent.repo.branch_names import BRANCH_REFS, EXPERIMENT_REFS, branch_ref, experiment_ref
from agent.repo.git_command import GitFailed, run_git
from research.errors import UserError
from research.files import remove_tree

OWN_FILES = ("results.tsv", "progress.png", "run.log", "__pycache__/")
"""The files, by how their paths end, that loops leave in a worktree and git ignores."""


def files_of_a_person(folder: Path) -> list[str]:
    """What a worktree holds that is neither committed nor a loop's: edits, new files, files that git ignores.

    A folder that git doesn't know holds all that is in it but a loop's files.
    """
    if not (folder / ".git").exists():  # git would answer for the checkout around it
        return sorted(path.name for path in folder.iterdir() if f"{path.name}/" not in OWN_FILES and path.name not in OWN_FILES)
    try:
        told = run_git(folder, "status", "--porcelain", "--ignored", "-z").split("\0")
    except GitFailed:
        return sorted(path.name for path in folder.iterdir())
    return [line[3:] for line in told if line and not (line.startswith("!! ") and line.endswith(OWN_FILES))]


def remove_worktree(repo: Path | None, folder: Path) -> None:
    """Removes a worktree; also one whose repository is gone."""
    if repo is not None:
        with suppress(GitFailed):  # git may have forgotten the folder
            run_git(repo, "worktree", "remove", "--force", str(folder))
    if folder.exists():
        remove_tree(folder)


def refs_of(repo: Path, branches: Iterable[str], experiments: Iterable[str]) -> list[str]:
    """The refs of these branches and experiments that a repository has."""
    wanted = {*map(branch_ref, branches), *map(experiment_ref, experiments)}
    return [ref for ref in run_git(repo, "for-each-ref", "--format=%(refname)", BRANCH_REFS, EXPERIMENT_REFS).split()
            if ref in wanted]  # fmt: skip


def keep_in_bundle(repo: Path, refs: Collection[str], path: Path) -> None:
    """Writes refs with their commits into a file, from which `git fetch` takes them. Raises UserError for a shallow clone."""
    if run_git(repo, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise UserError(f"{repo} is a shallow clone, which can't be bundled: run `git fetch --unshallow` in it.")
    run_git(repo, "bundle", "create", "--quiet", str(path.absolute()), "--stdin", stdin="".join(f"{ref}\n" for ref in refs))


def delete_refs(repo: Path, refs: Collection[str]) -> None:
    """Deletes refs, all or none."""
    run_git(repo, "update-ref", "--stdin", stdin="".join(f"delete {ref}\n" for ref in refs))
