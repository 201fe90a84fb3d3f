"""Keeps what a person has put on a branch of the farm or into its folder, where the farm is about to move both elsewhere.

What would be lost gets a ref of its own, `refs/parked/<branch>/<commit>`: nothing is merged, and nothing is refused.
"""

from pathlib import Path

from agent.repo.branch_log import is_ancestor
from agent.repo.branch_names import EXPERIMENT_REFS, branch_ref, parked_ref
from agent.repo.git_command import GitFailed, run_git
from agent.repo.identity import as_the_farm
from agent.repo.repository import TRAIN_FILE
from research.remembered_texts import Remembered

OTHER_FILES = (":(top)", f":(top,exclude){TRAIN_FILE}")
"""All files but train.py, as git is told."""


def park_commits(repo: Path, branch: str, old: str, new: str) -> str | None:
    """The ref that now holds a branch's commit `old`, if `new` lacks something of it; None if nothing would be lost.

    Lost are commits that are neither in `new` nor experiments, and changes of other files than train.py, which a head that was
    put together from several ideas doesn't take over.
    """
    try:
        _require_nothing_lost(repo, old, new)
    except _WouldBeLost:
        return _park(repo, branch, old)
    return None


class _WouldBeLost(Exception):
    """A commit lacks something of another one."""


@Remembered
def _require_nothing_lost(repo: Path, old: str, new: str) -> None:
    """Raises _WouldBeLost if a branch that moves from one commit to another would lose something. All loops of a group ask
    about the same two when its head has moved.
    """
    missing = int(run_git(repo, "rev-list", "--count", old, f"^{new}", "--not", f"--glob={EXPERIMENT_REFS}/*"))
    if missing or _lost_files(repo, old, new):
        raise _WouldBeLost


def park_edits(repo: Path, folder: Path, branch: str) -> str | None:
    """The ref that now holds the uncommitted edits of files in a branch's folder; None if there are none."""
    if not (folder / ".git").exists():  # git would take the files around it
        return None
    try:
        edits = run_git(folder, *as_the_farm(), "stash", "create", f"edits in {folder}").strip()
    except GitFailed:  # the folder is no complete worktree, or the branch is gone
        return None
    if not edits or _tree(repo, edits) in (_tree(repo, f"{branch_ref(branch)}@{{1}}"), _tree(repo, branch_ref(branch))):
        return None  # a farm was killed after it had moved the branch, and before it had brought the files there
    return _park(repo, branch, edits)


def _tree(repo: Path, revision: str) -> str | None:
    try:
        return run_git(repo, "rev-parse", "--verify", "--quiet", f"{revision}^{{tree}}").strip()
    except GitFailed:
        return None


def _lost_files(repo: Path, old: str, new: str) -> set[str]:
    """The files other than train.py that were changed on the way to `old` and are otherwise in `new`."""
    differ = _differing(repo, old, new)
    if not differ:
        return set()
    own = new
    while is_ancestor(repo, old, own):  # it was merged into this one, whose other files are those of its first parent
        parents = run_git(repo, "rev-list", "--parents", "-1", own).split()[1:]
        if not parents:
            return set()
        own = parents[0]
    return differ & _differing(repo, run_git(repo, "merge-base", old, own).strip(), old)


def _differing(repo: Path, before: str, after: str) -> set[str]:
    names = run_git(repo, "diff", "--name-only", "-z", "--no-renames", before, after, "--", *OTHER_FILES)
    return {name for name in names.split("\0") if name}


def _park(repo: Path, branch: str, commit: str) -> str:
    ref = parked_ref(branch, commit)
    run_git(repo, "update-ref", ref, commit)
    return ref
