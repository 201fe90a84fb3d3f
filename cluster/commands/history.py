"""The history as the commands read it: straight from the journal, so that it works while a farm runs and afterwards."""

import json
from dataclasses import dataclass, field

from agent.repo.branch_names import full_name, short_name
from cluster.home import Home, home_option
from research.errors import UserError
from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentRecord, Verdict, branch_from, experiment_from, verdict_from
from results.journal import read_journal

SHORTEST_COMMIT = 5
"""Fewer digits than this are an experiment's number."""


@dataclass(frozen=True, kw_only=True)
class BranchHistory:
    """A branch with its experiments, oldest first."""

    branch: Branch
    records: tuple[ExperimentRecord, ...]

    @property
    def keeps(self) -> list[ExperimentRecord]:
        """The baseline and what was kept since, oldest first; the last one is the head."""
        return [record for record in self.records if record.verdict is not None and record.verdict.decision == "keep"]

    @property
    def head(self) -> ExperimentRecord | None:
        return self.keeps[-1] if self.keeps else None


def read_history(home: Home) -> list[BranchHistory]:
    """All branches, those with the newest experiment last. A UserError where nothing is recorded."""
    found = _Found()
    for record in read_journal(home.journal, on_damage=lambda _: None):
        found.add(record.kind, dict(record.body))
    if not found.branches:
        at_home = home_option(home)
        raise UserError(
            f"Nothing is recorded in {home.folder} yet: `farm demo{at_home}` or `farm run{at_home}` starts a history."
        )
    return found.histories()


def branch_named(histories: list[BranchHistory], name: str | None) -> BranchHistory:
    """The branch with this name or tag; None is the newest with a score. Of a tag's comparable loops it is the best one.

    A UserError lists what there is.
    """
    if name is None:
        tag = next((history for history in reversed(histories) if history.keeps), histories[-1]).branch.tag
    else:
        full = full_name(name)
        exact = [history for history in histories if history.branch.name == full]
        if exact:
            return exact[0]
        tag = short_name(name)
    tagged = [history for history in histories if history.branch.tag == tag]
    if not tagged:
        there = ", ".join(short_name(history.branch.name) for history in histories)
        raise UserError(f"No branch or tag is called {name!r}: there are {there}.")
    return _best_of_comparable(tagged)


def record_named(home: Home, histories: list[BranchHistory], name: str) -> ExperimentRecord:
    """The home's experiment whose id or commit is, or begins with, `name`; a short number counts on the newest branch.

    Raises UserError.
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
        sql = f"farm sql{home_option(home)} 'SELECT id, commit, title FROM history'"
        raise UserError(f"No experiment is called {name!r}: {sql} lists them.")
    if len({record.experiment.commit for record in found}) > 1:
        some = ", ".join(record.experiment.id for record in found[:5])
        raise UserError(f"{name!r} could be any of {len(found)} experiments ({some}): give more of it.")
    return found[0]


def _best_of_comparable(tagged: list[BranchHistory]) -> BranchHistory:
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


@dataclass
class _Found:
    """What the journal has told so far."""

    branches: dict[str, Branch] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, list[RunResult]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def add(self, kind: str, body: dict[str, object]) -> None:
        if kind == "branch":
            branch = branch_from(body)
            self.branches[branch.name] = branch
        elif kind == "experiment":
            experiment = experiment_from(body)
            self.experiments[experiment.id] = experiment
        elif kind == "run":
            self.runs.setdefault(str(body["experiment_id"]), []).append(RunResult.from_json(json.dumps(body)))
        elif kind == "verdict":
            self.verdicts[str(body["experiment_id"])] = verdict_from(body)  # the last one counts

    def histories(self) -> list[BranchHistory]:
        of_branch: dict[str, list[ExperimentRecord]] = {name: [] for name in self.branches}
        for experiment in self.experiments.values():
            record = ExperimentRecord(
                experiment=experiment,
                runs=tuple(self.runs.get(experiment.id, ())),
                verdict=self.verdicts.get(experiment.id),
            )
            of_branch[experiment.branch].append(record)
        histories = [BranchHistory(branch=branch, records=tuple(of_branch[name])) for name, branch in self.branches.items()]
        return sorted(histories, key=_last_change)


def _last_change(history: BranchHistory) -> str:
    return history.records[-1].experiment.created if history.records else history.branch.created
