"""The records from which all that is known of a group's ideas follows, and the events that hold some of them.

They are light to import: whoever reads the journal collects them, and only estimates need NumPy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from research.result import RunResult
from results.experiment import Branch, Experiment

HEAD, GAIN, RULING = "head", "gain", "ruling"
"""The kinds of the events that record what became the head of a group, what it gains by all runs, and what was ruled about
ideas without a score."""

REQUEST, REQUEST_TAKEN = "request", "request_taken"
"""The kinds of the events that record what a person asks of the loops, and that one of them has taken it up."""

CONTROL_REQUEST, WAVE_REQUEST = "control", "wave"
"""What a person may ask for: the baseline again, and a wave of near-misses."""

SUBMISSION, SUBMISSION_ENDED = "submission", "submission_ended"
"""The kinds of the events that record what was submitted from outside, and which experiment it became or why it was refused."""

Ruling = Literal["bar", "pin", "wave", "unbar", "restore"]
"""`bar`: an idea stays out of the head, `pin`: it stays in; `wave`: the wave of these ideas has ended; `unbar`: scores decide
again whether an idea is in the head, `restore`: likewise, and it is in the head now."""


DROPPED_BY_A_PERSON = "a person dropped it"
"""The reason of the ruling by which a person drops an idea."""

COMMITTED_BY_A_PERSON = "a person has committed it"
"""The reason of the ruling by which an idea stays in the head that a person has put on the branch."""


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
    reason: str = ""
    """Why, in words."""


Entry = Joined | Ran | Ruled


def ruled_from(details: Mapping[str, Any]) -> Ruled:
    """The ruling that an event's details hold."""
    return Ruled(ruling=details["ruling"], patches=tuple(details["patches"]), reason=details.get("reason", ""))
