"""Reads a home's history for commands. The errors name the command that helps, with its --home."""

from cluster.home import Home, home_option
from research.command_hints import to_type
from research.errors import UserError
from results import history
from results.experiment import ExperimentRecord
from results.history import BranchHistory


def read_history(home: Home) -> list[BranchHistory]:
    """All branches of a home, the one with the newest experiment last. Raises UserError if nothing is recorded
    or the home can't be read.
    """
    try:
        found = history.read_history(home.journal)
    except OSError as error:
        raise UserError(f"{home.journal} can't be read ({error.strerror}): ask its owner, or choose another --home.") from None
    if not found:
        demo, run = (to_type(f"farm {name}{home_option(home)}") for name in ("demo", "run"))
        raise UserError(f"Nothing is recorded in {home.folder} yet: `{demo}` or `{run}` starts a history.")
    return found


def record_named(home: Home, histories: list[BranchHistory], name: str, *, or_branch: bool = False) -> ExperimentRecord:
    """The experiment that `name` stands for, by the rules of `experiment_named`. Raises UserError."""
    return history.experiment_named(histories, name, ask=to_type(f"farm sql{home_option(home)}"), or_branch=or_branch)
