"""Rebasing a proposal onto a head that changed after the proposal was requested."""

import tempfile
from dataclasses import replace
from pathlib import Path

from agent.compare_programs import changed_constants, same_code, same_lines
from agent.repo.git_command import start_git
from research.hyperparameters import write_constants
from research.remembered_texts import Remembered
from research.valid_train_py import problem_with
from results.experiment import Proposal


def rebased(proposal: Proposal, base: str, head: str) -> Proposal | None:
    """`proposal`, an edit of `base`, as the same edit of `head`; None if they conflict or nothing would change."""
    if base == head:
        return proposal
    train_py = rebased_text(proposal.train_py, base, head)
    return None if train_py is None else replace(proposal, train_py=train_py)


@Remembered
def rebased_text(edited: str, base: str, head: str) -> str | None:
    """The text of `head` with the edit that leads from `base` to `edited`; None if they conflict or nothing would change.

    Constants are set one by one, since textual merges of adjacent lines conflict; the rest is a three-way merge.
    """
    if problem_with(edited) or problem_with(head) or problem_with(base):
        return None
    theirs, ours = changed_constants(base, head), changed_constants(base, edited)
    if set(theirs) & set(ours):
        return None
    scalars = {name: new for name, (old, new) in ours.items() if old is not None and new is not None}
    before = {name: old for name, (old, _) in ours.items() if name in scalars and old is not None}
    undone = write_constants(edited, before)
    merged = head if same_lines(undone, base) else merge_texts(base, undone, head)
    if merged is None:
        return None
    train_py = write_constants(merged, scalars)
    if problem_with(train_py) or same_code(train_py, head):
        return None
    return train_py


def merge_texts(base: str, ours: str, theirs: str) -> str | None:
    """Git's three-way merge of three texts; None if they conflict."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-merge-") as scratch:
        paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_text(text, encoding="utf-8")
        status, merged, _ = start_git(("merge-file", "-p", "--quiet", *map(str, paths)), folder=Path(scratch))
    return merged.decode("utf-8") if status == 0 else None
