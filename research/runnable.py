"""Whether a train.py can be run: every rule on its text, checked before a run and before a proposal is accepted."""

from dataclasses import dataclass
from typing import Literal

from research.carried_data import carried_data_problem
from research.executed_text import own_text_problem
from research.own_seeds import seed_set_by
from research.remembered_texts import Remembered
from research.valid_train_py import character_problem, size_problem, syntax_problem


@dataclass(frozen=True, kw_only=True)
class NotRunnable:
    """Why a train.py can't be run."""

    status: Literal["crash", "invalid"]
    """How its run ends: crash if it is no Python."""
    reason: str


@Remembered
def not_runnable(train_py: str, evaluation: int) -> NotRunnable | None:
    """The first rule that a train.py breaks; None if it can be run. `evaluation`: bytes of text that it is scored on."""
    if problem := size_problem(train_py) or character_problem(train_py):
        return NotRunnable(status="invalid", reason=problem)
    if problem := syntax_problem(train_py):
        return NotRunnable(status="crash", reason=problem)
    try:
        problem = own_text_problem(train_py) or carried_data_problem(train_py, evaluation) or seed_set_by(train_py)
    except SyntaxError as error:
        return NotRunnable(status="crash", reason=f"train.py does not parse: {error.msg}")
    return NotRunnable(status="invalid", reason=problem) if problem else None
