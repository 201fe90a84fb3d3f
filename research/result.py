"""A run's specification, its placement and its result. Imports only the standard library and the contract.

What the run reports about itself is named `reported_*` and decides nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from research.contract import Contract

RunStatus = Literal["ok", "crash", "oom", "diverged", "timeout", "invalid", "lost"]
"""How a run ended. `invalid` broke the rules; `lost` is a failure of the infrastructure and is not charged to the idea."""

SandboxMode = Literal["auto", "strict", "off"]
"""The sandbox that is required: what the host offers (`auto`), at least namespaces and Landlock (`strict`), or none."""

SANDBOX_MODES: tuple[SandboxMode, ...] = get_args(SandboxMode)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The specification of a run, which is one execution of one train.py."""

    run_id: str
    contract: Contract
    seed: int
    """Seeds the initialisation and the order of rows."""
    keep_below: float | None = None
    """A run with a val_bpb below this may be kept, so all its rows are checked for consistency and the whole audit shard is
    scored. None: this is done for every run."""
    startup_cap: float | None = None
    """Seconds that its processes may take to start; None: as long as any run may take on such a device."""
    answer_cap: float | None = None
    """Seconds that the model may take to answer the validation rows; None: as long as any run may take on such a device."""
    save_model: bool = False
    """Whether a run that would be kept leaves model.safetensors in the run folder."""
    sandbox: SandboxMode = "auto"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "RunSpec":
        values = json.loads(text)
        return RunSpec(**{**values, "contract": Contract(**values["contract"])})


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a run is executed, and how much of the machine it may use."""

    device: str
    """`cuda:0`, `mps` or `cpu`, as torch names it in the run's processes."""
    data_folder: str
    """The folder that `farm prepare` wrote (it holds manifest.json)."""
    run_folder: str
    """Gets train.py, run.log, result.json and, if the run has a score, rows.npz (research/judge/row_scores.py)."""
    threads: int | None = None
    """CPU threads; None leaves the choice to torch."""
    memory_bytes: int | None = None
    """Limit on the host memory of all the run's processes together; None: most of what the host has."""
    gpu_memory_bytes: int | None = None
    """Limit on the GPU memory of all the run's processes together (research/gpu_memory.py); None: all that is free."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Placement":
        return Placement(**json.loads(text))

    def without_run(self) -> "Placement":
        """This placement with a name in place of the run's folder, alike for all runs there."""
        return replace(self, run_folder=str(Path(self.run_folder).with_name("any")))

    def write_train_py(self, text: str) -> None:
        """Puts the train.py of a run into the run's folder, for a judge that is served with runs. Raises OSError."""
        folder = Path(self.run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.py").write_bytes(text.encode(errors="surrogatepass"))

    def read_train_py(self) -> str:
        """The train.py that was put there. Raises OSError."""
        return (Path(self.run_folder) / "train.py").read_bytes().decode(errors="surrogatepass")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What the judge measured. A value that was not measured is None, never 0."""

    run_id: str
    status: RunStatus
    reason: str
    """Why it ended that way, in one line."""
    seed: int
    device: str
    val_bpb: float | None = None
    """Validation bits per byte."""
    audit_bpb: float | None = None
    """Bits per byte on the audit rows; researchers never see it."""
    audit_rows: int | None = None
    training_seconds: float | None = None
    """From the moment the run gets its data to the moment it has submitted the model, on the judge's clock."""
    startup_seconds: float | None = None
    scoring_seconds: float | None = None
    answer_seconds: float | None = None
    """Part of the scoring: from the hand-over of the model to process A until its last answer to a validation row."""
    total_seconds: float | None = None
    peak_memory_mb: float | None = None
    """MiB, measured from outside: GPU memory on a GPU, resident memory of the trainer's tree on a CPU."""
    cpu_share: float | None = None
    """Share of the CPU time that its threads could have used while it trained and did use, by the kernel's account: 1 on a
    machine of its own. None where the kernel doesn't say."""
    undisturbed_startup_seconds: float | None = None
    """`startup_seconds` less what other programs made the run wait for the CPU; None on a GPU."""
    undisturbed_answer_seconds: float | None = None
    """`answer_seconds` less what other programs made the run wait for the CPU; None on a GPU."""
    gpu_tflops: float | None = None
    """TFLOP/s of a product of matrices that the judge timed on the GPU once all processes of the run had ended."""
    num_params: int | None = None
    """Parameters, counted by the judge in the submitted tensors."""
    tensor_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the submitted tensors by name; only the first if there are very many."""
    unchecked: bool = False
    """Whether process B has been asked about a part of the validation rows only, or about none: then no head is made of it."""
    consistency_rows: int | None = None
    """Validation rows that process B was asked about; None for none."""
    consistency_mean: float | None = None
    """Mean over rows of the difference in cross-entropy on shared prefixes, process B's minus process A's, nats per token."""
    consistency_row_rms: float | None = None
    """Root mean square over rows of the same difference, nats per token."""
    consistency_section_rms: float | None = None
    """Root mean square within the section of the positions where it is the largest, nats per token."""
    consistency_boundary: float | None = None
    """Mean difference at the last token before the splice, nats."""
    consistency_max: float | None = None
    """Largest absolute difference in cross-entropy on a prefix token, nats."""
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
    """The layers of the sandbox that were in force."""
    gpu_memory_bytes: int | None = None
    """The run's limit on GPU memory; None: no limit."""
    reported_steps: int | None = None
    reported_tokens: int | None = None
    reported_mfu_percent: float | None = None
    reported_depth: int | None = None
    reported_peak_memory_mb: float | None = None
    reported_recompiles: int | None = None
    """Graphs that were compiled while the clock ran."""
    reported_kernel: str | None = None
    """The attention kernel."""
    reported_curve: tuple[tuple[float, int, float], ...] = ()
    """(seconds since the clock started, step, training loss in nats per token), a few hundred points at most."""
    log_tail: str = ""
    """The last lines of the trainer's log."""

    @staticmethod
    def lost(spec: RunSpec, reason: str, *, device: str, total_seconds: float | None = None) -> "RunResult":
        """The result of a run that the infrastructure lost; `device` is a name for people."""
        return RunResult(
            run_id=spec.run_id, status="lost", reason=reason, seed=spec.seed, device=device, total_seconds=total_seconds
        )

    @property
    def device_kind(self) -> str:
        """`cuda`, `mps` or `cpu`; on a cluster the name of the node precedes it in `device`, as in `node/cuda:0`."""
        return self.device.rpartition("/")[2].partition(":")[0]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "RunResult":
        return RunResult.from_plain(json.loads(text))

    @staticmethod
    def from_plain(body: Mapping[str, Any]) -> "RunResult":
        """The result that `asdict` made plain. Fields that this version doesn't know are left out."""
        known = RunResult.__dataclass_fields__
        values: dict[str, Any] = {name: value for name, value in body.items() if name in known}
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
