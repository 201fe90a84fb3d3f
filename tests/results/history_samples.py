"""Histories without a journal, for texts that people read."""

from collections.abc import Mapping, Sequence
from typing import Any

from results.experiment import Branch, ExperimentRecord
from results.group_entries import Entry, Joined, Ran
from results.group_history import Decided, GroupHistory
from results.history import BranchHistory
from tests.results.result_samples import make_branch


def history_of(records: Sequence[ExperimentRecord], *others: Sequence[ExperimentRecord], branch: Branch | None = None,
               heads: Sequence[Mapping[str, Any]] = (), decisions: Mapping[str, Sequence[Decided]] | None = None,
               ) -> BranchHistory:  # fmt: skip
    """A branch with these experiments, whose runs ended in this order, and as many others of its group as are given."""
    first = branch or make_branch()
    branches = [first, *(make_branch(of[0].experiment.branch, group=first.head_branch) for of in others)]
    every = [record for of in (records, *others) for record in of]
    joined: list[Entry] = [Joined(branch=one) for one in branches]
    ran = [Ran(experiment=record.experiment, run=run) for record in every for run in record.runs]
    decided = {r.experiment.id: (Decided(time="2026-03-08T21:00:00Z", verdict=r.verdict),) for r in every if r.verdict}
    group = GroupHistory(
        name=first.head_branch,
        branches=tuple(branches),
        records=tuple(every),
        entries=(*joined, *ran),
        head_events=tuple(heads),
        decisions={**decided, **(decisions or {})},
    )
    costs = tuple(record.experiment.usage for record in records)
    return BranchHistory(branch=first, records=tuple(records), costs=costs, group=group)
