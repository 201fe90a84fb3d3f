"""What has to be done in a checkout before `farm try` goes on with a branch there, so that no hint names a command that is
refused. Asked only where a hint names it: git takes a moment.
"""

from collections.abc import Iterable
from pathlib import Path

from agent.repo.branch_log import fitted_from, is_ancestor
from agent.repo.branch_names import experiment_ref
from agent.repo.git_command import GitFailed, command_to_type
from agent.repo.repository import TRAIN_FILE, train_py_at, uncommitted_train_py, working_train_py
from agent.repo.worktree import checked_out_branch, commit_exists
from cluster.home import Home, find_checkout, home_option
from research.command_hints import to_type
from research.errors import UserError
from results.experiment import IDEAS, Branch, Experiment, ExperimentRecord


def checkout_of(home: Home, commit: str) -> Path | None:
    """The checkout in which `farm try` would be typed: the one around the current folder, else a recorded one that has this
    commit; None if there is none.
    """
    here = find_checkout()
    places = [*([] if here is None else [here]), *home.repositories()]
    return next((place for place in places if commit_exists(place, commit)), None)


def steps_to_finish(home: Home, experiment: Experiment) -> list[str]:
    """The commands that come before the `farm try` that finishes an interrupted experiment, in their order."""
    repo = checkout_of(home, experiment.commit)
    if repo is None:
        return []
    switch = _switch(repo, experiment.branch)
    restore = command_to_type(repo, "restore", f"--source={experiment_ref(experiment.id)}", TRAIN_FILE)
    is_refused = experiment.kind in IDEAS and _has_another_edit(repo, experiment)  # others run whatever the file holds
    return [*switch, *([restore] if is_refused else [])]


def what_is_in_the_way(home: Home, branch: Branch, records: Iterable[ExperimentRecord]) -> str:
    """What must be done before the next `farm try` runs what a person has asked for on a branch, in words that end with a
    blank; empty if nothing must. `records` are the branch's.
    """
    repo = checkout_of(home, branch.baseline_commit)
    unfinished = [record.experiment.id for record in records if record.is_idea and record.verdict is None]
    if unfinished:
        says = to_type(f"farm status{home_option(home)}")
        return f"once {', '.join(unfinished)}, which was interrupted, is finished or dropped (`{says}` says how), "
    if repo is None:
        return ""
    if switch := _switch(repo, branch.name):
        return f"after `{switch[0]}`, "
    try:
        is_edited = uncommitted_train_py(repo) is not None
    except (GitFailed, UserError):
        return ""
    return f"once {TRAIN_FILE} has no edit that isn't committed (the next try would be that edit's), " if is_edited else ""


def _switch(repo: Path, branch: str) -> list[str]:
    """The command that checks a branch out, if another one is."""
    return [] if checked_out_branch(repo) == branch else [command_to_type(repo, "switch", branch.removeprefix("refs/heads/"))]


def _has_another_edit(repo: Path, experiment: Experiment) -> bool:
    """Whether the checkout's train.py is another program than the interrupted experiment's, which then is refused; a commit
    that stays on the branch is finished whatever the file holds.
    """
    from agent.compare_programs import same_code

    try:
        working = working_train_py(repo)
        if working is None or same_code(working, train_py_at(repo, experiment.commit)):
            return False
        places = [experiment.commit, fitted_from(repo, experiment.commit)] if experiment.kind == "manual" else []
    except (GitFailed, UserError):
        return False
    return not any(place and is_ancestor(repo, place, experiment.branch) for place in places)
