"""What trackers get, as plain data: a run that has ended, and how a head's gain has grown. No audit score is among it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.repo.branch_names import short_name
from research.formatting import one_line
from research.result import RunResult
from results.experiment import Branch, Experiment, Verdict, branch_from, experiment_from, run_from, verdict_from
from results.group_entries import GAIN
from results.journal import JournalRecord

Scalar = str | int | float | bool

LONGEST_VALUE = 500
"""Characters of a setting; MLflow takes no more."""

MEASURED = (
    *("val_bpb", "training_seconds", "startup_seconds", "scoring_seconds", "total_seconds", "peak_memory_mb"),
    *("num_params", "cpu_share", "gpu_tflops", "reported_steps", "reported_tokens", "reported_mfu_percent"),
)
"""The fields of a run that are figures of its end."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run of the judge, as a run of a tracker."""

    id: str
    """A name that is unique among all farms, and the same if the run is sent twice."""
    name: str
    group: str
    """The loop's branch, without its prefix."""
    config: Mapping[str, Scalar]
    curve: tuple[tuple[int, Mapping[str, float]], ...]
    """(step, figures at that step) of the training loss that it reported."""
    summary: Mapping[str, float]
    has_failed: bool


@dataclass(frozen=True, kw_only=True)
class TrackedGain:
    """A head's gain as all runs so far estimate it: one point of the tracker's run for that head."""

    id: str
    name: str
    group: str
    step: int
    """Records of the head's branches that it follows from."""
    figures: Mapping[str, float]


Tracked = TrackedRun | TrackedGain


@dataclass(frozen=True)
class Tracking:
    """Turns a journal's records into what trackers get. A run is sent once its experiment has a verdict, which it carries."""

    branches: dict[str, Branch] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    waiting: dict[str, list[RunResult]] = field(default_factory=dict)

    def take(self, record: JournalRecord) -> Iterator[Tracked]:
        """What one more record gives a tracker."""
        body = record.body
        if record.kind == "branch":
            branch = branch_from(body)
            self.branches[branch.name] = branch
        elif record.kind == "experiment" and body["branch"] in self.branches:
            self.experiments[body["id"]] = experiment_from({**body, "hypothesis": "", "diff": ""})
        elif record.kind == "run" and body["experiment_id"] in self.experiments:
            self.waiting.setdefault(body["experiment_id"], []).append(run_from(body))
        elif record.kind == "verdict" and body["experiment_id"] in self.experiments:
            experiment, verdict = self.experiments[body["experiment_id"]], verdict_from(body)
            for run in self.waiting.pop(experiment.id, []):
                if run.status != "lost":
                    yield tracked_run(self.branches[experiment.branch], experiment, run, verdict)
        elif record.kind == "event" and body["kind"] == GAIN and body["details"]["group"] in self.branches:
            yield _tracked_gain(self.branches[body["details"]["group"]], body["details"])


def tracked_run(branch: Branch, experiment: Experiment, run: RunResult, verdict: Verdict) -> TrackedRun:
    """A run as a tracker gets it."""
    constants = {f"constants/{name}": new for name, (_, new) in experiment.changes.items() if new is not None}
    estimated = {f"effect/{name}": getattr(verdict, name) for name in ("effect", "low", "high", "helps")}
    config = {
        "title": experiment.title, "kind": experiment.kind, "researcher": experiment.researcher, "commit": experiment.commit,
        "experiment": experiment.id, "number": experiment.number, "branch": experiment.branch, "tag": branch.tag,
        "platform": branch.platform, "profile": branch.profile, "score_fingerprint": branch.score_fingerprint,
        "seed": run.seed, "device": run.device, "status": run.status, "decision": verdict.decision, "reason": verdict.reason,
        **constants,
    }  # fmt: skip
    measured = {name: getattr(run, name) for name in MEASURED} | estimated
    return TrackedRun(
        id=_id(branch, run.run_id),
        name=run.run_id,
        group=short_name(branch.name),
        config={name: _scalar(value) for name, value in config.items()},
        curve=tuple((step, {"train/loss": loss, "train/seconds": seconds}) for seconds, step, loss in run.reported_curve),
        summary={name: float(value) for name, value in measured.items() if value is not None},
        has_failed=run.status != "ok",
    )


def _tracked_gain(branch: Branch, event: Mapping[str, float]) -> TrackedGain:
    figures = {name: float(event[name]) for name in ("baseline", "gain", "low", "high", "sigma")}
    figures["val_bpb"] = figures["baseline"] - figures["gain"]
    return TrackedGain(
        id=_id(branch, "head"),
        name=f"{short_name(branch.name)}-head",
        group=short_name(branch.name),
        step=int(event["records"]),
        figures={f"head/{name}": value for name, value in figures.items()},
    )


def _id(branch: Branch, name: str) -> str:
    """A name that differs from that of another farm with the same tag."""
    digest = hashlib.sha256(f"{branch.name} {branch.created} {branch.platform}".encode()).hexdigest()[:8]
    return f"{name}-{digest}"


def _scalar(value: object) -> Scalar:
    return value if isinstance(value, int | float) else one_line(str(value), LONGEST_VALUE)
