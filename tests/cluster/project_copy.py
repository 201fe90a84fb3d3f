"""The project in a git repository of its own: what a user has who submits jobs from it."""

import shutil
import subprocess
from pathlib import Path

from cluster.home import package_folder


def copy_project(folder: Path) -> Path:
    """A checkout with one commit in `folder`, which is made."""
    folder.mkdir(parents=True)
    for package in ("research", "results", "agent", "cluster"):
        state = ("data", "fetched") if package == "results" else ()
        ignored = shutil.ignore_patterns("__pycache__", *state)
        shutil.copytree(package_folder() / package, folder / package, ignore=ignored)
    for name in ("pyproject.toml", "program.md", ".gitignore"):
        shutil.copy(package_folder() / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commits all that is there."""
    git(folder, "add", ".")
    git(folder, "-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "start")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout
