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
    of_branch = {history.branch.name: history for history in histories}
    lines = []
    for record in interrupted(histories):
        experiment = record.experiment
        finish = _finishing(home, of_branch[experiment.branch], record)
        drop = f"`{to_type(f'farm abandon{home_option(home)} {experiment.id}')}` drops it"
        what = f"interrupted: {experiment.id} ({one_line(experiment.title, TITLE_WIDTH)})"
        lines.append(f"{what}: {f'`{finish}` finishes it, ' if finish else ''}{drop}")
    return lines


def interrupted(histories: Iterable[BranchHistory]) -> list[ExperimentRecord]:
    """The experiments without a verdict, of which none is under way while no farm runs; of a confirmation one side."""
    found = []
    for history in histories:
        for record in history.records:
            is_second = history.branch.baseline_commit == record.experiment.commit and other_sides(record, history.records)
            if record.verdict is None and not is_second:
                found.append(record)
    return found


def other_sides(record: ExperimentRecord, records: Iterable[ExperimentRecord]) -> list[ExperimentRecord]:
    """The other side of a confirmation among `records`, if it has no verdict either: they end together."""
    return [
        other
        for other in records
        if record.experiment.kind == other.experiment.kind == "confirm"
        and other.verdict is None
        and other.experiment.branch == record.experiment.branch
        and other.experiment.id != record.experiment.id
        and _confirmation(other) == _confirmation(record)
    ]


def _confirmation(record: ExperimentRecord) -> str:
    """What the titles of both sides of a confirmation begin with."""
    return record.experiment.title.partition(":")[0]


def _finishing(home: Home, history: BranchHistory, record: ExperimentRecord) -> str:
    """The command that finishes an interrupted experiment: the one that it was begun with. Empty for half a confirmation."""
    experiment = record.experiment
    if experiment.kind != "confirm":
        return resuming(home, history.branch)
    if experiment.commit == history.branch.baseline_commit:
        return ""  # the other half has ended
    return to_type(f"farm confirm{home_option(home)} {' '.join(experiment.parents)}".rstrip())
