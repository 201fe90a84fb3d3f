"""How far scores are from what all runs expected of them: whether machine and software are still what they were when ideas
were tried. Of controls, which run a known train.py again, and by device. Pure functions.

A residual is the one of the verdict: with what all runs said when the score was recorded.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from research.formatting import counted
from results.experiment import PREDICTED, ExperimentRecord
from results.outlines import AnyRecord
from results.verdict import CONTROL_SIGMAS

MOST_NAMED = 3
"""The most controls that a warning names."""


@dataclass(frozen=True, kw_only=True)
class Residual:
    """How far one score is from its prediction."""

    experiment_id: str
    kind: str
    devices: frozenset[str]
    """The devices that its scores are from."""
    sds: float
    """The score less what was expected of it, in standard deviations of that difference: above 0 it is worse than expected."""


@dataclass(frozen=True, kw_only=True)
class DeviceResidual:
    """How the scores of a device differ from what all runs expected of the same train.py."""

    sds: float
    """The mean of its residuals: above 0 it scores worse than expected."""
    scores: int

    @property
    def is_unusual(self) -> bool:
        """Whether that is more than chance explains, so that a person should look at the card or its software."""
        return abs(self.sds) * sqrt(self.scores) > CONTROL_SIGMAS


def is_predicted(record: AnyRecord) -> bool:
    """Whether an experiment's score was predicted, as far as its kind says."""
    return record.experiment.kind in PREDICTED


def residuals(records: Iterable[ExperimentRecord]) -> list[Residual]:
    """The residuals of the scores that were predicted, in the order of the records."""
    return [found for record in records if (found := _residual(record)) is not None]


def _residual(record: ExperimentRecord) -> Residual | None:
    experiment, verdict = record.experiment, record.verdict
    if not is_predicted(record) or record.val_bpb is None or verdict is None or verdict.gain is None:
        return None
    sd = verdict.expected_sd or verdict.sigma  # earlier versions of the farm recorded sigma alone
    if not sd:
        return None
    devices = frozenset(run.device for run in record.runs if run.status == "ok")
    return Residual(experiment_id=experiment.id, kind=experiment.kind, devices=devices, sds=-verdict.gain / sd)


def by_device(found: Iterable[Residual]) -> dict[str, DeviceResidual]:
    """The mean residual of each device."""
    of: dict[str, list[float]] = defaultdict(list)
    for one in found:
        for device in one.devices:
            of[device].append(one.sds)
    return {device: DeviceResidual(sds=sum(sds) / len(sds), scores=len(sds)) for device, sds in of.items()}


def controls_in_words(records: Iterable[ExperimentRecord]) -> list[str]:
    """The range of the controls' residuals, and a warning that names those beyond CONTROL_SIGMAS; no line without a control."""
    found = [one for one in residuals(records) if one.kind == "control"]
    if not found:
        return []
    low, high = min(one.sds for one in found), max(one.sds for one in found)
    span = f"{low:+.1f}" if len(found) == 1 else f"{low:+.1f} to {high:+.1f}"
    lines = [f"Controls, a known train.py again: {span} standard deviations from what all runs expected"]
    off = sorted((one for one in found if abs(one.sds) > CONTROL_SIGMAS), key=lambda one: -abs(one.sds))
    return [*lines, _warning(off, len(found))] if off else lines


def _warning(off: Sequence[Residual], controls: int) -> str:
    """What controls that are far off mean, the furthest first."""
    named = ", ".join(
        f"[{one.experiment_id}] {abs(one.sds):.1f} {'worse' if one.sds > 0 else 'better'}" for one in off[:MOST_NAMED]
    )
    more = f" and {len(off) - MOST_NAMED} more" if len(off) > MOST_NAMED else ""
    return (
        f"WARNING: {len(off)} of {counted(controls, 'control')} beyond {CONTROL_SIGMAS:g} standard deviations ({named}{more}): "
        "the machine or its software may have changed, and the gain is less sure than its interval says"
    )
