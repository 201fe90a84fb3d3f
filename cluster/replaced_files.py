"""Where a result may be written: in which folders, and over which files."""

from pathlib import Path

from cluster.home import Home
from research.errors import UserError


def check_may_replace(file: Path, home: Home, *, option: str) -> None:
    """Raises UserError, naming the `option`, for a file that a result must not replace: the home's, or one that git tracks.

    Also for one in a folder that isn't there: that is a slip, such as a disk that isn't mounted, and no command makes it.
    """
    from agent.repo.git_command import GitFailed, run_git

    if file.resolve().is_relative_to(home.folder.resolve()):
        raise UserError(f"{file} lies in the farm's home, whose files are the farm's own: choose another {option}.")
    if not file.parent.is_dir():
        raise UserError(f"{file} can't be written, since {file.parent} is not a folder: make it, or choose another {option}.")
    if file.is_dir():
        raise UserError(f"{file} is a folder: name a file for {option}, in it or elsewhere.")
    if not file.exists():
        return
    try:
        run_git(file.resolve().parent, "ls-files", "--error-unmatch", "--", f":(literal){file.resolve().name}")
    except (GitFailed, UserError):  # not tracked, no repository, or no git
        return
    raise UserError(f"{file} is tracked by git, and would be replaced: choose another {option}.")
