"""Commits that a person has made on a branch of the farm: which of them nothing has recorded yet, and the experiments that
they become.
"""

from collections.abc import Callable, Iterable

from agent.rebase import merge_texts
from agent.repo.branch_log import FITTED_FROM, commits_since, fitted_from, is_ancestor, message_of, positions_of
from agent.repo.git_command import command_to_type, run_git
from agent.repo.repository import uncommitted_train_py
from agent.repo.worktree import Worktree
from research.errors import UserError
from research.formatting import one_line, plain_lines
from results.experiment import Experiment, ExperimentRecord, Head, Proposal
from results.group_entries import COMMITTED_BY_A_PERSON
from results.group_state import GroupState

MAX_HYPOTHESIS = 4000
"""Characters of a hypothesis; the rest is cut off."""


def place_on_branch(worktree: Worktree, commit: str) -> str | None:
    """Where an experiment is on the branch: its commit, or a person's that it was fitted from; None if neither is there."""
    tip = worktree.head()
    if is_ancestor(worktree.repo, commit, tip):
        return commit
    origin = fitted_from(worktree.repo, commit)
    return origin if origin is not None and is_ancestor(worktree.repo, origin, tip) else None


def is_by_hand(worktree: Worktree, experiment: Experiment) -> bool:
    """Whether a person had put an experiment on the branch before it had a verdict."""
    return experiment.kind == "manual" and place_on_branch(worktree, experiment.commit) is not None


def put_in_by(state: GroupState, experiment: Experiment) -> frozenset[str]:
    """The ideas that an experiment's commit adds to the head it was made on, earlier ones where it repeats them; the experiment
    itself if there are none.
    """
    inside, before = _ideas_in(state, experiment)
    return inside - before or frozenset({experiment.id})


def taken_out_by(state: GroupState, experiment: Experiment) -> frozenset[str]:
    """The ideas of the head it was made on that an experiment's commit takes back: it is a program that ran without them."""
    inside, before = _ideas_in(state, experiment)
    return before - inside


def was_committed(state: GroupState, experiment: Experiment) -> bool:
    """Whether what an experiment tries stays in the head because a person has committed it."""
    return all(state.why_ruled.get(idea) == COMMITTED_BY_A_PERSON for idea in put_in_by(state, experiment))


def was_ever_committed(state: GroupState, experiment: Experiment) -> bool:
    """Whether a person has committed what an experiment tries, even if a person has dropped it since."""
    lifted = [state.pins_lifted.get(idea) for idea in put_in_by(state, experiment)]
    return was_committed(state, experiment) or all(reason == COMMITTED_BY_A_PERSON for reason in lifted)


def _ideas_in(state: GroupState, experiment: Experiment) -> tuple[frozenset[str], frozenset[str]]:
    """The ideas in an experiment's commit, and in the head that it was made on; the same ones if nothing is known of it."""
    before = frozenset(experiment.patches) - {experiment.id}
    return state.patches_at.get(experiment.commit, before), before


def commits_to_adopt(worktree: Worktree, head: Head | None, records: Iterable[ExperimentRecord]) -> list[str]:
    """The commits after the head that change train.py and are no experiment yet, oldest first."""
    if head is None or worktree.head() == head.commit:
        return []
    place = place_on_branch(worktree, head.commit)
    later = [] if place is None else commits_since(worktree.repo, place, worktree.branch)
    before = dict(zip(later, [place or "", *later], strict=False))
    changing = [commit for commit in later if worktree.train_py(commit) != worktree.train_py(before[commit])]
    known = [record.experiment for record in records if record.experiment.kind in ("manual", "baseline")]
    recorded = {origin_of(worktree, experiment) for experiment in known}
    return [commit for commit in changing if commit not in recorded]


def adopted(worktree: Worktree, commit: str, *, experiment_id: str, fit: Callable[[str], str]) -> tuple[Proposal, str]:
    """A person's commit as a proposal, and the commit of its experiment: a new one on top of the person's if `fit` changes
    the text, else the person's own, under refs/experiments/<id>.
    """
    title, message = message_of(worktree.repo, commit)
    text = worktree.train_py(commit)
    fitted = fit(text)
    if fitted == text:
        worktree.name_experiment(commit, experiment_id)
    else:
        note = f"{title}: the profile's starting hyperparameters\n\n{FITTED_FROM}: {commit}\n"
        commit = worktree.commit(fitted, message=note, parent=commit, experiment_id=experiment_id)
    return Proposal(title=one_line(title) or commit[:7], hypothesis=bounded(message), train_py=fitted, researcher="you"), commit


def bounded(hypothesis: str) -> str:
    """A hypothesis of visible characters, of bounded length."""
    return plain_lines(hypothesis, MAX_HYPOTHESIS)


def origin_of(worktree: Worktree, experiment: Experiment) -> str:
    """The commit that a person made, where the experiment's only sets the starting hyperparameters; else the experiment's."""
    return fitted_from(worktree.repo, experiment.commit) or experiment.commit


def check_not_reset(worktree: Worktree, heads: Iterable[Head]) -> None:
    """Raises UserError if somebody has taken a recorded head off the branch; one that never was there is a keep cut off.

    Heads are given from the newest on: all that came before one that is on the branch are there, too.
    """
    for head in heads:
        if place_on_branch(worktree, head.commit) is not None:
            return
        if head.commit in positions_of(worktree.repo, worktree.branch):
            raise _was_reset(worktree, head)


def _was_reset(worktree: Worktree, head: Head) -> UserError:
    commit = head.commit
    arguments, then = _way_back(worktree, commit)
    command = command_to_type(worktree.folder, *arguments)
    return UserError(
        f"{worktree.branch} was reset behind {head.experiment_id} ({commit[:7]}), which is recorded as kept: "
        f"`{command}` takes it back there{then}; another --tag starts a new branch from here."
    )


def _way_back(worktree: Worktree, kept: str) -> tuple[tuple[str, ...], str]:
    """The git command that takes a branch back to a kept commit, and what it makes of what the user has done since."""
    repo, here = worktree.repo, worktree.head()
    edit = uncommitted_train_py(worktree.folder)
    if edit is None and is_ancestor(repo, here, kept):
        return ("reset", "--keep", kept[:7]), ""
    base = run_git(repo, "merge-base", here, kept).strip()
    texts = [worktree.train_py(commit) for commit in (base, here, kept)]
    if merge_texts(texts[0], edit or texts[1], texts[2]) is not None:
        return ("rebase", "--autostash", kept[:7]), ", with what you have changed on top of it"
    undoes = "which undoes what was kept where both change the same lines: edit it before you try it"
    return ("reset", kept[:7]), f" and leaves train.py as it is, {undoes}"
