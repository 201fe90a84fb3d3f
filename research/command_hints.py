"""Commands as this user can type them, for hints. Standard library only."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from research.files import research_folder

UV_RUN_VARIABLES = ("UV_RUN_RECURSION_DEPTH", "UV")
"""Environment variables that `uv run` sets for what it starts; older versions set only the second."""


def to_type(command: str, *, environment: Mapping[str, str] = os.environ) -> str:
    """A command of this environment (`farm status`, `ray job stop ID`) as the user can type it.

    It is unchanged where the shell finds the program; it begins with `uv run` where uv started this process, or would have to.
    """
    program = command.partition(" ")[0]
    scripts = Path(sys.executable).parent
    project = research_folder().parent
    if program == "uv":  # which finds its project by itself, or is told
        return command if _is_inside(project) else f"{command} --project {shlex.quote(str(project))}"
    is_project = (project / "pyproject.toml").is_file()
    if is_project and any(environment.get(name) for name in UV_RUN_VARIABLES):
        return f"{_uv_run(project)} {command}"
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    if found is not None and _is_ours(Path(found), scripts):
        return command
    if is_project and shutil.which("uv", path=environment.get("PATH", os.defpath)):
        return f"{_uv_run(project)} {command}"
    return shlex.quote(str(scripts / program)) + command.removeprefix(program) if (scripts / program).exists() else command


def _uv_run(project: Path) -> str:
    """The beginning of a command for uv, which names the project unless the current folder is in it."""
    return "uv run" if _is_inside(project) else f"uv run --project {shlex.quote(str(project))}"


def _is_inside(project: Path) -> bool:
    """Whether the current folder is in a project."""
    return Path.cwd().resolve().is_relative_to(project)


def _is_ours(found: Path, scripts: Path) -> bool:
    """Whether a program on the PATH belongs to this process's environment."""
    started = Path(sys.argv[0])
    return found.resolve().parent == scripts.resolve() or (started.exists() and found.resolve() == started.resolve())
