"""How people steer a group's loops while they run, as events tell of it: suggestions, paused loops, versions of program.md, and
plateaus.

It is light to import: whoever reads the journal collects it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

SUGGESTION, SUGGESTION_CLOSED = "suggestion", "suggestion_closed"
"""The kinds of the events that record a person's idea in words for a group, and that it is followed or withdrawn."""

LOOP_PAUSED = "loop_paused"
"""The kind of the event that records that a loop is paused, or resumed."""

POLICY = "policy"
"""The kind of the event that records which version of program.md a group's researchers read from then on."""

PLATEAU = "plateau"
"""The kind of the event that records that a group has tried many ideas without a keep."""

PLATEAU_IDEAS = 20
"""How many ideas of a group without a keep are a plateau, unless an option says otherwise."""


class EventLog(Protocol):
    """Where the events of branches are recorded: the store."""

    def events(self, kind: str, branch: str) -> Sequence[dict[str, Any]]:
        """The details of a branch's events of one kind, oldest first."""

    def add_event(self, kind: str, body: Mapping[str, Any], *, id: str | None = None) -> bool:
        """Adds an event; with an `id`, only once. Returns whether it is new."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A person's idea in words."""

    number: int
    """Number within its group, from 1."""
    text: str
    experiment: str = ""
    """Id of the experiment that follows it; empty if none does."""
    is_open: bool = True
    """Whether researchers are still asked to propose an experiment for it."""

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        if self.is_open:
            return "open"
        return f"followed by {self.experiment}" if self.experiment else "withdrawn"


@dataclass(frozen=True, kw_only=True)
class PolicyVersion:
    """A version of program.md that researchers have read."""

    digest: str
    """The beginning of the SHA-256 of its text, in hexadecimal."""
    time: str
    """When a researcher first got it, ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How people have steered a group so far."""

    suggestions: tuple[Suggestion, ...] = ()
    """All that were ever made, oldest first."""
    paused: frozenset[str] = frozenset()
    """The branches whose loops are paused."""
    policies: tuple[PolicyVersion, ...] = ()
    """The versions of program.md, oldest first."""
    plateau_after: str | None = None
    """The id of the last keep, empty for none, after which the latest plateau was recorded; None: there was no plateau."""

    @property
    def open_suggestions(self) -> tuple[Suggestion, ...]:
        """Those that no experiment follows yet and that were not withdrawn."""
        return tuple(suggestion for suggestion in self.suggestions if suggestion.is_open)


@dataclass(frozen=True)
class SteeringEvents:
    """What the events of a journal have told of steering so far, by group or branch."""

    suggestions: dict[str, dict[int, Suggestion]] = field(default_factory=dict)
    paused: dict[str, bool] = field(default_factory=dict)
    policies: dict[str, list[PolicyVersion]] = field(default_factory=dict)
    plateaus: dict[str, str] = field(default_factory=dict)

    def take(self, kind: str, details: Mapping[str, Any], time: str) -> None:
        """Takes note of an event, which may be of any kind."""
        if kind not in (SUGGESTION, SUGGESTION_CLOSED, LOOP_PAUSED, POLICY, PLATEAU):
            return
        name = details["branch"]
        if kind == SUGGESTION:
            self.suggestions.setdefault(name, {})[details["number"]] = _suggestion(details)
        elif kind == SUGGESTION_CLOSED:
            known = self.suggestions.get(name, {})
            if details["number"] in known:  # its own line may be damaged
                known[details["number"]] = _closed(known[details["number"]], details)
        elif kind == LOOP_PAUSED:
            self.paused[name] = details["paused"]
        elif kind == POLICY:
            self.policies.setdefault(name, []).append(PolicyVersion(digest=details["digest"], time=time))
        else:
            self.plateaus[name] = details["after"]

    def of_group(self, group: str, branches: Collection[str]) -> Steering:
        """How a group with these branches was steered."""
        return Steering(
            suggestions=tuple(self.suggestions.get(group, {}).values()),
            paused=frozenset(name for name in branches if self.paused.get(name)),
            policies=tuple(self.policies.get(group, ())),
            plateau_after=self.plateaus.get(group),
        )


def add_suggestion(log: EventLog, group: str, text: str) -> Suggestion:
    """Records a person's idea in words for the loops of a group."""
    number = max((event["number"] for event in log.events(SUGGESTION, group)), default=0) + 1
    while not log.add_event(SUGGESTION, {"branch": group, "number": number, "text": text}, id=f"{SUGGESTION} {group} {number}"):
        number += 1  # another thread had this one
    return Suggestion(number=number, text=text)


def suggestions_of(log: EventLog, group: str) -> list[Suggestion]:
    """All suggestions that were made to a group, oldest first."""
    closed = {event["number"]: event for event in log.events(SUGGESTION_CLOSED, group)}
    found = [_suggestion(event) for event in log.events(SUGGESTION, group)]
    return [_closed(one, closed[one.number]) if one.number in closed else one for one in found]


def close_suggestion(log: EventLog, group: str, number: int, *, experiment: str = "") -> bool:
    """Records that an experiment follows a suggestion, or without one that a person has withdrawn it. Once for each."""
    body = {"branch": group, "number": number, "experiment": experiment}
    return log.add_event(SUGGESTION_CLOSED, body, id=f"{SUGGESTION_CLOSED} {group} {number}")


def is_paused(log: EventLog, branch: str) -> bool:
    """Whether a person has paused a branch's loop and not resumed it."""
    events = log.events(LOOP_PAUSED, branch)
    return bool(events) and bool(events[-1]["paused"])


def set_paused(log: EventLog, branch: str, paused: bool) -> None:
    """Records that a person pauses a branch's loop, or resumes it."""
    log.add_event(LOOP_PAUSED, {"branch": branch, "paused": paused})


def note_policy(log: EventLog, group: str, digest: str) -> bool:
    """Records which program.md a group's researchers get, if it is another one than before. Returns whether it is."""
    events = log.events(POLICY, group)
    if events and events[-1]["digest"] == digest:
        return False
    return log.add_event(POLICY, {"branch": group, "digest": digest})


def ideas_since_keep(outcomes: Iterable[tuple[str, str]]) -> tuple[int, str]:
    """The number of ideas since the last keep, and that keep's id, empty for none.

    `outcomes` are the ids and the latest decisions of a group's ideas, the newest first; lost ones count for nothing.
    """
    count = 0
    for id, decision in outcomes:
        if decision == "keep":
            return count, id
        count += decision not in ("", "lost")
    return count, ""


def _suggestion(details: Mapping[str, Any]) -> Suggestion:
    return Suggestion(number=details["number"], text=details["text"])


def _closed(suggestion: Suggestion, details: Mapping[str, Any]) -> Suggestion:
    return replace(suggestion, experiment=details["experiment"], is_open=False)
