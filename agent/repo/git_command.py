"""Runs git without hooks, file-system monitor, signing or a shell."""

import shlex
import tempfile
import time
from pathlib import Path

from git.cmd import Git
from git.exc import GitCommandNotFound

from research.errors import UserError

_SETTINGS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "gc.auto=0", "commit.gpgsign=false")
_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.1


class GitFailed(Exception):
    """A git command failed. The text is git's error message."""


def run_git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """The output of `git ARGUMENTS` in `folder`. Raises GitFailed, and UserError if git isn't installed.

    Retries while another git process (an editor's `git status`, say) briefly holds a lock.
    """
    for _ in range(_LOCK_TRIES):
        try:
            return _run_once(folder, arguments, stdin)
        except GitFailed as error:
            if ".lock': File exists" not in str(error):
                raise
            time.sleep(_LOCK_PAUSE_S)
    return _run_once(folder, arguments, stdin)


def command_to_type(folder: Path, *arguments: str) -> str:
    """A git command line to paste into a shell; it names `folder` unless that is the current folder."""
    where = () if folder.resolve() == Path.cwd().resolve() else ("-C", str(folder))
    return shlex.join(["git", *where, *arguments])


def _run_once(folder: Path, arguments: tuple[str, ...], stdin: str) -> str:
    if not folder.is_dir():  # GitPython would run in the current folder instead
        raise GitFailed(f"there is no folder {folder}")
    command = ["git", *(part for setting in _SETTINGS for part in ("-c", setting)), *arguments]
    with tempfile.TemporaryFile() as source:
        source.write(stdin.encode("utf-8", "surrogateescape"))
        source.seek(0)
        try:
            status, output, said = Git(str(folder)).execute(
                command,
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                start_new_session=True,  # Ctrl-C in the terminal must not interrupt git
            )
        except GitCommandNotFound:
            raise UserError("git was not found: install it.") from None
    if status:
        raise GitFailed(said.strip() or f"git {arguments[0]} exited with status {status}")
    return output.decode("utf-8", "surrogateescape")
