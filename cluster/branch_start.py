"""How a branch begins: with train.py as it is committed, under its profile's starting hyperparameters."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.patch import changed_constants
from agent.repo.git_command import GitFailed, command_to_type, run_git
from agent.repo.repository import head_train_py, train_py_at, train_py_to_try, uncommitted_train_py
from agent.repo.worktree import Worktree, branch_exists, checked_out_branch
from cluster.hardware import platform_identity
from cluster.loop_plans import LoopPlan
from cluster.options import FarmOptions
from research.errors import UserError
from research.hyperparameters import fit_to_profile, write_constants
from research.profiles import Recipe
from research.train_py import problem_with
from results.experiment import Branch
from results.store import Store

PREFIX = "autoresearch/"


def start_branch(
    options: FarmOptions, plan: LoopPlan, folder: Path, *, siblings: Sequence[Branch], say: Callable[[str], None]
) -> Worktree:
    """Starts a loop's branch in a worktree of its own. Raises UserError."""
    text = first_train_py(options, plan, siblings=siblings, say=say)
    if branch_exists(options.repo, plan.branch_name) and not folder.exists():
        raise UserError(f"The branch {plan.branch_name} exists, but this home doesn't know it: use another --tag.")
    return Worktree.create(options.repo, folder, plan.branch_name, train_py=text)


def first_train_py(options: FarmOptions, plan: LoopPlan, *, siblings: Sequence[Branch], say: Callable[[str], None]) -> str:
    """What a loop's branch begins with. Raises UserError."""
    begun = siblings_baseline(options.repo, plan, siblings)
    text = begun or head_train_py(options.repo)
    if text is None:
        raise UserError(f"research/train.py isn't committed in {options.repo}: commit it first.")
    edited = uncommitted_train_py(options.repo)
    if edited is not None and options.dirty:
        text = edited
    elif edited is not None:
        say("research/train.py has uncommitted edits: they are left out (--dirty takes them).")
    text, _ = fit_to_profile(text, plan.contract.profile, free_memory(plan), recipe=None if begun else options.recipe)
    return text


def failed_start(store: Store, branch: str) -> str | None:
    """The commit of the last baseline that failed; None where one was measured, or none was decided on yet."""
    if store.baseline(branch) is not None or store.unfinished(branch):
        return None
    records = store.records(branch)
    return records[-1].experiment.commit if records else None


def siblings_to_start_from(store: Store, tag: str) -> list[Branch]:
    """The tag's branches whose start didn't fail; a start that was mended is the one that counts."""
    siblings = []
    for branch in store.branches(tag):
        baseline = store.baseline(branch.name)
        if baseline is not None:
            siblings.append(replace(branch, baseline_commit=baseline.experiment.commit))
        elif failed_start(store, branch.name) is None:
            siblings.append(branch)
    return siblings


def siblings_baseline(repo: Path, plan: LoopPlan, siblings: Sequence[Branch]) -> str | None:
    """Where another branch of the tag began on the same platform: devices of a kind start from one point."""
    platform, contract_json = platform_identity(plan.device), plan.contract.to_json()
    for branch in siblings:
        if branch.platform == platform and branch.contract_json == contract_json:
            return train_py_at(repo, branch.baseline_commit)
    return None


def start_in_place(repo: Path, plan: LoopPlan, recipe: Recipe | None, *, say: Callable[[str], None]) -> Worktree:
    """Puts the checkout on `branch`, whose first commit has the profile's starting hyperparameters; edits of train.py stay.

    An `autoresearch/` branch that the checkout is on already, made by hand, is taken over as it is, unless a recipe is asked
    for. Raises UserError.
    """
    branch, profile, free_bytes = plan.branch_name, plan.contract.profile, free_memory(plan)
    committed, working = head_train_py(repo), train_py_to_try(repo)
    if committed is None:
        raise UserError(f"research/train.py isn't committed in {repo}: commit it first.")
    if not branch_exists(repo, branch):
        switch_to_new(repo, branch, say=say)
    worktree = Worktree.in_place(repo, branch)
    baseline, changes = fit_to_profile(committed, profile, free_bytes, recipe=recipe)
    if changes:
        message = f"Start {branch}: train.py with the {profile} profile's starting hyperparameters"
        parent = worktree.head()
        start_id = f"{branch.removeprefix(PREFIX)}-start-{parent[:7]}"  # a start that failed can be followed by another
        commit = worktree.commit(baseline, message=message, parent=parent, experiment_id=start_id)
        edited = {} if problem_with(working) else changed_constants(committed, working)
        edits = {name: new for name, (_, new) in edited.items() if new is not None}
        fitted, _ = fit_to_profile(working, profile, free_bytes, recipe=recipe)
        worktree.advance(commit)
        (repo / "research" / "train.py").write_text(write_constants(fitted, edits) if edits else fitted)
    return worktree


def switch_to_new(repo: Path, branch: str, *, say: Callable[[str], None]) -> None:
    """Puts the checkout on a new branch, and says how to get back. Raises UserError."""
    before = checked_out_branch(repo)
    back = ("switch", before) if before else ("switch", "--detach", run_git(repo, "rev-parse", "--short", "HEAD").strip())
    try:
        run_git(repo, "switch", "--quiet", "--create", branch)
    except GitFailed as error:
        raise UserError(f"git can't start the branch {branch}: {str(error).splitlines()[0]}") from None
    say(f"The checkout is on the new branch {branch} now; back with: {command_to_type(repo, *back)}")


def free_memory(plan: LoopPlan) -> int | None:
    """Bytes that the device batch has to fit; None where it need not."""
    return plan.device.free_bytes if plan.device.kind == "cuda" else None
