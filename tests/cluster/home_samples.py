"""A home with everything that an archive may hold, and a checkout to take it into."""

from pathlib import Path

from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from cluster.home import Home
from results.experiment import Experiment, Usage
from results.store import Store
from tests.cluster.farm_samples import make_history

BRANCH = "autoresearch/mar8"


def make_home(folder: Path) -> Home:
    """A home with a history, a repository of its own, a run with a model, and a server that answers to a token."""
    home = Home(folder).create()
    make_repository(home.folder / "repository", {"research/train.py": "DEPTH = 4\n", "program.md": "policy\n"})
    worktree = Worktree.create(home.folder / "repository", home.worktrees / "mar8", BRANCH)
    commits = [worktree.head()]
    for number in (1, 2):
        text = f"DEPTH = {4 + number}\n"
        experiment = f"mar8-{number:04d}"
        commits.append(worktree.commit(text, message="idea", parent=commits[0], experiment_id=experiment))
    worktree.advance(commits[1])
    home.record_repository(home.folder / "repository")
    make_history(home.folder, commits=(commits[0], commits[1], commits[2]))
    with Store.open(home.folder) as store:
        store.export_parquet()
    for name, text in {"results.tsv": "rows\n", "progress.png": "picture\n"}.items():
        (worktree.folder / name).write_text(text)
    run = home.runs / "mar8-0001-1"
    run.mkdir()
    for name in ("train.py", "run.log", "result.json", "model.safetensors"):
        (run / name).write_text(name)
    (run / "outside").symlink_to("/etc/passwd")
    home.log_event("verdict", decision="keep")
    home.server_json.write_text('{"token": "secret"}')
    return home


def make_checkout(folder: Path) -> Path:
    """A checkout without a farm."""
    make_repository(folder, {"research/train.py": "DEPTH = 4\n", "program.md": "policy\n", ".gitignore": "results/\n"})
    return folder


def add_experiment(home: Home, number: int) -> None:
    with Store.open(home.folder) as store:
        store.add_experiment(
            Experiment(
                id=f"mar8-{number:04d}", branch=BRANCH, number=number, kind="explore", commit="d" * 40, parent_commit="a" * 40,
                title="idea", hypothesis="", researcher="search", usage=Usage(model="m"), created="2026-03-08T21:00:00Z",
            )
        )  # fmt: skip
