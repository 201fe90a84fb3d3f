"""A researcher that follows a script: for tests, dry runs, and a prepared list of ideas."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.compare_programs import changed_constants
from agent.researcher import Context, OutOfIdeas
from research.errors import UserError
from research.formatting import counted
from research.hyperparameters import write_constants
from research.recipes import Constant
from research.valid_train_py import problem_with
from results.experiment import Proposal


@dataclass(frozen=True, kw_only=True)
class Step:
    """One idea of a script: exactly one of `constants`, `replace` and `train_py` must be given."""

    title: str
    hypothesis: str = ""
    constants: dict[str, Constant] | None = None
    """New values of constants of train.py."""
    replace: tuple[tuple[str, str], ...] | None = None
    """(old, new) of each edit: a passage of the train.py so far that occurs exactly once, and its replacement."""
    train_py: str | None = None
    """The complete new text."""

    def __post_init__(self) -> None:
        given = [edit for edit in (self.constants, self.replace, self.train_py) if edit is not None]
        if len(given) != 1:
            raise UserError(f"The step {self.title!r} needs exactly one of constants, replace and train_py.")

    def apply(self, train_py: str) -> str:
        """The new text of train.py. Raises UserError if the step doesn't fit."""
        if self.constants is not None:
            return write_constants(train_py, self.constants)
        if self.replace is not None:
            for old, new in self.replace:
                found = train_py.count(old)
                if found != 1:
                    raise UserError(
                        f"the text to replace occurs {found} times in train.py and must occur exactly once: {old!r}"
                    )
                train_py = train_py.replace(old, new)
            return train_py
        return self.train_py or ""


class ScriptedResearcher:
    """Proposes the steps of a script in order, and resumes after those that the history holds.

    A person has listed them, so each is run, even if it repeats an experiment: every loop plays the whole script.
    """

    name = "scripted"

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    @classmethod
    def from_file(cls, path: str | Path) -> "ScriptedResearcher":
        """Reads a list of steps from a JSON file, or from a .py file with one literal list, which is not executed.

        Raises UserError.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            entries = ast.literal_eval(text) if path.suffix == ".py" else json.loads(text)
        except OSError as error:
            raise UserError(f"The script {path} can't be read: {error.strerror}.") from None
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise UserError(f"The script {path} is not a list of steps: {error}.") from None
        if not isinstance(entries, list):
            raise UserError(f"The script {path} must hold a list of steps.")
        return cls([_step(entry, number, path) for number, entry in enumerate(entries, start=1)])

    async def propose(self, context: Context) -> Proposal:
        """The next step, applied to the head. Raises OutOfIdeas after the last step, UserError if one doesn't fit."""
        done = sum(record.experiment.researcher == self.name for record in context.records)
        if done >= len(self.steps):
            raise OutOfIdeas(f"All {counted(len(self.steps), 'step')} of the script have been proposed.")
        step = self.steps[done]
        try:
            train_py = step.apply(context.train_py)
        except UserError as error:
            raise UserError(f"Step {done + 1} of the script ({step.title}) does not fit: {error}") from None
        parses = problem_with(train_py) is None  # text that doesn't parse is proposed all the same, and its run fails
        return Proposal(
            title=step.title,
            hypothesis=step.hypothesis,
            train_py=train_py,
            researcher=self.name,
            changes=changed_constants(context.train_py, train_py) if parses else {},
            deliberate=True,
        )

    async def close(self) -> None:
        """Does nothing: a script holds no connection."""


def _step(entry: Any, number: int, path: Path) -> Step:
    if not isinstance(entry, dict) or not isinstance(entry.get("title"), str):
        raise UserError(f"Step {number} of {path} must be an object with a title.")
    unknown = set(entry) - {"title", "hypothesis", "constants", "replace", "train_py"}
    if unknown:
        raise UserError(f"Step {number} of {path} has unknown fields: {', '.join(sorted(unknown))}.")
    edits = entry.get("replace")
    if edits is not None:
        edits = [edits] if _is_edit(edits) else edits
        if not isinstance(edits, list | tuple) or not edits or not all(map(_is_edit, edits)):
            raise UserError(f"Step {number} of {path}: replace must be [old, new], or a list of such pairs.")
        edits = tuple((old, new) for old, new in edits)
    constants = entry.get("constants")
    if constants is not None:  # JSON has lists where train.py has tuples
        constants = {name: tuple(value) if isinstance(value, list) else value for name, value in constants.items()}
    return Step(**{**entry, "constants": constants, "replace": edits})


def _is_edit(value: Any) -> bool:
    """Whether this is [old, new]."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)
