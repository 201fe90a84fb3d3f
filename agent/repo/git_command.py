"""Runs git without hooks, file-system monitor, signing or a shell, and out of reach of git variables in the environment."""

import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from research.errors import UserError
from research.text import one_line

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

_LOCK = re.compile(r"'([^']+\.lock)': File exists")


class GitFailed(UserError):
    """A git command failed. The text is one line: git's error message, and the cure where the farm knows it."""

    def __init__(self, said: str, *, cure: str = "") -> None:
        super().__init__(f"{one_line(said)}{cure and ': '}{cure}")
        self.said = said
        """Git's error message as it is."""


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


def git_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every git that the farm starts: `base` (default: this process's) less git's variables other than
    PASSED_ON. Messages are in English.
    """
    variables = os.environ if base is None else base
    kept = {name: value for name, value in variables.items() if not name.startswith("GIT_") or name in PASSED_ON}
    return kept | {"LANGUAGE": "C", "LC_ALL": "C"}


def command_to_type(folder: Path, *arguments: str) -> str:
    """A git command line to paste into a shell; it names `folder` unless that is the current folder."""
    where = () if folder.resolve() == Path.cwd().resolve() else ("-C", str(folder))
    return shlex.join(["git", *where, *arguments])


def start_git(arguments: tuple[str, ...], *, folder: Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Runs git to its end, in a session of its own: Ctrl-C in the terminal must not interrupt it. Raises UserError if git isn't
    installed.
    """
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        try:
            return subprocess.run(
                ["git", *arguments],
                cwd=folder,
                env=git_environment(),
                stdin=source,
                capture_output=True,
                check=False,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError):
            raise UserError("git was not found on the PATH: install it, or add its folder to PATH.") from None


def _run_once(folder: Path, arguments: tuple[str, ...], stdin: str) -> str:
    if not folder.is_dir():
        raise GitFailed(f"there is no folder {folder}")
    settings = tuple(part for setting in _SETTINGS for part in ("-c", setting))
    done = start_git((*settings, *arguments), folder=folder, stdin=stdin.encode("utf-8", "surrogateescape"))
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise GitFailed(said or f"git {arguments[0]} exited with status {done.returncode}", cure=_cure(said, folder))
    return done.stdout.decode("utf-8", "surrogateescape")


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
