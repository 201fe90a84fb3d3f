"""An idea of a researcher's own that has crashed, with what it needs to mend it. It is told of one crash at most twice."""

from dataclasses import dataclass
from itertools import islice

from agent.diff import apply_diff
from agent.researcher import Context
from agent.researchers.history_text import as_data
from research.formatting import one_line, plain_lines
from results.experiment import ExperimentRecord

MAX_REPAIRS = 2
"""How often an idea is mended after a crash, its mended versions included."""

RECENT = 6
"""Among how many of the loop's latest experiments a crash is looked for: an older one was given up."""

LOG_CHARACTERS = 6_000
"""Characters at the end of a crashed run's log that are shown."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A crashed idea that is to be mended."""

    record: ExperimentRecord
    train_py: str
    """The head's train.py with its edit."""

    @property
    def id(self) -> str:
        """The crashed experiment's id."""
        return self.record.experiment.id

    def text(self) -> str:
        """What the model is told of it."""
        experiment, run = self.record.experiment, self.record.runs[-1]
        told = f"{one_line(experiment.title, 120)}\n\n{experiment.diff}\n\n{one_line(run.reason, 300)}\n"
        log = plain_lines(run.log_tail[-LOG_CHARACTERS:], LOG_CHARACTERS)
        return (
            f"Your experiment {experiment.id} crashed. The editor's train.py has its edit already: mend it and submit it, or "
            f"undo it and try something else if it isn't worth another run.\n\n{as_data('crash', f'{told}{log}')}"
        )


def repair_due(context: Context, researcher: str) -> Repair | None:
    """The latest crash of the researcher's own that nothing has followed up and whose edit fits the head; None without one."""
    latest = list(islice(reversed(context.records), RECENT))
    followed = {parent for record in latest for parent in record.experiment.parents}
    for record in latest:
        experiment = record.experiment
        is_own = experiment.kind == "explore" and experiment.researcher == researcher and experiment.id not in followed
        if not (is_own and record.runs and record.runs[-1].status == "crash" and record.verdict is not None):
            continue
        if _repairs(experiment.parents, context) >= MAX_REPAIRS:
            continue
        try:
            return Repair(record=record, train_py=apply_diff(context.train_py, experiment.diff))
        except ValueError:  # the head has changed there
            continue
    return None


def _repairs(parents: tuple[str, ...], context: Context) -> int:
    """How many crashes in a row an experiment with these parents is the mended version of."""
    latest = {record.experiment.id: record for record in islice(reversed(context.records), 4 * RECENT)}
    count = 0
    while len(parents) == 1 and parents[0] in latest and latest[parents[0]].runs[-1:]:
        parent = latest[parents[0]]
        if parent.runs[-1].status != "crash":
            break
        count, parents = count + 1, parent.experiment.parents
    return count
