"""A loop's branch beside the head of its group: which head it has taken, and how it gets to the next one."""

from dataclasses import replace

from agent.adoption import commits_to_adopt, place_on_branch
from agent.observer import LoopObserver
from agent.repo.worktree import Worktree
from agent.shared_research import SharedResearch
from results.experiment import Branch, ExperimentKind, Head
from results.store import Store

COMMITTED: tuple[ExperimentKind, ...] = ("manual", "baseline")
"""The kinds of experiments that may be a person's commits."""


class HeadFollower:
    """Moves a loop's branch to the heads of its group, and loses nothing of what a person has put on it."""

    def __init__(
        self, *, branch: Branch, worktree: Worktree, store: Store, shared: SharedResearch, observer: LoopObserver
    ) -> None:
        self._branch, self._worktree, self._store, self._shared, self._observer = branch, worktree, store, shared, observer

    def own_head(self) -> Head | None:
        """The latest head of the group that this branch has taken; None before the baseline."""
        head = self._shared.head()
        if head is None or place_on_branch(self._worktree, head.commit) is not None:
            return head
        heads = self._store.groups.heads(self._shared.group)
        taken = (earlier for earlier in reversed(heads) if place_on_branch(self._worktree, earlier.commit) is not None)
        return next(taken, replace(head, commit=self._branch.baseline_commit, patches=()))

    def commits_to_adopt(self) -> list[str]:
        """The commits by a person that change train.py and are no experiment yet, oldest first."""
        known = self._store.experiments.of_branch(self._branch.name, COMMITTED)
        return commits_to_adopt(self._worktree, self.own_head(), known)

    def follow(self) -> None:
        """Moves the branch to the group's head if that has moved, unless a person's commits are to be adopted before."""
        self.mend()
        head = self._shared.head()
        if head is not None and self._worktree.head() != head.commit and not self.commits_to_adopt():
            self.take(head)

    def take(self, head: Head) -> None:
        """Moves the branch to a head, unless a person's commits on top of it are there already. Completes an earlier call."""
        group = self._shared.group
        if place_on_branch(self._worktree, head.commit) in (None, self._worktree.head()):
            for ref in self._worktree.advance(head.commit):
                self._observer.on_event("parked", branch=self._branch.name, ref=ref)
        parked = self._worktree.move_shared(group, head.commit) if group != self._branch.name else None
        if parked is not None:
            self._observer.on_event("parked", branch=group, ref=parked)

    def mend(self) -> None:
        """Makes the branch and its folder again, if somebody has deleted them while the loop runs."""
        head = self._shared.head()
        missing = self._worktree.mend(self._branch.baseline_commit if head is None else head.commit)
        if missing:
            self._observer.on_event("made_again", branch=self._branch.name, what=" and ".join(missing))
