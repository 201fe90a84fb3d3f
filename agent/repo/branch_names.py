"""The names of the farm's branches, refs and worktree folders. Text only: nothing here runs git."""

import re
from pathlib import Path

from research.errors import UserError

PREFIX = "autoresearch/"
"""The prefix of all the farm's branch names."""

BRANCH_REFS = f"refs/heads/{PREFIX.rstrip('/')}"
"""The folder of refs that holds the farm's branches."""

EXPERIMENT_REFS = "refs/experiments"
"""The folder of refs that holds the commit of every experiment, whether it was kept or not."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def branch_name(tag: str, *, loop: str = "") -> str:
    """`autoresearch/<tag>`; `autoresearch/<tag>-<loop>` if the tag has several loops."""
    return f"{PREFIX}{tag}-{loop}" if loop else f"{PREFIX}{tag}"


def full_name(name: str) -> str:
    """A branch's full name, from its name with or without the prefix."""
    return name if is_farm_branch(name) else f"{PREFIX}{name}"


def short_name(branch: str) -> str:
    """The branch's name without the prefix: the tag, and the loop if there are several."""
    return branch.removeprefix(PREFIX)


def is_farm_branch(branch: str) -> bool:
    """Whether this is the name of a branch of the farm."""
    return branch.startswith(PREFIX)


def branch_ref(branch: str) -> str:
    """The full name of a branch's ref."""
    return f"refs/heads/{branch}"


def branch_of_ref(ref: str) -> str:
    """The name of the branch that a ref stands for; any other ref is returned unchanged."""
    return ref.removeprefix("refs/heads/")


def experiment_id(branch: str, number: int) -> str:
    """The id of a branch's experiment: `mar5-0007`."""
    return f"{short_name(branch)}-{number:04d}"


def experiment_ref(identifier: str) -> str:
    """The ref that holds an experiment's commit, whether it was kept or not."""
    return f"{EXPERIMENT_REFS}/{identifier}"


def unrecorded_ref(commit: str) -> str:
    """The ref that holds a commit whose experiment was never recorded."""
    return f"refs/unrecorded/{commit}"


def arrival_folder(unique: str) -> str:
    """The folder of refs in which a bundle's refs wait for their final names."""
    return f"refs/autoresearch-arrival/{unique}"


def worktree_folder(home: Path, branch: str) -> Path:
    """The folder under the farm's home that a branch is checked out in."""
    return home / "worktrees" / short_name(branch)


def check_name(name: str, what: str) -> None:
    """Raises UserError for a `what` (a tag, an experiment id) that can't be part of a ref or a folder's name."""
    if not _NAME.fullmatch(name) or ".." in name or name.endswith((".", ".lock")):
        raise UserError(f"{name!r} is not a valid {what}: use letters, digits, dots, _ and -, starting with a letter or digit.")
