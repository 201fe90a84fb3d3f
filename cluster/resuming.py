"""The commands that resume a branch or an experiment, for hints that people paste."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cluster.home import Home, home_option
from research.command_hints import to_type
from research.formatting import counted, one_line
from results.counts import count
from results.experiment import Branch, ExperimentRecord
from results.history import BranchHistory

STARTED_WITH = "started_with"
"""The kind of the logged event that says with which options a tag was last worked on."""

TITLE_WIDTH = 44


def log_options(
    home: Home, tag: str, words: str, *, command: str = "run", experiments: int | None = None, hours: float | None = None
) -> None:
    """Logs the options of a command that works on a tag, and its limits, as `resuming` gives them again."""
    limits = {name: value for name, value in (("experiments", experiments), ("hours", hours)) if value is not None}
    home.log_event(STARTED_WITH, tag=tag, options=words, command=command, limits=limits)


def resuming(home: Home, branch: Branch, *, done: int | None = None) -> str:
    """The command that resumes a branch: the one that has last worked on its tag, with those options, on the branch's terms.

    `done` is how many experiments the tag's branches have at least: a limit of experiments that is reached is left out, since
    the command would end at once. None: it is left out in any case.
    """
    from cluster.loop_plans import TERM_OPTIONS, term_options  # heavy, and only this function needs it

    terms = term_options(json.loads(branch.contract_json), TERM_OPTIONS)
    started = _started(home, branch)
    words = [f"farm {started.get('command', 'run')}", f"--tag {branch.tag}", terms, str(started.get("options", ""))]
    limits = [
        f"--{name} {value:g}" if name == "hours" else f"--{name} {value}" for name, value in _limits_left(started, done).items()
    ]
    return to_type(" ".join(filter(None, [*words, *limits])) + home_option(home))


def resuming_with(home: Home, branch: Branch, *, done: int | None = None) -> str:
    """The end of a sentence: ` with: COMMAND`, which says so if the command has lost the limit that ended the last call."""
    started = _started(home, branch)
    is_endless = bool(started.get("limits")) and not _limits_left(started, done) and "--max-cost" not in started["options"]
    return f"{', without a limit (it runs until Ctrl-C),' if is_endless else ''} with: {resuming(home, branch, done=done)}"


def _started(home: Home, branch: Branch) -> dict[str, Any]:
    """With which command and options a branch was last worked on; empty if that is not known.

    One that has a worktree in the home is a loop's: no `farm try` can take it, whatever was logged.
    """
    from agent.repo.branch_names import worktree_folder

    is_loops = worktree_folder(home.folder, branch.name).is_dir()
    return home.last_event(STARTED_WITH, tag=branch.tag, **({"command": "run"} if is_loops else {}))


def _limits_left(started: Mapping[str, Any], done: int | None) -> dict[str, float]:
    """The limits of the last call that the next one can have as well."""
    limits = dict(started.get("limits") or {})
    if "experiments" in limits and (done is None or done >= limits["experiments"]):
        del limits["experiments"]
    return limits


def is_tried_by_hand(home: Home, branch: Branch) -> bool:
    """Whether `farm try` resumes a branch, rather than `farm run`."""
    return bool(_started(home, branch).get("command") == "try")


def _steps_before(home: Home, history: BranchHistory, record: ExperimentRecord) -> list[str]:
    """The commands that come before the `farm try` that finishes an experiment; none before another command."""
    if record.experiment.kind == "confirm" or not is_tried_by_hand(home, history.branch):
        return []
    from cluster.before_try import steps_to_finish  # asks git

    return steps_to_finish(home, record.experiment)


def resume_lines(home: Home, histories: Iterable[BranchHistory], branches: Collection[str]) -> list[str]:
    """A line with the command that resumes a farm that worked on these branches; none if nothing is recorded of them."""
    known = [history for history in histories if history.branch.name in branches]
    return [f"resume it{resuming_with(home, known[0].branch, done=_least_done(known))}"] if known else []


def _least_done(histories: Iterable[BranchHistory]) -> int:
    """How many experiments each of these branches has at least."""
    return min(count(history.outlines).done for history in histories)


def interrupted_lines(home: Home, histories: Iterable[BranchHistory]) -> list[str]:
    """What was interrupted, each with the commands that finish and drop it. To be asked while no farm runs."""
    histories = list(histories)
    of_branch = {history.branch.name: history for history in histories}
    lines = []
    for record in interrupted(histories):
        experiment = record.experiment
        finish = _finishing(home, of_branch[experiment.branch], record)
        before = _steps_before(home, of_branch[experiment.branch], record) if finish else []
        drop = f"`{to_type(f'farm abandon{home_option(home)} {experiment.id}')}` drops it"
        sides = [record, *other_sides(record, open_records(of_branch[experiment.branch]))]
        what = f"interrupted: {' and '.join(_named_with_runs(side) for side in sides)}"
        steps = "".join(f"`{step}`{' (in place of the edit there)' if ' restore ' in step else ''}, then " for step in before)
        lines.append(f"{what}: {f'{steps}`{finish}` finishes it, ' if finish else ''}{drop}")
    return lines


def interrupted(histories: Iterable[BranchHistory]) -> list[ExperimentRecord]:
    """The experiments without a verdict, of which none is under way while no farm runs; of a confirmation one side."""
    found = []
    for history in histories:
        begun = open_records(history)
        for record in begun:
            is_second = history.branch.baseline_commit == record.experiment.commit and other_sides(record, begun)
            if not is_second:
                found.append(record)
    return found


def open_records(history: BranchHistory) -> list[ExperimentRecord]:
    """The experiments of a branch without a verdict."""
    return [history.records[at] for at, outline in enumerate(history.outlines) if outline.verdict is None]


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


def _named_with_runs(record: ExperimentRecord) -> str:
    """An interrupted experiment in words, with how many of its runs have ended."""
    ended = sum(run.status != "lost" for run in record.runs)
    measured = f", {counted(ended, 'run')} measured" if ended or record.experiment.kind == "confirm" else ""
    return f"{record.experiment.id} ({one_line(record.experiment.title, TITLE_WIDTH)}{measured})"


def _confirmation(record: ExperimentRecord) -> str:
    """What the titles of both sides of a confirmation begin with."""
    return record.experiment.title.partition(":")[0]


def _finishing(home: Home, history: BranchHistory, record: ExperimentRecord) -> str:
    """The command that finishes an interrupted experiment: the one that it was begun with. Empty for half a confirmation."""
    experiment = record.experiment
    if experiment.kind != "confirm":
        return resuming(home, history.branch, done=_least_done([history]))
    if experiment.commit == history.branch.baseline_commit:
        return ""  # the other half has ended
    return to_type(f"farm confirm{home_option(home)} {' '.join(experiment.parents)}".rstrip())
