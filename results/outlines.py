"""The outline of an experiment: what the whole history is counted, looked through and compared by, without its texts.

An outline has the names of the fields that it shares with an `ExperimentRecord`, so that what reads only these takes either. It
is made of the journal's records one by one, and is small enough to be saved for hundreds of thousands of experiments.
"""

import hashlib
from typing import Any

import msgspec

from research.result import RunResult, RunStatus
from results.experiment import (
    ABANDONED,
    IDEAS,
    MEASUREMENTS,
    Decision,
    Experiment,
    ExperimentKind,
    ExperimentRecord,
    Verdict,
    edit_of,
)


class RunOutline(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """A run's figures, as in `RunResult`."""

    at: int
    """The place of its record in the journal."""
    run_id: str
    status: RunStatus
    seed: int
    device_kind: str
    val_bpb: float | None
    total_seconds: float | None
    peak_memory_mb: float | None
    cpu_share: float | None
    gpu_tflops: float | None
    reported_steps: int | None


class ExperimentOutline(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """What an experiment is found by, as in `Experiment`."""

    at: int
    """The place of its record in the journal."""
    id: str
    branch: str
    number: int
    kind: ExperimentKind
    commit: str
    parent_commit: str
    title: str
    researcher: str
    program: str
    created: str
    cost_usd: float | None
    """What its own proposal cost."""


class VerdictOutline(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """A decision on an experiment."""

    at: int
    """The place of its record in the journal."""
    decision: Decision
    is_abandoned: bool
    """Whether it says that a person doesn't want to finish the experiment."""
    is_estimated: bool
    """Whether an estimate of the idea's effect decided."""


class Outline(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """An experiment with its runs and decisions, each oldest first."""

    experiment: ExperimentOutline
    edit: str
    """A name for the lines that it removes and adds; empty if there are none."""
    runs: tuple[RunOutline, ...] = ()
    decisions: tuple[VerdictOutline, ...] = ()
    verdict: VerdictOutline | None = None
    """The latest decision; None while it is running."""

    @property
    def is_idea(self) -> bool:
        """As in `ExperimentRecord`, like the properties below."""
        return self.experiment.kind in IDEAS

    @property
    def is_done(self) -> bool:
        return self.is_idea and bool(self.decisions) and self.decisions[-1].decision != "lost"

    @property
    def is_measurement(self) -> bool:
        ended_well = self.verdict is not None and self.verdict.decision == "discard"
        return ended_well and self.experiment.kind in MEASUREMENTS

    @property
    def is_abandoned(self) -> bool:
        return bool(self.decisions) and self.decisions[-1].is_abandoned

    @property
    def cost_usd(self) -> float | None:
        return self.experiment.cost_usd

    @property
    def val_bpb(self) -> float | None:
        scores = [run.val_bpb for run in self.runs if run.status == "ok" and run.val_bpb is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def peak_memory_mb(self) -> float | None:
        peaks = [run.peak_memory_mb for run in self.runs if run.peak_memory_mb is not None]
        return max(peaks) if peaks else None

    def after(self, runs: int) -> "Outline":
        """The outline as it was after its first runs."""
        return Outline(experiment=self.experiment, edit=self.edit, runs=self.runs[:runs], decisions=self.decisions,
                       verdict=self.verdict)  # fmt: skip

    def with_run(self, run: RunResult, at: int) -> "Outline":
        """The outline with one more run, whose record is at a place of the journal."""
        more = RunOutline(
            at=at, run_id=run.run_id, status=run.status, seed=run.seed, device_kind=run.device_kind, val_bpb=run.val_bpb,
            total_seconds=run.total_seconds, peak_memory_mb=run.peak_memory_mb, cpu_share=run.cpu_share,
            gpu_tflops=run.gpu_tflops, reported_steps=run.reported_steps)  # fmt: skip
        return Outline(experiment=self.experiment, edit=self.edit, runs=(*self.runs, more), decisions=self.decisions,
                       verdict=self.verdict)  # fmt: skip

    def with_verdict(self, verdict: Verdict, at: int) -> "Outline":
        """The outline with one more decision, whose record is at a place of the journal."""
        is_abandoned = (verdict.decision, verdict.reason) == ("lost", ABANDONED)
        more = VerdictOutline(at=at, decision=verdict.decision, is_abandoned=is_abandoned,
                              is_estimated=verdict.effect is not None)  # fmt: skip
        return Outline(experiment=self.experiment, edit=self.edit, runs=self.runs, decisions=(*self.decisions, more),
                       verdict=more)  # fmt: skip


AnyRecord = ExperimentRecord | Outline
"""What a function takes that reads no more of an experiment than its outline has."""

AnyRun = RunResult | RunOutline
"""What a function takes that reads no more of a run than its outline has."""


def outline_of(experiment: Experiment, at: int) -> Outline:
    """The outline of an experiment without runs, whose record is at a place of the journal."""
    shared: dict[str, Any] = {name: getattr(experiment, name) for name in _SHARED}
    return Outline(
        experiment=ExperimentOutline(at=at, cost_usd=experiment.usage.cost_usd, **shared), edit=edit_name(experiment)
    )


def outline_of_record(record: ExperimentRecord) -> Outline:
    """The outline of a whole record, of which only the latest decision is known, and not where it stands in a journal."""
    outline = outline_of(record.experiment, 0)
    for run in record.runs:
        outline = outline.with_run(run, 0)
    return outline if record.verdict is None else outline.with_verdict(record.verdict, 0)


def names_of(record: AnyRecord) -> set[str]:
    """What tells the idea of a record apart from those of others of its type, whoever tries it: its program and its edit."""
    edit = record.edit if isinstance(record, Outline) else edit_of(record.experiment)
    return {record.experiment.program, edit} - {""}


def edit_name(experiment: Experiment) -> str:
    """A name for the lines that an idea removes and adds; empty if there are none."""
    edit = edit_of(experiment)
    return hashlib.blake2b(edit.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest() if edit else ""


_SHARED = ("id", "branch", "number", "kind", "commit", "parent_commit", "title", "researcher", "program", "created")
