"""The records from which all that is known of a group's ideas follows, and the events that hold some of them.

They are light to import: whoever reads the journal collects them, and only estimates need NumPy.
"""

from dataclasses import dataclass
from typing import Literal

from research.result import RunResult
from results.experiment import Branch, Experiment

HEAD, RULING = "head", "ruling"
"""The kinds of the events that record what became the head of a group, and what was ruled about ideas without a score."""

Ruling = Literal["bar", "pin", "wave"]
"""`bar`: an idea stays out of the head, `pin`: it stays in; `wave`: the wave of these ideas has ended."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A branch has joined the group."""

    branch: Branch


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run of an experiment has ended."""

    experiment: Experiment
    run: RunResult


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """Something about ideas that no score says."""

    ruling: Ruling
    patches: tuple[str, ...]


Entry = Joined | Ran | Ruled
