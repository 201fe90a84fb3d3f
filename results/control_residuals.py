"""How far controls, which run a known train.py again, are from what all runs expect of them: whether machine and software are
still what they were when ideas were tried. Pure functions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from research.formatting import counted
from results.experiment import ExperimentRecord
from results.group_state import GroupState
from results.group_verdicts import expected_of
from results.verdict import CONTROL_SIGMAS

MOST_NAMED = 3
"""The most controls that a warning names."""


@dataclass(frozen=True, kw_only=True)
class ControlResidual:
    """How far one control is from its prediction."""

    experiment_id: str
    sds: float
    """Its score less what all runs expect of it, in standard deviations of a run: above 0 it is worse than expected."""


def residuals(state: GroupState, records: Iterable[ExperimentRecord]) -> list[ControlResidual]:
    """The residuals of the controls that have a score, in the order of the records."""
    found = []
    for record in records:
        experiment, score = record.experiment, record.val_bpb
        if experiment.kind == "control" and score is not None and experiment.commit in state.patches_at:
            expected, sd = expected_of(state, experiment, record.runs)
            found.append(ControlResidual(experiment_id=experiment.id, sds=(score - expected) / sd))
    return found


def controls_in_words(found: Sequence[ControlResidual]) -> list[str]:
    """The range of the residuals, and a warning that names those beyond CONTROL_SIGMAS; no line without a control."""
    if not found:
        return []
    low, high = min(one.sds for one in found), max(one.sds for one in found)
    span = f"{low:+.1f}" if len(found) == 1 else f"{low:+.1f} to {high:+.1f}"
    lines = [f"Controls, a known train.py again: {span} standard deviations from what all runs expect"]
    off = sorted((one for one in found if abs(one.sds) > CONTROL_SIGMAS), key=lambda one: -abs(one.sds))
    if off:
        named = ", ".join(
            f"[{one.experiment_id}] {abs(one.sds):.1f} {'worse' if one.sds > 0 else 'better'}" for one in off[:MOST_NAMED]
        )
        more = f" and {len(off) - MOST_NAMED} more" if len(off) > MOST_NAMED else ""
        lines.append(
            f"WARNING: {len(off)} of {counted(len(found), 'control')} beyond {CONTROL_SIGMAS:g} standard deviations ({named}"
            f"{more}): the machine or its software may have changed, and the gain is less sure than its interval says"
        )
    return lines
