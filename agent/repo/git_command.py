"""Runs git without hooks, file-system monitor, signing or a shell, and out of reach of git variables in the environment."""

import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from git.cmd import Git
from git.exc import GitCommandNotFound

from research.errors import UserError
from research.formatting import one_line

_SETTINGS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "gc.auto=0", "commit.gpgsign=false")
_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.1

PASSED_ON = frozenset(
    {
        *("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"),
        *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
        *("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM", "GIT_EXEC_PATH"),
    }
)
"""The variables of git that reach the farm's git: who the user is, and how git is installed on this machine. All others are
about one call (git sets them for aliases, hooks and `rebase --exec`) and would turn ours to another repository or index."""

COMMIT_ID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
"""The whole name of a commit, which never means another one."""

_LOCK = re.compile(r"'([^']+\.lock)': File exists")


class GitFailed(UserError):
    """A git command failed. The text is one line: git's error message, and the cure where the farm knows it."""

    def __init__(self, said: str, *, cure: str = "", status: int | None = None) -> None:
        super().__init__(f"{one_line(said)}{cure and ': '}{cure}")
        self.said = said
        """Git's error message as it is."""
        self.status = status
        """Git's exit status; None if it did not run."""


def run_git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """The output of `git ARGUMENTS` in `folder`. Raises GitFailed, and UserError if git isn't installed.

    Retries while another git process (an editor's `git status`, say) briefly holds a lock.
    """
    for _ in range(_LOCK_TRIES):
        try:
            return _run_once(folder, arguments, stdin)
        except GitFailed as error:
            if _LOCK.search(error.said) is None:
                raise
            time.sleep(_LOCK_PAUSE_S)
    return _run_once(folder, arguments, stdin)


def variables_to_drop(names: Iterable[str]) -> list[str]:
    """The variables among `names` that must not reach the farm's git: git's own, other than PASSED_ON."""
    return sorted(name for name in names if name.startswith("GIT_") and name not in PASSED_ON)


def command_to_type(folder: Path, *arguments: str) -> str:
    """A git command line to paste into a shell; it names `folder` unless that is the current folder."""
    where = () if folder.resolve() == Path.cwd().resolve() else ("-C", str(folder))
    return shlex.join(["git", *where, *arguments])


def start_git(arguments: tuple[str, ...], *, folder: Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Runs git to its end, in a session of its own: Ctrl-C in the terminal must not interrupt it.

    Returns its exit status, its output and its message. Raises UserError if git isn't installed.
    """
    dropped = [word for name in variables_to_drop(os.environ) for word in ("-u", name)]
    command = [*(["env", *dropped] if dropped else []), "git", *arguments]  # GitPython can add variables, and drop none
    missing = UserError("git was not found on the PATH: install it, or add its folder to PATH.")
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        try:
            status, output, said = Git(str(folder)).execute(
                command,
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                start_new_session=True,
            )
        except (GitCommandNotFound, PermissionError):
            raise missing from None
    if status in (126, 127) and dropped:  # what env says of a program that it can't start
        raise missing
    return status, output, said


def _run_once(folder: Path, arguments: tuple[str, ...], stdin: str) -> str:
    if not folder.is_dir():
        raise GitFailed(f"there is no folder {folder}")
    settings = tuple(part for setting in _SETTINGS for part in ("-c", setting))
    status, output, said = start_git((*settings, *arguments), folder=folder, stdin=stdin.encode("utf-8", "surrogateescape"))
    if status:
        said = said.strip() or f"git {arguments[0]} exited with status {status}"
        raise GitFailed(said, cure=_cure(said, folder), status=status)
    return output.decode("utf-8", "surrogateescape")


def _cure(said: str, folder: Path) -> str:
    """What to do about a failure that has nothing to do with the command; empty if the farm doesn't know."""
    lock = _LOCK.search(said)
    if lock is not None:
        return f"if no other git is at work in {folder}, remove {lock[1]}"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return f"make room on the disk of {folder}, and run the same command again"
    if "Read-only file system" in said or "ermission denied" in said:
        return f"git must be able to write in {folder}"
    return ""
