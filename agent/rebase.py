"""Rebasing a proposal onto a head that changed after the proposal was requested."""

import tempfile
from dataclasses import replace
from pathlib import Path

from agent.compare_programs import changed_constants, same_code, same_lines
from agent.repo.git_command import start_git
from research.hyperparameters import write_constants
from research.valid_train_py import problem_with
from results.experiment import Proposal


def rebased(proposal: Proposal, base: str, head: str) -> Proposal | None:
    """`proposal`, an edit of `base`, as the same edit of `head`; None if they conflict or nothing would change.

    Constants are set one by one, since textual merges of adjacent lines conflict; the rest is a three-way merge.
    """
    if base == head:
        return proposal
    if problem_with(proposal.train_py) or problem_with(head) or problem_with(base):
        return None
    theirs, ours = changed_constants(base, head), changed_constants(base, proposal.train_py)
    if set(theirs) & set(ours):
        return None
    scalars = {name: new for name, (old, new) in ours.items() if old is not None and new is not None}
    before = {name: old for name, (old, _) in ours.items() if name in scalars and old is not None}
    undone = write_constants(proposal.train_py, before)
    merged = head if same_lines(undone, base) else merge_texts(base, undone, head)
    if merged is None:
        return None
    train_py = write_constants(merged, scalars)
    if problem_with(train_py) or same_code(train_py, head):
        return None
    return replace(proposal, train_py=train_py)


def merge_texts(base: str, ours: str, theirs: str) -> str | None:
    """Git's three-way merge of three texts; None if they conflict."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-merge-") as scratch:
        paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_text(text, encoding="utf-8")
        status, merged, _ = start_git(("merge-file", "-p", "--quiet", *map(str, paths)), folder=Path(scratch))
    return merged.decode("utf-8") if status == 0 else None
