"""The commands that resume a branch or an experiment, for hints that people paste."""

import json
from collections.abc import Collection, Iterable

from cluster.home import Home, home_option
from research.command_hints import to_type
from research.formatting import one_line
from results.experiment import Branch, ExperimentRecord
from results.history import BranchHistory

STARTED_WITH = "started_with"
"""The kind of the logged event that says with which options a tag was last worked on."""

TITLE_WIDTH = 44


def log_options(home: Home, tag: str, words: str, *, command: str = "run") -> None:
    """Logs the options of a command that works on a tag, as `resuming` gives them again."""
    home.log_event(STARTED_WITH, tag=tag, options=words, command=command)


def resuming(home: Home, branch: Branch) -> str:
    """The command that resumes a branch: the one that has last worked on its tag, with those options, on the branch's terms."""
    from cluster.loop_plans import TERM_OPTIONS, term_options  # heavy, and only this function needs it

    terms = term_options(json.loads(branch.contract_json), TERM_OPTIONS)
    started = home.last_event(STARTED_WITH, tag=branch.tag)
    words = [f"farm {started.get('command', 'run')}", f"--tag {branch.tag}", terms, str(started.get("options", ""))]
    return to_type(" ".join(filter(None, words)) + home_option(home))


def resume_lines(home: Home, histories: Iterable[BranchHistory], branches: Collection[str]) -> list[str]:
    """A line with the command that resumes a farm that worked on these branches; none if nothing is recorded of them."""
    known = [history.branch for history in histories if history.branch.name in branches]
    return [f"resume it with: {resuming(home, known[0])}"] if known else []


def interrupted_lines(home: Home, histories: Iterable[BranchHistory]) -> list[str]:
    """What was interrupted, each with the commands that finish and drop it. To be asked while no farm runs."""
    histories = list(histories)
    branch_of = {history.branch.name: history.branch for history in histories}
    return [
        f"interrupted: {record.experiment.id} ({one_line(record.experiment.title, TITLE_WIDTH)}): "
        f"`{_finishing(home, branch_of[record.experiment.branch], record)}` finishes it, "
        f"`{to_type(f'farm abandon{home_option(home)} {record.experiment.id}')}` drops it"
        for record in interrupted(histories)
    ]


def interrupted(histories: Iterable[BranchHistory]) -> list[ExperimentRecord]:
    """The experiments without a verdict, of which none is under way while no farm runs."""
    return [
        record
        for history in histories
        for record in history.records
        if record.verdict is None and not _is_baselines_side(history.branch, record)
    ]


def _finishing(home: Home, branch: Branch, record: ExperimentRecord) -> str:
    """The command that finishes an interrupted experiment: the one that it was begun with."""
    experiment = record.experiment
    if experiment.kind == "confirm":
        return to_type(f"farm confirm{home_option(home)} {' '.join(experiment.parents)}".rstrip())
    return resuming(home, branch)


def _is_baselines_side(branch: Branch, record: ExperimentRecord) -> bool:
    """Whether it is the baseline's side of a confirmation, which ends with the other one."""
    return record.experiment.kind == "confirm" and record.experiment.commit == branch.baseline_commit
