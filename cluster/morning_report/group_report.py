"""What the HTML report says of one head: what is in it, what nearly is, what failed, and what it cost. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.crash_patterns import signature
from cluster.dashboard.coloured import DiffLine, diff_lines
from cluster.dashboard.headlines import Headline
from cluster.dashboard.pictures import Picture, stairs
from research.formatting import one_line
from research.result import RunResult
from results import policy
from results.experiment import ExperimentRecord
from results.group_state import IdeaEstimate, estimates
from results.report import doubts, dropped_ideas, why_dropped
from results.researcher_yields import Yield, yields

if TYPE_CHECKING:
    from results.group_state import GroupState

MOST_KEEPS, MOST_NEAR_MISSES, MOST_FAILURES, MOST_DROPPED = 60, 20, 12, 10
"""The most ideas of each kind that a report shows, so that one of thousands of experiments still fits into a mail."""

MOST_DIFF_LINES = 400
"""The most lines of a diff that are shown; `farm diff` and `farm show` have all."""

LONGEST_REASON = 400


@dataclass(frozen=True, kw_only=True)
class Idea:
    """An idea with what all runs say of it."""

    record: ExperimentRecord
    estimate: IdeaEstimate | None
    """None by scores alone, where there is no estimate."""
    diff: tuple[DiffLine, ...] = ()
    left_out: int = 0
    """Lines of the diff that aren't shown."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Experiments that ended for one reason."""

    status: str
    reason: str
    """The reason of the latest of them."""
    records: tuple[ExperimentRecord, ...]


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """All that is said of one head."""

    headline: Headline
    picture: Picture | None
    keeps: tuple[Idea, ...]
    """The ideas in the head, the largest effect first."""
    waiting: tuple[Idea, ...]
    """Ideas that are kept, and that the next merge brings into the head."""
    near_misses: tuple[Idea, ...]
    near_misses_in_all: int
    dropped: tuple[tuple[ExperimentRecord, str], ...]
    """What was kept once and is not now, and why, the latest first."""
    failures: tuple[Failure, ...]
    """Reasons of experiments without a score, the most frequent first."""
    rarer_failures: int
    """Experiments that ended for reasons that aren't shown."""
    doubts: tuple[str, ...]
    yields: tuple[Yield, ...]


def group_report(one: Headline) -> GroupReport:
    """What is said of one head, by all runs so far: estimates are computed, which can take seconds."""
    group, state, head = one.group, one.group.state, one.group.head
    known = {} if state is None else {found.idea: found for found in estimates(state)}
    inside = frozenset() if state is None or head is None else state.patches_at.get(head.commit, frozenset())
    misses = () if state is None else policy.near_misses(state.farm)
    records = {record.experiment.id: record for record in group.records}
    failed = failures(group.records)
    costs = [usage for history in one.histories for usage in history.costs]
    return GroupReport(
        headline=one,
        picture=stairs(one.fall),
        keeps=tuple(_idea(record, known) for record in _kept(one, records, inside, known)[:MOST_KEEPS]),
        waiting=tuple(_idea(records[id], known) for id in sorted(_waiting(state, inside)) if id in records),
        near_misses=tuple(
            Idea(record=records[id], estimate=known.get(id)) for id in misses[:MOST_NEAR_MISSES] if id in records
        ),
        near_misses_in_all=len(misses),
        dropped=_dropped(one, {*misses, *inside}),
        failures=tuple(failed[:MOST_FAILURES]),
        rarer_failures=sum(len(failure.records) for failure in failed[MOST_FAILURES:]),
        doubts=tuple(doubts(group)),
        yields=tuple(yields(group, {id: found for id, found in known.items() if id in inside}, costs)) if inside else (),
    )


def _waiting(state: "GroupState | None", inside: frozenset[str]) -> frozenset[str]:
    return frozenset() if state is None else policy.kept(state.farm) - inside


def _kept(one: Headline, records: dict[str, ExperimentRecord], inside: frozenset[str],
          known: dict[str, IdeaEstimate]) -> list[ExperimentRecord]:  # fmt: skip
    """The experiments whose ideas are in the head, the largest effect first; without estimates those that are kept."""
    found = [records[id] for id in inside if id in records]
    if one.group.state is None:
        found = [record for record in one.group.records if record.is_idea and record.outcome == "keep"]
    effects = {name: estimate.effect for name, estimate in known.items()}
    return sorted(found, key=lambda record: (-effects.get(record.experiment.id, 0.0), record.experiment.created))


def _idea(record: ExperimentRecord, known: dict[str, IdeaEstimate]) -> Idea:
    lines = diff_lines(record.experiment.diff)
    return Idea(
        record=record,
        estimate=known.get(record.experiment.id),
        diff=tuple(lines[:MOST_DIFF_LINES]),
        left_out=max(0, len(lines) - MOST_DIFF_LINES),
    )


def _dropped(one: Headline, elsewhere: set[str]) -> tuple[tuple[ExperimentRecord, str], ...]:
    """What was dropped and why, the latest first, but for ideas that are told of `elsewhere`."""
    found = [pair for id, pair in dropped_ideas(one.group).items() if id not in elsewhere]
    latest = sorted(found, key=lambda pair: pair[0].time, reverse=True)[:MOST_DROPPED]
    return tuple((record, why_dropped(decided.verdict.reason)) for decided, record in latest)


def failures(records: Sequence[ExperimentRecord]) -> list[Failure]:
    """Ideas that ended without a score, by their reasons: numbers and quoted names make no difference."""
    alike: dict[tuple[str, str], list[tuple[ExperimentRecord, RunResult]]] = {}
    for record in records:
        run = next((run for run in reversed(record.runs) if run.status not in ("ok", "lost")), None)
        if record.is_idea and record.outcome in ("crash", "invalid") and run is not None:
            alike.setdefault((run.status, signature(run, run.reason)), []).append((record, run))
    found = [
        Failure(
            status=status,
            reason=one_line(failed[-1][1].reason, LONGEST_REASON),
            records=tuple(record for record, _ in failed),
        )
        for (status, _), failed in alike.items()
    ]
    return sorted(found, key=lambda failure: -len(failure.records))
