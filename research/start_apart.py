"""Starting a process of the farm's own beside the one that starts it. Standard library only."""

import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

from research.files import research_folder


def start_apart(module: str, *arguments: str, stdin: int = subprocess.PIPE, stdout: int | IO[Any] = subprocess.PIPE,
                stderr: int | None = None, environment: Mapping[str, str] | None = None,
                text: bool = False) -> "subprocess.Popen[Any]":  # fmt: skip
    """A new Python that runs a module of the farm's packages, from whatever folder this one works in.

    It has a session of its own, since Ctrl-C in the terminal is for the process that starts it; that ends it, or closes its
    standard input. Its streams hold bytes unless `text`. `environment`: None is this process's own.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=research_folder().parent,
        env=environment,
        text=text,
        start_new_session=True,
    )
