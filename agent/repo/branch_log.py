"""What git knows of the commits on a branch: their order, their messages, and where the branch has been."""

from collections.abc import Collection
from pathlib import Path

from agent.repo.branch_names import EXPERIMENT_REFS, branch_ref, full_name
from agent.repo.git_command import COMMIT_ID, GitFailed, run_git
from research.remembered_texts import Remembered

FITTED_FROM = "Fitted-from"
"""The trailer of a commit that only sets the profile's starting hyperparameters; it names the commit below."""


def is_ancestor(repo: Path, older: str, newer: str) -> bool:
    """Whether `newer` is `older` or builds on it."""
    if older == newer:
        return True
    try:
        return _is_known_ancestor(repo, older, newer)
    except GitFailed:
        return False


@Remembered
def _is_known_ancestor(repo: Path, older: str, newer: str) -> bool:
    """Whether `newer` builds on `older`, where the answer stays so. Raises GitFailed where a no may become a yes: if the
    repository lacks one of them, or one is the name of a branch.
    """
    try:
        run_git(repo, "merge-base", "--is-ancestor", older, newer)
    except GitFailed as failure:
        if failure.status == 1 and COMMIT_ID.fullmatch(older) and COMMIT_ID.fullmatch(newer):
            return False
        raise
    return True


def tell_of_commit(repo: Path, commit: str, *, message: str, parents: Collection[str]) -> None:
    """Remembers of a commit that was just made what git would be asked soon."""
    for parent in parents:
        _is_known_ancestor.tell(True, repo, parent, commit)
        _is_known_ancestor.tell(False, repo, commit, parent)
    if FITTED_FROM.lower() not in message.lower():
        fitted_from.tell(None, repo, commit)


def commits_since(repo: Path, commit: str, branch: str) -> list[str]:
    """The branch's commits after `commit`, oldest first; what a merge brought in counts as one commit, the merge."""
    return run_git(repo, "rev-list", "--reverse", "--first-parent", f"{commit}..{branch_ref(branch)}").split()


def positions_of(repo: Path, branch: str) -> list[str]:
    """The commits that the branch has been at, newest first, as far as its reflog goes back."""
    try:
        return run_git(repo, "rev-list", "--walk-reflogs", branch_ref(branch)).split()
    except GitFailed:  # no reflog is kept
        return []


def follows(repo: Path, older: str, newer: str) -> bool:
    """Whether `newer` builds on `older`, or on the commit that `older` was fitted from."""
    origin = fitted_from(repo, older)
    return is_ancestor(repo, older, newer) or (origin is not None and is_ancestor(repo, origin, newer))


@Remembered
def fitted_from(repo: Path, commit: str) -> str | None:
    """The commit that this one only sets the starting hyperparameters of; None for any other commit."""
    form = f"--format=%(trailers:key={FITTED_FROM},valueonly,separator=%x20)"
    return run_git(repo, "log", "-1", form, commit).strip() or None


def numbers_given_out(repo: Path) -> list[tuple[str, int]]:
    """The branches with refs of experiments, each with the highest number among them."""
    highest: dict[str, int] = {}
    for ref in run_git(repo, "for-each-ref", "--format=%(refname)", EXPERIMENT_REFS).split():
        name, _, number = ref.removeprefix(f"{EXPERIMENT_REFS}/").rpartition("-")
        if name and number.isdigit():
            branch = full_name(name)
            highest[branch] = max(highest.get(branch, 0), int(number))
    return sorted(highest.items())


def message_of(repo: Path, commit: str) -> tuple[str, str]:
    """A commit's subject, and the rest of its message."""
    subject, _, rest = run_git(repo, "log", "-1", "--format=%s%n%b", commit).partition("\n")
    return subject, rest.strip()


def experiment_commits(folder: Path, *, but_for: Collection[str] = ()) -> frozenset[str]:
    """The commits under refs/experiments of the repository around a folder, whichever home's they are, and those that they were
    made on, baselines among them; none without a repository. Those in `but_for` are left out, with what they were made on.
    """
    try:
        listed = run_git(folder, "for-each-ref", "--format=%(objectname) %(parent)", EXPERIMENT_REFS).splitlines()
    except GitFailed:
        return frozenset()
    return frozenset(commit for line in listed if (commits := line.split())[0] not in but_for for commit in commits)
