"""New experiments of a loop: each gets its commit and its record, before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.adoption import adopted, bounded
from agent.code_lines import changed_lines, priced_lines
from agent.compare_programs import changed_constants, program_of, slots_of, structure_of
from agent.diff import unified_diff
from agent.repo.branch_names import experiment_id
from agent.repo.worktree import Worktree
from agent.shared_research import RequestedRun, SharedResearch
from agent.submissions import record_experiment
from research.formatting import one_line, utc_now
from results.experiment import Branch, Experiment, ExperimentKind, Head, Proposal
from results.store import Store


class NewExperiments:
    """Commits and records the experiments of one branch."""

    def __init__(self, *, branch: Branch, store: Store, worktree: Worktree, shared: SharedResearch, line_price: float,
                 fit: Callable[[str], str]) -> None:  # fmt: skip
        """`line_price` is the gain in bpb that each net added line must bring; `fit` sets the profile's starting
        hyperparameters in a train.py that a person committed for another profile.
        """
        self._branch, self._store, self._worktree, self._shared = branch, store, worktree, shared
        self._line_price, self._fit = line_price, fit

    def of_proposal(self, proposal: Proposal, *, kind: ExperimentKind) -> Experiment:
        """An idea on the head, committed under refs/experiments/<id>."""
        proposal = replace(proposal, title=one_line(proposal.title), hypothesis=bounded(proposal.hypothesis))
        parent = self._worktree.head()  # the head, or a person's commits on it that have no score or leave train.py alone
        commit = self._worktree.commit(
            proposal.train_py, message=commit_message(proposal), parent=parent, experiment_id=self._next_id()
        )
        experiment = self._add_idea(proposal, commit, kind=kind, head=self._head())
        if proposal.submission:
            record_experiment(self._store, self._shared.group, proposal.submission, experiment.id)
        return experiment

    def of_commit_by_hand(self, commit: str, *, on: Head) -> Experiment:
        """A person's commit on a head, fitted to the profile by a commit on top if it was made for another."""
        proposal, commit = adopted(self._worktree, commit, experiment_id=self._next_id(), fit=self._fit)
        return self._add_idea(proposal, commit, kind="manual", head=on)

    def of_request(self, run: RequestedRun) -> Experiment:
        """A run that the policy or a person asks for: of a known commit, or of one that is made now."""
        commit = run.base
        if run.train_py is not None:
            message = f"{run.title}\n\n{run.hypothesis}\n\nResearcher: farm\n"
            merged = [self._store.record(idea).experiment.commit for idea in run.parents]
            commit = self._worktree.commit(
                run.train_py, message=message, parent=run.base, experiment_id=self._next_id(), merged=merged
            )
        return self.of_commit(
            run.kind, run.title, commit, hypothesis=run.hypothesis, parent=run.base, parents=run.parents,
            patches=run.patches, left_out=run.left_out,
        )  # fmt: skip

    def of_commit(self, kind: ExperimentKind, title: str, commit: str, *, hypothesis: str, parent: str | None = None,
                  parents: tuple[str, ...] = (), patches: tuple[str, ...] = (),
                  left_out: tuple[str, ...] = ()) -> Experiment:  # fmt: skip
        """An experiment of the farm's own with an existing commit, such as a baseline."""
        base = parent or commit
        text, before = self._worktree.train_py(commit), self._worktree.train_py(base)
        return self._add(
            kind=kind, title=title, hypothesis=hypothesis, commit=commit, parent_commit=base, researcher="farm",
            parents=parents, patches=patches, left_out=left_out, **_described(before, text),
        )  # fmt: skip

    def _add_idea(self, proposal: Proposal, commit: str, *, kind: ExperimentKind, head: Head) -> Experiment:
        before = self._worktree.train_py(head.commit)
        described = _described(before, proposal.train_py)
        experiment = self._add(
            kind=kind,
            title=proposal.title,
            hypothesis=proposal.hypothesis,
            commit=commit,
            parent_commit=head.commit,
            researcher=proposal.researcher,
            parents=proposal.parents,
            changes=proposal.changes or constants_changed(before, proposal.train_py),
            patches=(*head.patches, self._next_id()),
            slots=slots_of(before, proposal.train_py),
            price=self._line_price * priced_lines(before, proposal.train_py),
            usage=proposal.usage,
            **described,
        )
        self._shared.suggestions.followed(proposal.suggestion, experiment.id)
        return experiment

    def _add(self, **fields: Any) -> Experiment:
        number = self._store.next_number(self._branch.name)
        name = experiment_id(self._branch.name, number)
        experiment = Experiment(id=name, branch=self._branch.name, number=number, created=utc_now(), **fields)
        self._store.add_experiment(experiment)
        return experiment

    def _head(self) -> Head:
        head = self._shared.head()
        assert head is not None, "the baseline comes first"
        return head

    def _next_id(self) -> str:
        return experiment_id(self._branch.name, self._store.next_number(self._branch.name))


def commit_message(proposal: Proposal) -> str:
    """The title, the hypothesis, and who proposed it."""
    return f"{proposal.title}\n\n{proposal.hypothesis}\n\nResearcher: {proposal.researcher}\n"


def constants_changed(before: str, after: str) -> dict[str, Any]:
    """The constants that an edit changed; empty if either text doesn't parse."""
    try:
        return changed_constants(before, after)
    except SyntaxError:
        return {}


def _described(before: str, after: str) -> dict[str, Any]:
    """The fields of an experiment that follow from its train.py and the one before."""
    added, removed = changed_lines(before, after)
    return {
        "diff": unified_diff(before, after),
        "program": program_of(after),
        "structure": structure_of(after),
        "lines_added": added,
        "lines_removed": removed,
    }
