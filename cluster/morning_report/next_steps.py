"""What to do after a night, by what is known of a head: the doubts first, then what brings more, then the use of it."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.repo.branch_names import short_name
from cluster.dashboard.headlines import Headline
from research.formatting import counted

FEW_NEAR_MISSES = 3
"""Near-misses from which combining them is worth a wave of runs."""

MANY_FAILURES = 0.25
"""The share of experiments that may fail before that is told."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to do, and the command for it."""

    why: str
    command: str


def next_steps(one: Headline, *, near_misses: int, to_type: Callable[[str], str]) -> list[Step]:
    """What to do about a head, the most urgent first. `to_type` makes a command of `farm` one that its reader can type."""
    name = short_name(one.name)
    if one.baseline is None:
        return [Step(why="No baseline has a score yet: resume, or see what failed.", command=to_type("farm run"))]
    steps = [*_about_doubts(one, name, to_type), *_about_more(one, name, near_misses, to_type)]
    if not one.is_at_baseline:
        steps.append(Step(why="Look at all that was changed, and take it over.", command=to_type(f"farm diff {name}")))
    return steps


def _about_doubts(one: Headline, name: str, to_type: Callable[[str], str]) -> list[Step]:
    steps = []
    if one.audit is not None and one.audit.alarm:
        why = "Rows that no researcher sees don't show the gain: don't believe it before you know why."
        steps.append(Step(why=why, command=to_type(f"farm audit {name}")))
    if one.is_refuted:
        why = "Fresh seeds show no gain: take out what is doubtful, and confirm what is left."
        steps.append(Step(why=why, command=to_type("farm drop ID")))
    elif one.confirmation is None and not one.is_at_baseline:
        why = "Nothing but the runs that selected this head speaks for it: run it and its baseline under fresh seeds."
        steps.append(Step(why=why, command=to_type(f"farm confirm {name}")))
    failed = one.counts.crashed + one.counts.invalid
    if one.counts.done and failed / one.counts.done > MANY_FAILURES:
        why = f"{failed} of {counted(one.counts.done, 'experiment')} failed: tell researchers what to avoid."
        steps.append(Step(why=why, command=to_type("farm suggest WORDS")))
    return steps


def _about_more(one: Headline, name: str, near_misses: int, to_type: Callable[[str], str]) -> list[Step]:
    steps = []
    if near_misses >= FEW_NEAR_MISSES:
        why = f"{near_misses} ideas may help and none shows it alone: run some of them in one train.py."
        steps.append(Step(why=why, command=to_type(f"farm combine {name}")))
    if one.group.plateau:
        why = f"{one.group.plateau} ideas without a keep: propose another direction."
        steps.append(Step(why=why, command=to_type("farm suggest WORDS")))
    for branch in sorted(one.group.steering.paused):
        steps.append(Step(why=f"{short_name(branch)} is paused.", command=to_type(f"farm resume {short_name(branch)}")))
    return steps
