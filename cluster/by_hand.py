"""`farm try`: one experiment with the working train.py of the user's own checkout, by the same loop as all others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.patch import changed_constants, describe_changes, problem_with, same_code
from agent.repository import head_train_py, working_train_py
from agent.worktree import Worktree, checked_out_branch
from research.contract import UserError
from research.hyperparameters import fit_to_profile, write_constants
from results.experiment import ExperimentRecord, Proposal

if TYPE_CHECKING:
    from cluster.driver import Farm
    from cluster.options import FarmOptions

PREFIX = "autoresearch/"


def on_the_checkouts_branch(options: "FarmOptions") -> "FarmOptions":
    """The options with the tag of the `autoresearch/` branch that the checkout is on, if it is on one."""
    branch = checked_out_branch(options.repo) or ""
    return replace(options, tag=branch.removeprefix(PREFIX)) if branch.startswith(PREFIX) else options


async def try_working_train_py(farm: "Farm", message: str | None) -> ExperimentRecord:
    """Commits the working train.py, runs it, and keeps it or puts the head's back. Measures the baseline first if need be."""
    repo = farm.options.repo
    loop = farm.open_loop(farm.planner.plans[0], in_place=True)
    try:
        await farm.first_devices()
        measured_before = farm.store.head(loop.branch.name) is not None
        await loop.start()
        head = loop.head()
        head_text = loop.worktree.train_py(head.commit)
        working = working_train_py(repo) or ""
        if same_code(working, head_text):
            if measured_before:
                raise UserError("research/train.py is the head's: edit it, then `farm try` again.")
            return farm.store.record(head.experiment_id)
        proposal = Proposal(
            title=message or title_of(head_text, working),
            hypothesis=message or "",
            train_py=working,
            researcher="you",
        )
        record = await loop.try_now(proposal)
        if record.verdict is None or record.verdict.decision != "keep":
            loop.worktree.restore(head.commit, tried=working)
        copy_log(farm.home.runs / record.runs[-1].run_id / "run.log", repo / "run.log")
        return record
    finally:
        await loop.close()


def start_in_place(repo: Path, branch: str, profile: str, free_bytes: int | None) -> Worktree:
    """Puts the checkout on `branch`, whose first commit has the profile's starting hyperparameters; edits of train.py stay.

    An `autoresearch/` branch that the checkout is on already, made by hand, is taken over as it is.
    """
    from agent.gitcommand import run_git

    committed, working = head_train_py(repo), working_train_py(repo)
    if committed is None or working is None:
        raise UserError(f"research/train.py isn't committed in {repo}: commit it first.")
    if checked_out_branch(repo) != branch:
        run_git(repo, "switch", "--quiet", "--create", branch)
    worktree = Worktree.in_place(repo, branch)
    baseline, changes = fit_to_profile(committed, profile, free_bytes)
    if changes:
        message = f"Start {branch}: train.py with the {profile} profile's starting hyperparameters"
        start_id = f"{branch.removeprefix(PREFIX)}-start"
        commit = worktree.commit(baseline, message=message, parent=worktree.head(), experiment_id=start_id)
        edited = {} if problem_with(working) else changed_constants(committed, working)
        edits = {name: new for name, (_, new) in edited.items() if new is not None}
        fitted, _ = fit_to_profile(working, profile, free_bytes)
        worktree.advance(commit)
        (repo / "research" / "train.py").write_text(write_constants(fitted, edits) if edits else fitted)
    return worktree


def title_of(head_text: str, working: str) -> str:
    """What the edit does, in a line."""
    return "edit that doesn't parse" if problem_with(working) else describe_changes(head_text, working)


def copy_log(source: Path, target: Path) -> None:
    """Puts the run's log where people look for it."""
    if source.is_file():
        shutil.copyfile(source, target)
