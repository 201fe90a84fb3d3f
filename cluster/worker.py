"""One device and the judges that run on it. A plain class, so that any engine can wrap it.

A worker executes speculatively: while a run is scored, the run that will probably be requested next already starts on the same
device, up to the moment when its clock would start. If that run is then requested, it is claimed and resumes from there; any
other request abandons it. Two runs may need more memory than the device has, so a failure while both were on the device counts
for neither: the run is restarted, or reported as lost, and the worker stops speculating, unless the same train.py also fails
alone.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.hardware import Device
from cluster.judge_process import CANCELLED, JUDGE_COMMAND, SILENCE_SECONDS, JudgeProcess, Progress, judge_environment
from research.result import Placement, RunResult, RunSpec

Outcome = RunResult | str
"""A run's result, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class SpeculativeRun:
    """A run that was started before it was requested."""

    train_py: str
    spec: RunSpec
    judge: JudgeProcess

    def is_claimable_as(self, train_py: str, spec: RunSpec) -> bool:
        """Whether a requested run is this one, by its id and its train.py, and this one can still resume.

        The keep threshold must be unchanged, since it decides how much of the run is checked: a keep is checked in full.
        """
        is_same = (self.spec.run_id, self.train_py) == (spec.run_id, train_py)
        return is_same and self.spec.keep_below == spec.keep_below and self.judge.runs


class Worker:
    """Runs train.py on one device, one run at a time."""

    def __init__(
        self,
        device: Device,
        *,
        runs_folder: Path,
        judge_command: Sequence[str] = JUDGE_COMMAND,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Each run gets a folder in `runs_folder`, named by the run's id."""
        self.device = device
        self._runs_folder = runs_folder
        self._command = tuple(judge_command)
        self._silence_seconds = silence_seconds
        self._cancelled: set[str] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._spare: JudgeProcess | None = None
        self._speculative: SpeculativeRun | None = None
        self._requested: set[str] = set()
        """Runs that were requested from this worker or another: it is too late to start them speculatively."""
        self._may_speculate = True
        """Whether two runs can be on the device at once, as far as is known."""
        self._failed_in_company = ""
        """The train.py that failed while two runs were on the device."""
        self.stand_by()

    def stand_by(self) -> None:
        """Starts the spare judge, if none is standing by."""
        with self._lock:
            if not self._closed and (self._spare is None or not self._spare.alive):
                self._spare = self._new_judge()

    def run(self, train_py: str, spec: RunSpec, data_folder: str, on_progress: Callable[[Progress], None]) -> RunResult:
        """Executes one run on prepared data and waits for its result; `on_progress` gets the judge's progress messages in this
        thread.

        Always returns a result: a failed judge or a cancelled run gives `lost`, not an exception.
        """
        started, placement = time.monotonic(), self._placement(spec, data_folder)
        judge = self._claim(train_py, spec)
        was_speculative = judge is not None
        judge = judge or self._start(train_py, spec, placement)
        outcome = self._outcome(judge, spec, on_progress)
        if was_speculative and not judge.has_resumed and _may_lack_memory(outcome):
            judge.end()  # it failed before it heard that it was requested, perhaps because of the other run on the device
            self._stop_speculating(train_py)
            judge = self._start(train_py, spec, placement)
            outcome = self._outcome(judge, spec, on_progress)
        if _may_lack_memory(outcome):
            outcome = self._judged_by_company(outcome, train_py)
        if isinstance(outcome, RunResult):
            self._give_back(judge)
        else:
            judge.end()
            if spec.run_id not in self._cancelled:  # after a cancelled run another one is unlikely
                self.stand_by()
        self._cancelled.discard(spec.run_id)
        if isinstance(outcome, RunResult):
            return outcome
        return RunResult.lost(spec, outcome, device=placement.device, total_seconds=time.monotonic() - started)

    def start_speculatively(self, train_py: str, spec: RunSpec, data_folder: str) -> None:
        """Starts a run that will probably be requested next, up to its clock; called in another thread, during a run."""
        with self._lock:
            too_late = self._closed or spec.run_id in self._requested
            if too_late or self._speculative is not None or not self._may_speculate:
                return
            judge = self._take_judge()
            judge.start_run(train_py, spec, self._placement(spec, data_folder), speculative=True)
            self._speculative = SpeculativeRun(train_py=train_py, spec=spec, judge=judge)

    def abandon(self, run_id: str) -> None:
        """Ends that run if it was started speculatively here: another worker executes it, and owns its folder now."""
        with self._lock:
            self._requested.add(run_id)
            is_here = self._speculative is not None and self._speculative.spec.run_id == run_id
        if is_here:
            self._abandon_speculative()

    def cancel(self, run_id: str) -> None:
        """Ends that run from another thread, whether it has begun or not: all its processes are gone within 5 s."""
        self._cancelled.add(run_id)

    def close(self) -> None:
        """Ends the spare judge and all runs."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()
        self._abandon_speculative()

    def _placement(self, spec: RunSpec, data_folder: str) -> Placement:
        return Placement(
            device=self.device.torch_device,
            data_folder=data_folder,
            run_folder=str(self._runs_folder / spec.run_id),
            threads=self.device.threads,
            gpu_memory_bytes=self.device.gpu_memory_bytes,
        )

    # --- judges -----------------------------------------------------------------------------------------------------

    def _new_judge(self) -> JudgeProcess:
        return JudgeProcess(self._command, judge_environment(self.device))

    def _take_judge(self) -> JudgeProcess:
        """The spare judge, or a new one. The caller holds the lock."""
        judge, self._spare = self._spare, None
        return judge if judge is not None and judge.alive else self._new_judge()

    def _give_back(self, judge: JudgeProcess) -> None:
        """Lets a judge whose run has ended stand by for the next."""
        with self._lock:
            if not self._closed and self._spare is None and judge.alive:
                self._spare = judge
                return
        judge.end()

    def _start(self, train_py: str, spec: RunSpec, placement: Placement) -> JudgeProcess:
        """A judge that starts the run now."""
        with self._lock:
            judge = self._take_judge()
        judge.start_run(train_py, spec, placement)
        return judge

    def _outcome(self, judge: JudgeProcess, spec: RunSpec, on_progress: Callable[[Progress], None]) -> Outcome:
        message = judge.outcome(
            on_progress,
            cancelled=lambda: self._closed or spec.run_id in self._cancelled,
            silence_seconds=self._silence_seconds,
        )
        return message if isinstance(message, str) else _result(message, spec)

    # --- speculation ------------------------------------------------------------------------------------------------

    def _claim(self, train_py: str, spec: RunSpec) -> JudgeProcess | None:
        """The judge of the speculative run, which resumes, if it is the requested one; else None, and it is abandoned."""
        with self._lock:
            self._requested.add(spec.run_id)
            speculative = self._speculative
            if speculative is not None and speculative.is_claimable_as(train_py, spec):
                self._speculative = None
                speculative.judge.claim()
                return speculative.judge
        if speculative is not None and speculative.judge.ended_as == "oom":
            self._stop_speculating(speculative.train_py)
        self._abandon_speculative()
        return None

    def _judged_by_company(self, outcome: Outcome, train_py: str) -> Outcome:
        """The outcome to report for a failed run: lost if a speculative run was on the device too, else `outcome` unchanged."""
        with self._lock:
            had_company = self._speculative is not None
            if not had_company and train_py == self._failed_in_company:
                self._may_speculate, self._failed_in_company = True, ""
        if not had_company:
            return outcome
        self._stop_speculating(train_py)
        self._abandon_speculative()
        how = outcome if isinstance(outcome, str) else f"{outcome.status}: {outcome.reason}"
        return f"it failed while the next run was starting on the same device ({how})"

    def _stop_speculating(self, train_py: str) -> None:
        """Stops speculating, since `train_py` failed while two runs were on the device, until it also fails alone."""
        with self._lock:
            self._may_speculate, self._failed_in_company = False, train_py

    def _abandon_speculative(self) -> None:
        """Ends the speculative run, if there is one, and removes its run folder."""
        with self._lock:
            speculative, self._speculative = self._speculative, None
        if speculative is not None:
            speculative.judge.end()
            shutil.rmtree(self._runs_folder / speculative.spec.run_id, ignore_errors=True)


def _result(message: Progress, spec: RunSpec) -> Outcome:
    try:
        result = RunResult.from_json(json.dumps(message["result"]))
    except (KeyError, TypeError, ValueError) as error:
        return f"the judge's result can't be read ({error})"
    if result.run_id != spec.run_id:
        return f"the judge answered for run {result.run_id}, not for {spec.run_id}"
    return result


def _may_lack_memory(outcome: Outcome) -> bool:
    """Whether a run may have failed for lack of memory, which shows in many ways, even as the judge's death."""
    return outcome != CANCELLED if isinstance(outcome, str) else outcome.status in ("oom", "crash")
