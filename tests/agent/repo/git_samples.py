"""A small repository, and what the tests of branches do with it."""

import subprocess
from pathlib import Path

from agent.repo.worktree import Worktree
from tests.agent.samples import TRAIN_PY

BRANCH = "autoresearch/mar5"
BETTER = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
FILES = {
    "research/train.py": TRAIN_PY,
    "research/other.py": "x = 1\n",
    "README.md": "hello\n",
    ".gitignore": "run.log\n",
}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def propose(worktree: Worktree, train_py: str = BETTER, experiment_id: str = "e1") -> str:
    return worktree.commit(train_py, message="an idea", parent=worktree.head(), experiment_id=experiment_id)
