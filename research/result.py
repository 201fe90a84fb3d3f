"""What goes into a run and what comes out of it. Standard library only.

Whatever the child process said of itself is named `reported_*` and decides nothing.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from research.contract import Contract

RunStatus = Literal["ok", "crash", "oom", "diverged", "timeout", "invalid", "lost"]
"""`invalid` broke the rules; `lost` is a failure of the infrastructure and is not charged to the idea."""

SandboxMode = Literal["auto", "strict", "off"]
"""What of a sandbox there must be: what the host has, no less than namespaces and Landlock, or none."""

SANDBOX_MODES: tuple[SandboxMode, ...] = get_args(SandboxMode)

RUN_STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One execution of one train.py."""

    run_id: str
    contract: Contract
    seed: int
    """Seeds the initialisation and the order of rows."""
    device: str
    """`cuda:0`, `mps` or `cpu`."""
    data_folder: str
    """The folder that `farm prepare` wrote (it holds manifest.json)."""
    run_folder: str
    """Gets train.py, run.log, result.json and, of a run with a score, rows.npz (research/judge/row_scores.py)."""
    keep_below: float | None = None
    """A val_bpb below this would be kept: such a run has every row checked for consistency and the whole audit shard scored."""
    save_model: bool = False
    """Whether a run that would be kept leaves model.safetensors in the run folder."""
    threads: int | None = None
    """CPU threads; None leaves the choice to torch."""
    sandbox: SandboxMode = "auto"
    memory_bytes: int | None = None
    """Of the host, for the run's processes together; None: most of what the host has."""
    gpu_memory_bytes: int | None = None
    """Of the GPU, for the run's processes together (research/gpu_memory.py); None: all that is free."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "RunSpec":
        values = json.loads(text)
        return RunSpec(**{**values, "contract": Contract(**values["contract"])})


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What the judge found. None is what was not measured, never 0."""

    run_id: str
    status: RunStatus
    reason: str
    """Why, in words: one line."""
    seed: int
    device: str
    val_bpb: float | None = None
    """Validation bits per byte."""
    audit_bpb: float | None = None
    """Bits per byte on the audit rows; kept from researchers."""
    audit_rows: int | None = None
    training_seconds: float | None = None
    """From the hand-over of data to the hand-over of the model, on the judge's clock."""
    startup_seconds: float | None = None
    scoring_seconds: float | None = None
    total_seconds: float | None = None
    peak_memory_mb: float | None = None
    """MiB, measured from outside: GPU memory on a GPU, resident memory of the trainer's tree on a CPU."""
    num_params: int | None = None
    """Counted by the judge in the tensors that were handed over."""
    tensor_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of the tensors that were handed over, by name; of very many only the first."""
    consistency_rows: int | None = None
    consistency_mean: float | None = None
    """Mean over rows of the difference of cross-entropy on shared prefixes, process B less process A, nats per token."""
    consistency_row_rms: float | None = None
    """Root mean square over rows of the same."""
    consistency_section_rms: float | None = None
    """The same within the part of the positions where it is the largest."""
    consistency_boundary: float | None = None
    """Mean difference at the last token before the splice, nats."""
    consistency_max: float | None = None
    """Largest absolute difference of cross-entropy on a prefix token, nats."""
    score_fingerprint: str | None = None
    data_fingerprint: str | None = None
    tokenizer_sha256: str | None = None
    val_sha256: str | None = None
    audit_sha256: str | None = None
    train_sha256: str | None = None
    judge_sha256: str | None = None
    software: dict[str, str] = field(default_factory=dict)
    """Versions: python, torch, cuda, driver."""
    sandbox: tuple[str, ...] = ()
    """The layers that were really in force."""
    gpu_memory_bytes: int | None = None
    """The limit that the run was under; None: there was none."""
    reported_steps: int | None = None
    reported_tokens: int | None = None
    reported_mfu_percent: float | None = None
    reported_depth: int | None = None
    reported_peak_memory_mb: float | None = None
    reported_recompiles: int | None = None
    """Graphs compiled while the clock ran."""
    reported_kernel: str | None = None
    """The attention kernel."""
    reported_curve: tuple[tuple[float, int, float], ...] = ()
    """(seconds since the clock started, step, training loss in nats per token), a few hundred points at most."""
    log_tail: str = ""
    """The last lines of the trainer's log."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "RunResult":
        values: dict[str, Any] = json.loads(text)
        known = {f.name for f in fields(RunResult)}
        values = {name: value for name, value in values.items() if name in known}
        values["tensor_shapes"] = {name: tuple(shape) for name, shape in values.get("tensor_shapes", {}).items()}
        values["sandbox"] = tuple(values.get("sandbox", ()))
        values["reported_curve"] = tuple(tuple(point) for point in values.get("reported_curve", ()))
        return RunResult(**values)

    def summary(self) -> str:
        """The block at the end of run.log, in the format that people grep. Empty for a run without a score."""
        if self.val_bpb is None:
            return ""
        rows: list[tuple[str, float | int | None, str]] = [
            ("val_bpb", self.val_bpb, ".6f"),
            ("training_seconds", self.training_seconds, ".1f"),
            ("total_seconds", self.total_seconds, ".1f"),
            ("peak_vram_mb", self.peak_memory_mb, ".1f"),
            ("mfu_percent", self.reported_mfu_percent, ".2f"),
            ("total_tokens_M", None if self.reported_tokens is None else self.reported_tokens / 1e6, ".1f"),
            ("num_steps", self.reported_steps, "d"),
            ("num_params_M", None if self.num_params is None else self.num_params / 1e6, ".1f"),
            ("depth", self.reported_depth, "d"),
        ]
        lines = ["---"]
        lines += [f"{name + ':':<18}{'n/a' if value is None else format(value, form)}" for name, value, form in rows]
        return "\n".join(lines) + "\n"


def read_result(run_folder: str | Path) -> RunResult:
    """The result that a judge left in `run_folder`."""
    return RunResult.from_json((Path(run_folder) / "result.json").read_text())
