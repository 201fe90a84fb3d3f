"""The history as records, looked up by name. It is read from the journal, which works while a farm is running."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from research.errors import UserError
from research.result import RunResult
from results.costs import cost_in
from results.experiment import (
    Branch,
    Experiment,
    ExperimentRecord,
    Usage,
    Verdict,
    branch_from,
    experiment_from,
    run_from,
    verdict_from,
)
from results.journal import read_journal

SHORTEST_COMMIT = 5
"""Minimum length of a commit's prefix: fewer digits are the number of an experiment."""

MOST_NAMED = 5
"""Maximum number of experiments to list for an ambiguous name."""


@dataclass(frozen=True, kw_only=True)
class BranchHistory:
    """A branch with its experiments, oldest first. The records hold audit scores: they are for people, not for researchers."""

    branch: Branch
    records: tuple[ExperimentRecord, ...]
    costs: tuple[Usage, ...] = ()
    """What its researcher cost, failed proposals included (`results/costs.py`)."""

    @property
    def keeps(self) -> list[ExperimentRecord]:
        """The baseline and what was kept since, oldest first."""
        return [record for record in self.records if record.verdict is not None and record.verdict.decision == "keep"]

    @property
    def head(self) -> ExperimentRecord | None:
        """The last keep; None before the baseline has a score."""
        return self.keeps[-1] if self.keeps else None


def read_history(journal: Path) -> list[BranchHistory]:
    """All branches in a journal file, the one with the newest experiment last; none if the file does not exist.

    Damaged lines are left out.
    """
    branches: dict[str, Branch] = {}
    experiments: dict[str, Experiment] = {}
    runs: list[tuple[str, RunResult]] = []
    verdicts: list[tuple[str, Verdict]] = []
    costs: dict[str, list[Usage]] = {}
    for record in read_journal(journal, on_damage=lambda _: None):
        body = record.body
        if record.kind == "branch":
            branches[body["name"]] = branch_from(body)
        elif record.kind == "experiment":
            experiments[body["id"]] = experiment_from(body)
        elif record.kind == "run":
            runs.append((body["experiment_id"], run_from(body)))
        elif record.kind == "verdict":
            verdicts.append((body["experiment_id"], verdict_from(body)))
        cost = cost_in(record)
        if cost is not None:
            costs.setdefault(cost.branch, []).append(cost.usage)
    of_branch: dict[str, list[ExperimentRecord]] = {name: [] for name in branches}
    for assembled in assemble(experiments.values(), runs, verdicts):
        of_branch[assembled.experiment.branch].append(assembled)
    histories = [
        BranchHistory(branch=branch, records=tuple(of_branch[name]), costs=tuple(costs.get(name, ())))
        for name, branch in branches.items()
    ]
    return sorted(histories, key=_last_change)


def assemble(
    experiments: Iterable[Experiment], runs: Iterable[tuple[str, RunResult]], verdicts: Iterable[tuple[str, Verdict]]
) -> list[ExperimentRecord]:
    """A record for each experiment, in the order given, with its runs and its latest verdict.

    Runs and verdicts come with their experiment's id, oldest first.
    """
    runs_of: dict[str, list[RunResult]] = {}
    for experiment_id, run in runs:
        runs_of.setdefault(experiment_id, []).append(run)
    latest = dict(verdicts)
    return [
        ExperimentRecord(experiment=one, runs=tuple(runs_of.get(one.id, ())), verdict=latest.get(one.id)) for one in experiments
    ]


def branch_named(histories: Sequence[BranchHistory], name: str | None) -> BranchHistory:
    """The branch with this name (the part before the slash may be left out), or the best branch of this tag.

    None means the newest tag that has a score. A tag's branches compare with its newest one if platform and score
    fingerprint are equal. Raises UserError, which lists what there is. `histories` must not be empty.
    """
    if name is None:
        tag = next((history for history in reversed(histories) if history.keeps), histories[-1]).branch.tag
    else:
        exact = [history for history in histories if name in (history.branch.name, _short(history.branch.name))]
        if exact:
            return exact[0]
        tag = _short(name)
    tagged = [history for history in histories if history.branch.tag == tag]
    if not tagged:
        there = ", ".join(_short(history.branch.name) for history in histories)
        raise UserError(f"No branch or tag is called {name!r}: there are {there}.")
    return _best_of_comparable(tagged)


def experiment_named(histories: Sequence[BranchHistory], name: str, *, ask: str = "farm sql") -> ExperimentRecord:
    """The experiment with this id; else the one whose id or commit begins with it, or the newest branch's with this number.

    Raises UserError if there is none, or several; `ask` is the command that queries this history.
    """
    records = [record for history in histories for record in history.records]
    for record in records:
        if record.experiment.id == name:
            return record
    if name.isdigit() and len(name) < SHORTEST_COMMIT:
        newest = next((history.records for history in reversed(histories) if history.records), ())
        found = [record for record in newest if record.experiment.number == int(name)]
    else:
        found = [r for r in records if name and (r.experiment.id.startswith(name) or r.experiment.commit.startswith(name))]
    if not found:
        raise UserError(f"No experiment is called {name!r}: {ask} 'SELECT id, commit, title FROM history' lists them.")
    if len({record.experiment.commit for record in found}) > 1:
        some = ", ".join(record.experiment.id for record in found[:MOST_NAMED])
        raise UserError(f"{name!r} could be any of {len(found)} experiments ({some}): give more characters.")
    return found[0]


def _best_of_comparable(tagged: Sequence[BranchHistory]) -> BranchHistory:
    """The branch with the lowest head among those that compare with the newest; the newest if none has a score."""
    newest = tagged[-1]
    terms = (newest.branch.platform, newest.branch.score_fingerprint)
    scored = [
        (history.head.val_bpb, -index, history)
        for index, history in enumerate(tagged)
        if (history.branch.platform, history.branch.score_fingerprint) == terms
        and history.head is not None
        and history.head.val_bpb is not None
    ]
    return min(scored)[2] if scored else newest


def _short(branch_name: str) -> str:
    """A git branch's name without the part before its first slash."""
    return branch_name.partition("/")[2] or branch_name


def _last_change(history: BranchHistory) -> str:
    return history.records[-1].experiment.created if history.records else history.branch.created
