"""`farm status` in words: what each loop of a running farm does, and where each branch stands."""

from collections.abc import Sequence
from typing import Any

from cluster.person_requests import dropped_from_head, pending
from research.formatting import counted, one_line
from results.confirmation import conclusion, confirmation_of, in_words, shows_no_gain
from results.counts import beside_ideas, count
from results.group_history import GroupHistory
from results.history import BranchHistory, by_head

SUGGESTION_WIDTH = 100
"""Characters of a suggestion that are shown."""

MOST_SUBMISSIONS = 3
"""The most submissions whose titles are shown."""


def running_lines(running: dict[str, Any]) -> list[str]:
    lines = [f"{branch}: {doing(known)}" for branch, known in running["loops"].items()]
    lines.append(f"devices: {', '.join(running['devices']) or 'none yet'}")
    if running["waiting"]:
        lines.append(f"queued: {', '.join(running['waiting'])}")
    return lines + [f"{device} gets no more work: {reason}" for device, reason in running["quarantined"].items()]


def doing(known: dict[str, Any]) -> str:
    """What a loop does now, in words."""
    phase = str(known.get("phase", "starting"))
    if phase in ("paused", "ended"):
        return phase
    if phase != "training":
        return f"{phase} {known.get('title', '')}".strip()
    loss = "" if known.get("loss") is None else f", loss {known['loss']:.3f}"
    return f"training {known.get('title', '')} ({known.get('fraction', 0.0):.0%}{loss})"


def standing(history: BranchHistory) -> dict[str, Any]:
    """The state of a branch, for --json: its own counts, and what all runs say of the head that it builds on."""
    group = history.group
    gain = group.gain
    return {
        "platform": history.branch.platform,
        "profile": history.branch.profile,
        **_counts(history),
        "baseline": gain.baseline if gain else None,
        "best": gain.head if gain else None,
        "gain": gain.gain if gain else None,
        "low": gain.low if gain else None,
        "high": gain.high if gain else None,
        "head": group.head.commit if group.head else None,
        "head_branch": group.name,
        "requested": pending(group),
        "submissions": dict(group.submissions),
        "suggestions": {one.number: one.text for one in group.steering.open_suggestions},
        "paused": history.branch.name in group.steering.paused,
        "plateau": group.plateau,
    }


def standing_lines(histories: Sequence[BranchHistory], *, resume: str = "farm resume") -> list[str]:
    """Where the heads stand, each with the branches that share it and with what people have asked of it.

    `resume` is the command that resumes a paused branch of this home.
    """
    return [line for sharing in by_head(histories) for line in _group_lines(sharing, resume)]


def _group_lines(sharing: Sequence[BranchHistory], resume: str) -> list[str]:
    group = sharing[0].group
    is_alone = len(group.branches) == 1
    shared = f"the head of {len(group.branches)} branches, with {counted(count(group.outlines).kept, 'kept idea')}"
    lines = [f"{group.name}: {_counts_in_words(sharing[0]) if is_alone else shared}"]
    leaving = dropped_from_head(group)
    still = f"; the head still has {counted(len(leaving), 'idea')} that a person has dropped" if leaving else ""
    lines.append(f"  {group.standing}{still}")
    lines += [f"  {line}" for line in refuted_lines(group)]
    if group.waiting:
        waits = "waits" if len(group.waiting) == 1 else "wait"
        lines.append(
            f"  {counted(len(group.waiting), 'kept idea')} {waits} for a merge run: {', '.join(sorted(group.waiting))}"
        )
    lines += [f"  {line}" for line in unequal_lines(group)]
    if not is_alone:
        lines += [f"  {history.branch.name}: {_counts_in_words(history)}" for history in sharing]
    requested = [f"  requested: {request}" for request in pending(group)]
    return [*lines, *requested, *submission_lines(group), *steering_lines(group, resume)]


def submission_lines(group: GroupHistory) -> list[str]:
    """A line on what was submitted from outside and waits for a loop; none if nothing does."""
    titles = [f"{name} ({one_line(title, SUGGESTION_WIDTH)})" for name, title in group.submissions.items()]
    if not titles:
        return []
    more = f" and {len(titles) - MOST_SUBMISSIONS} more" if len(titles) > MOST_SUBMISSIONS else ""
    waits = "waits" if len(titles) == 1 else "wait"
    return [f"  {counted(len(titles), 'submission')} {waits}: {', '.join(titles[:MOST_SUBMISSIONS])}{more}"]


def steering_lines(group: GroupHistory, resume: str) -> list[str]:
    """How people steer the group now, and the plateau that its researchers are told of."""
    lines = [f"  paused: {name} (`{resume} {name}` resumes it)" for name in sorted(group.steering.paused)]
    if group.plateau:
        lines.append(
            f"  plateau: {counted(group.plateau, 'idea')} without a keep; researchers are told to change the structure"
        )
    return lines + [
        f"  suggestion {one.number}, open: {one_line(one.text, SUGGESTION_WIDTH)}" for one in group.steering.open_suggestions
    ]


def refuted_lines(group: GroupHistory) -> list[str]:
    """A line if fresh seeds show no gain of the head; the report has every confirmation."""
    if group.head is None or group.gain is None or all(one.experiment.kind != "confirm" for one in group.outlines):
        return []
    found = confirmation_of(group, group.head.commit)
    is_refuted = found is not None and shows_no_gain(found.found, group.gain.gain)
    return [f"{conclusion(found.found, group.gain.gain)}; {in_words(found)}"] if found is not None and is_refuted else []


def _counts(history: BranchHistory) -> dict[str, int]:
    counts = count(history.outlines)
    return {"experiments": counts.done, "keeps": counts.kept}


def _counts_in_words(history: BranchHistory) -> str:
    counts, beside = count(history.outlines), ", ".join(beside_ideas(history.outlines).values())
    return f"{counts.experiments}, {counts.keeps}{f'; beside them {beside}' if beside else ''}"


def unequal_lines(group: GroupHistory) -> list[str]:
    """A line if runs that are compared had unequal shares of the machine; the report names them."""
    if not group.unequal_shares:
        return []
    share = f"{len(group.unequal_shares)} of {counted(group.scored_runs, 'run')}"
    return [f"unequal shares of the machine in {share}: the report names them"]
