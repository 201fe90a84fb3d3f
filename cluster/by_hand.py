"""`farm try`: one experiment with the working train.py of the user's own checkout, by the same loop as all others."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

from agent.patch import describe_changes, problem_with, same_code
from agent.repository import working_train_py
from agent.worktree import checked_out_branch
from cluster.display import Display
from cluster.driver import Farm
from cluster.first_commit import PREFIX
from cluster.options import FarmOptions
from research.contract import UserError
from results.experiment import ExperimentRecord, Proposal


def on_the_checkouts_branch(options: FarmOptions) -> FarmOptions:
    """The options with the tag of the `autoresearch/` branch that the checkout is on, if it is on one."""
    branch = checked_out_branch(options.repo) or ""
    return replace(options, tag=branch.removeprefix(PREFIX)) if branch.startswith(PREFIX) else options


async def try_once(options: FarmOptions, message: str | None, display: Display) -> ExperimentRecord:
    """`farm try`: the working train.py of the user's checkout as one experiment. Raises UserError."""
    farm = await asyncio.to_thread(Farm, options, display)
    try:
        return await try_working_train_py(farm, message)
    finally:
        await farm.close()


async def try_working_train_py(farm: Farm, message: str | None) -> ExperimentRecord:
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


def title_of(head_text: str, working: str) -> str:
    """What the edit does, in a line."""
    return "edit that doesn't parse" if problem_with(working) else describe_changes(head_text, working)


def copy_log(source: Path, target: Path) -> None:
    """Puts the run's log where people look for it."""
    if source.is_file():
        shutil.copyfile(source, target)
