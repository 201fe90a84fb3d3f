"""What the phases of a run have found, and the result that is made of it."""

import hashlib
from dataclasses import dataclass

from research.contract import judge_sha256
from research.data.prepared import PreparedData
from research.judge.consistency import Consistency
from research.judge.handover import Report, SubmittedModel, count_parameters, printable_shapes
from research.judge.row_scores import RowScores
from research.printable import visible
from research.result import Placement, RunResult, RunSpec, RunStatus
from research.software_versions import software_versions

MAX_REASON = 300
"""Characters of a result's reason."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Measurements of the training, taken from outside."""

    seconds: float | None
    """From the hand-over of the data to the hand-over of the model; None if no model came."""
    peak_memory_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of process A's answers, row by row."""

    val: RowScores
    audit: RowScores


@dataclass(kw_only=True)
class Findings:
    """What is known about a run so far. Each phase adds its part as soon as it is known, so that an early end keeps it."""

    sandbox: tuple[str, ...] = ()
    """Names of the layers in force."""
    startup_seconds: float | None = None
    training: Training | None = None
    model: SubmittedModel | None = None
    scores: Scores | None = None
    consistency: Consistency | None = None
    checked: bool = False
    """Whether process B has confirmed the scores of all rows."""
    undisturbed_startup_seconds: float | None = None
    answer_seconds: float | None = None
    undisturbed_answer_seconds: float | None = None
    scoring_seconds: float | None = None
    gpu_tflops: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended."""

    status: RunStatus
    reason: str
    log_tail: str
    scorer_words: str = ""
    """The last output of the scorer that ended the run; empty if none did."""


def result_of(findings: Findings, ending: Ending, spec: RunSpec, placement: Placement, train_py: str, data: PreparedData, *,
              total_seconds: float) -> RunResult:  # fmt: skip
    """The result of a run. Only a run that ended as `ok` has scores."""
    training = findings.training or Training(seconds=None, peak_memory_mb=None)
    scores, consistency, model = findings.scores, findings.consistency, findings.model
    scored = scores if ending.status == "ok" else None
    reported = model.report if model else Report()
    return RunResult(
        run_id=spec.run_id,
        status=ending.status,
        reason=visible(ending.reason)[:MAX_REASON],
        seed=spec.seed,
        device=placement.device,
        val_bpb=scored.val.bits_per_byte if scored else None,
        audit_bpb=scored.audit.bits_per_byte if scored else None,
        audit_rows=len(scores.audit.nats) if scores else None,
        training_seconds=training.seconds,
        startup_seconds=findings.startup_seconds,
        scoring_seconds=findings.scoring_seconds,
        answer_seconds=findings.answer_seconds,
        total_seconds=total_seconds,
        peak_memory_mb=training.peak_memory_mb,
        undisturbed_startup_seconds=findings.undisturbed_startup_seconds,
        undisturbed_answer_seconds=findings.undisturbed_answer_seconds,
        gpu_tflops=findings.gpu_tflops,
        num_params=count_parameters(model.shapes) if model else None,
        tensor_shapes=printable_shapes(model.shapes) if model else {},
        unchecked=not findings.checked,
        consistency_rows=consistency.rows if consistency else None,
        consistency_mean=consistency.mean if consistency else None,
        consistency_row_rms=consistency.row_rms if consistency else None,
        consistency_section_rms=consistency.section_rms if consistency else None,
        consistency_boundary=consistency.boundary if consistency else None,
        consistency_max=consistency.largest if consistency else None,
        score_fingerprint=data.score_fingerprint(spec.contract),
        data_fingerprint=data.data_fingerprint,
        tokenizer_sha256=data.tokenizer_sha256,
        val_sha256=data.val_sha256,
        audit_sha256=data.audit_sha256,
        train_sha256=hashlib.sha256(train_py.encode()).hexdigest(),
        judge_sha256=judge_sha256(),
        software=software_versions(),
        sandbox=findings.sandbox,
        gpu_memory_bytes=placement.gpu_memory_bytes,
        reported_steps=reported.steps,
        reported_tokens=reported.tokens,
        reported_mfu_percent=reported.mfu_percent,
        reported_depth=reported.depth,
        reported_peak_memory_mb=reported.peak_memory_mb,
        reported_recompiles=reported.recompiles,
        reported_kernel=reported.kernel,
        reported_curve=reported.curve,
        log_tail=ending.log_tail,
    )
