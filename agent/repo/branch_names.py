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

LONGEST = 100
"""Characters of a name at most, since files in several folders are named by it."""

_CHARACTER = re.compile(r"[A-Za-z0-9._-]")
_GITS_OWN = re.compile(r"([A-Z]+_)*HEAD", re.IGNORECASE)


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


def parked_ref(branch: str, commit: str) -> str:
    """The ref that holds what a person had put on a branch, or into its folder, before the farm moved both elsewhere."""
    return f"refs/parked/{short_name(branch)}/{commit[:12]}"


def arrival_folder(unique: str) -> str:
    """The folder of refs in which a bundle's refs wait for their final names."""
    return f"refs/autoresearch-arrival/{unique}"


def worktree_folder(home: Path, branch: str) -> Path:
    """The folder under the farm's home that a branch is checked out in."""
    return home / "worktrees" / short_name(branch)


def check_name(name: str, what: str) -> None:
    """Raises UserError for a `what` (a tag, an experiment id) that can't be part of a ref or a folder's name."""
    if (problem := _problem_with(name)) is not None:
        use = "use a to z, digits, dots, _ and -, with a letter or digit first"
        raise UserError(f"{name!r} is not a valid {what}, {problem}: {use}.")


def _problem_with(name: str) -> str | None:
    """Why git or a folder can't have this name, in words; None if they can."""
    strange = sorted({character for character in name if not _CHARACTER.fullmatch(character)})
    shown = ", ".join(map(repr, strange[:3])) + (" and more" if len(strange) > 3 else "")
    rules = (
        (not name, "it is empty"),
        (len(name) > LONGEST, f"it has {len(name)} characters and at most {LONGEST} are possible"),
        (bool(strange), f"it has {shown}"),
        (name[:1] in tuple("._-"), f"it begins with {name[:1]!r}"),
        (".." in name, "it has two dots in a row, which mean a range to git"),
        (name.endswith("."), "it ends in a dot"),
        (name.endswith(".lock"), "it ends in .lock, which git keeps for itself"),
        (_GITS_OWN.fullmatch(name) is not None, "git has a meaning of its own for it"),
    )
    return next((why for applies, why in rules if applies), None)
