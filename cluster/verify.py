"""Repeating an experiment from its record: the same train.py, seed, contract and data, through the same judge."""

import hashlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.engine import LocalEngine
from cluster.event_loop import run_in_loop
from cluster.hardware import Device, limited, platform_identity
from research.contract import Contract, judge_sha256
from research.data.prepared import PreparedData
from research.errors import UserError
from research.profiles import profile_named
from research.result import RunResult, RunSpec
from results.experiment import Branch, ExperimentRecord
from results.machine_shares import tolerance, work_ratio

REPRODUCED_SIGMAS = 3.0 * math.sqrt(2)
"""Limit on the difference of two runs, in sigma of one run: three sigma of their difference."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A recorded run and its repetition."""

    old: RunResult
    new: RunResult
    sigma: float
    """Standard deviation of val_bpb between runs of the same code."""

    @property
    def sigmas(self) -> float | None:
        """New val_bpb minus old, in sigma; None if a run has no score."""
        if self.old.val_bpb is None or self.new.val_bpb is None:
            return None
        return (self.new.val_bpb - self.old.val_bpb) / self.sigma

    @property
    def is_within_chance(self) -> bool:
        """Whether the two scores differ by no more than seeds do."""
        return self.sigmas is not None and abs(self.sigmas) <= REPRODUCED_SIGMAS

    @property
    def reproduced(self) -> bool:
        """Whether the same work gave the same score."""
        return self.is_within_chance and not self.unequal

    @property
    def lost(self) -> bool:
        """Whether the infrastructure lost the repetition, which says nothing about the score."""
        return self.new.status == "lost"

    @property
    def unequal(self) -> str:
        """Why the scores can't be compared: the machine did less or more work in the same time.

        Empty if the work was equal, or if the score has moved the other way by more than chance.
        """
        ratio, sigmas = work_ratio(self.old, self.new), self.sigmas
        if ratio is None or sigmas is None or abs(ratio - 1) <= tolerance(self.old):
            return ""
        if not self.is_within_chance and (ratio < 1) != (sigmas > 0):
            return ""
        by_steps = self.old.reported_steps and self.new.reported_steps
        what = "steps by the runs' own reports" if by_steps else "CPU time"
        change = f"{abs(ratio - 1):.0%} {'more' if ratio > 1 else 'fewer' if by_steps else 'less'} {what}"
        return f"{'slower' if ratio < 1 else 'faster'} machine: {change}"

    @property
    def comparable(self) -> bool:
        """Whether the repetition says anything: it does if the machine did the same work."""
        return not (self.lost or self.unequal)

    @property
    def software(self) -> str:
        """Differences in software, such as `torch 2.11 -> 2.12`; empty if there are none."""
        old, new = self.old.software, self.new.software
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        return ", ".join(f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}" for name in names)


def run_to_repeat(record: ExperimentRecord) -> RunResult:
    """The record's first run with a score. Raises UserError if there is none."""
    for run in record.runs:
        if run.status == "ok" and run.val_bpb is not None:
            return run
    how = f"it ended as {record.runs[-1].status}" if record.runs else "it has not run"
    raise UserError(f"{record.experiment.id} has no score to reproduce: {how}.")


def device_like(branch: Branch, devices: tuple[Device, ...], *, gpu_memory_bytes: int | None = None) -> Device:
    """The first device of the branch's platform, with the recorded run's memory limit. Raises UserError if there is none."""
    return devices_like(branch, devices, gpu_memory_bytes=gpu_memory_bytes)[0]


def devices_like(branch: Branch, devices: tuple[Device, ...], *, gpu_memory_bytes: int | None = None) -> tuple[Device, ...]:
    """The devices of the branch's platform, with the recorded run's memory limit. Raises UserError if there is none."""
    devices = tuple(limited(device, gpu_memory_bytes) for device in devices)
    alike = tuple(device for device in devices if platform_identity(device) == branch.platform)
    if not alike:
        here = " and ".join(dict.fromkeys(platform_identity(device) for device in devices))
        raise UserError(f"{branch.name} was measured on {branch.platform}, and this is {here}: use a machine of that platform.")
    return alike


def check_same_as_recorded(run: RunResult, train_py: str, data: PreparedData, contract: Contract) -> None:
    """Raises UserError if anything that the score depends on has changed. Fields that the record lacks are not checked."""
    found = {
        "train.py": (run.train_sha256, hashlib.sha256(train_py.encode()).hexdigest()),
        "the judge's code": (run.judge_sha256, judge_sha256()),
        "the tokenizer": (run.tokenizer_sha256, data.tokenizer_sha256),
        "the validation rows": (run.val_sha256, data.val_sha256),
        "the audit rows": (run.audit_sha256, data.audit_sha256),
        "the training rows": (run.data_fingerprint, data.data_fingerprint),
    }
    other = [name for name, (then, now) in found.items() if then not in (None, now)]
    if not other and run.score_fingerprint not in (None, data.score_fingerprint(contract)):
        other = ["the score fingerprint"]
    if other:
        changed = f"since it ran, {' and '.join(other)} changed"
        raise UserError(
            f"{run.run_id} can't be repeated here: {changed}. Use the version of the farm and the data that it ran with."
        )


def repeat(run: RunResult, train_py: str, *, device: Device, data: PreparedData, contract: Contract,
           on_progress: Callable[[dict[str, Any]], None]) -> RunResult:  # fmt: skip
    """The result of the same run, repeated on this machine in a temporary folder."""

    async def once(folder: str) -> RunResult:
        engine = LocalEngine({device: data.folder}, runs_folder=Path(folder))
        spec = RunSpec(run_id=f"{run.run_id}-verify", contract=contract, seed=run.seed)
        try:
            return await engine.execute(device, train_py, spec, on_progress)
        finally:
            await engine.close()

    with tempfile.TemporaryDirectory(prefix="autoresearch-verify-") as folder:
        return run_in_loop(once(folder))


def sigma_of(record: ExperimentRecord, branch: Branch) -> float:
    """The sigma that the record was judged by, else its profile's prior."""
    judged = record.verdict.sigma if record.verdict else None
    return judged or profile_named(branch.profile).sigma


def verification_lines(found: Verification) -> list[str]:
    """Both runs side by side, and whether the score was reproduced."""
    old, new = found.old, found.new
    lines = [f"{'':<18}{'then':>12}{'now':>12}"]
    for name, form in (("val_bpb", ".6f"), ("training_seconds", ".1f"), ("reported_steps", "d"), ("cpu_share", ".0%"),
                       ("peak_memory_mb", ".0f"), ("num_params", "d")):  # fmt: skip
        lines.append(f"{name:<18}{_figure(old, name, form):>12}{_figure(new, name, form):>12}")
    lines.append(f"software: {found.software or 'the same'}")
    if found.lost:
        return [*lines, f"the repetition was lost, which says nothing about the score: {new.reason}"]
    if found.sigmas is None:
        return [*lines, f"not reproduced: the run ended as {new.status}: {new.reason}"]
    away = f"{found.sigmas:+.2f} sigma (sigma of a run: {found.sigma:.4f})"
    if not found.comparable:
        return [*lines, f"{found.unequal}, so the score can't be compared: {away}; repeat it on a machine that is as fast"]
    limit = f"up to {REPRODUCED_SIGMAS:.2f} either way is chance, three standard deviations of two runs' difference"
    return [*lines, f"{'reproduced' if found.reproduced else 'not reproduced'}: {away}; {limit}"]


def _figure(run: RunResult, name: str, form: str) -> str:
    value = getattr(run, name)
    return "-" if value is None else format(value, form)
