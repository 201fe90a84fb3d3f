"""The results.tsv of a branch, where people and loops work: brought up to date after commands that run no loop, and whose rows
it holds.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.home import Home
from research.command_hints import to_type
from research.formatting import counted
from results.history import BranchHistory
from results.tsv import commits_in, rows_of_others, write_results_tsv

if TYPE_CHECKING:
    from results.store import Store

RESULTS_TSV = "results.tsv"


def update_results_tsv(home: Home, store: "Store", branch: str) -> list[str]:
    """Brings each results.tsv of a branch up to date that is there already: its loop's, that of a checkout which is on the
    branch, and that of a checkout on no branch of the home's, or of a folder without git, which has rows of it. Returns a line
    for each that can't be written, or was moved aside.
    """
    from agent.repo.branch_names import worktree_folder  # git is heavy, and only this function needs it
    from agent.repo.repository import checkout_around, source_tree
    from agent.repo.worktree import checked_out_branch

    records = store.records(branch)
    here, tree = checkout_around(Path.cwd()), source_tree(Path.cwd())
    checkouts = {*home.repositories(), *filter(None, [here])}
    on = {checkout: checked_out_branch(checkout) for checkout in checkouts}
    folders = [worktree_folder(home.folder, branch), *(checkout for checkout in checkouts if on[checkout] == branch)]
    elsewhere = [checkout for checkout, name in on.items() if name is None or store.branch(name) is None]
    ideas = {record.experiment.commit[:7] for record in records if record.is_idea}  # branches share their baseline
    folders += [folder for folder in elsewhere if not ideas.isdisjoint(commits_in(folder / RESULTS_TSV))]
    if here is None and tree is not None:
        commits = {record.experiment.commit[:7] for record in records}
        folders += [] if commits.isdisjoint(commits_in(tree / RESULTS_TSV)) else [tree]
    told = []
    for file in (folder / RESULTS_TSV for folder in folders if (folder / RESULTS_TSV).is_file()):
        try:
            aside = write_results_tsv(file, records)
        except OSError as error:
            told.append(f"{file} can't be written ({error.strerror}): it stays as it is")
            continue
        if aside is not None:
            told.append(f"{file} was no table of results: it is now {aside}")
    return told


def by_hand_lines(home: Home, histories: Iterable[BranchHistory], here: Path | None) -> list[str]:
    """Lines on each results.tsv with rows that no record of the home explains: people's own, another farm's, or those of
    another home that works in the same checkout, which git has under refs/experiments.

    Looked for are those of the farm's own worktrees, of the home's repositories and of the checkout `here`. Each keeps its own.
    """
    from agent.repo.branch_names import worktree_folder

    histories = list(histories)
    records = [outline for history in histories for outline in history.outlines]
    own = {record.experiment.commit for record in records}
    worktrees = [worktree_folder(home.folder, history.branch.name) for history in histories]
    folders = [*worktrees, *home.repositories(), *filter(None, [here])]
    found = rows_of_others(dict.fromkeys((folder / RESULTS_TSV).resolve() for folder in folders), records)
    lines = []
    for file, commits in found.items():
        of_a_farm = _commits_of_other_homes(file.parent, own)
        elsewhere = sum(commit in of_a_farm for commit in commits)
        lines += [*_by_hand(file, len(commits) - elsewhere), *_elsewhere(file, elsewhere)]
    return lines


def _commits_of_other_homes(checkout: Path, own: set[str]) -> set[str]:
    """The commits that other homes have recorded in a checkout, as rows have them. A commit that one of this home's experiments
    was made on, and that isn't one itself, is a person's.
    """
    from agent.repo.branch_log import experiment_commits  # git is heavy, and most tables hold no rows of others

    return {commit[:7] for commit in experiment_commits(checkout, but_for=own) - own}


def _by_hand(file: Path, rows: int) -> list[str]:
    """A line on rows that no farm has written; none without any."""
    if not rows:
        return []
    return [
        f"{counted(rows, 'row')} of {file} {'is' if rows == 1 else 'are'} by hand or another farm's, and counted nowhere "
        f"else: `{to_type(f'farm autopsy {shlex.quote(str(file))}')}` estimates the file"
    ]


def _elsewhere(file: Path, rows: int) -> list[str]:
    """A line on rows of experiments that another home has run in the same checkout; none without any."""
    is_one = rows == 1
    words = f"{counted(rows, 'row')} of {file} {'is' if is_one else 'are'} of this farm, from another home (--home): "
    return [f"{words}{'it stays' if is_one else 'they stay'} there, and that home's report has the rest"] if rows else []


def foreign_rows(checkout: Path, checked_out: str, histories: Iterable[BranchHistory]) -> list[str]:
    """A line on other branches' rows in a checkout's results.tsv, as a switch of branches leaves them; none if it has none."""
    histories = list(histories)
    own = next((history for history in histories if history.branch.name == checked_out), None)
    if own is None:
        return []
    rows = commits_in(checkout / RESULTS_TSV)
    known = {outline.experiment.commit[:7] for outline in own.outlines}
    others = {}
    for history in histories:
        commits = {outline.experiment.commit[:7] for outline in history.outlines} - known
        if history is not own and (number := sum(row in commits for row in rows)):
            others[history.branch.name] = number
    if not others:
        return []
    whose = ", ".join(f"{number} of {name}" for name, number in others.items())
    total = counted(sum(others.values()), "row")
    return [
        f"{RESULTS_TSV} here holds {total} of other branches ({whose}): the next farm try puts those of {checked_out} there"
    ]
