"""The judge of one run: it starts the processes, keeps the clock, takes the model, has it scored, and ends everything.

The trainer and the scorers execute the researchers' code and are not trusted. docs/architecture.md describes the protocol. In
short: the clock starts when the data is handed over, the model comes back as raw tensors, the trainer dies, and two fresh
processes answer rows whose cross-entropy is computed here.
"""

import os
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from research.carried_data import evaluation_bytes
from research.child_settings import ChildSettings
from research.data.prepared import PreparedData
from research.errors import UserError
from research.executed_text import without_comments
from research.files import remove_tree, write_atomically
from research.gpu_driver import gpu_bytes
from research.gpu_memory import child_bytes
from research.ipc.buffer import rows_per_batch
from research.ipc.channel import monotonic
from research.ipc.memory import sealed_memory
from research.ipc.messages import Data, DataRequested, ModelBuilt
from research.judge.clock import Caps, Clock
from research.judge.confinement import Confinement
from research.judge.conversation import Conversation, Emit, begin_phase
from research.judge.failures import RunEnded
from research.judge.findings import Ending, Findings, Training, result_of
from research.judge.gpu_speed import matrix_tflops
from research.judge.handover import SubmittedModel, read_submission, seal_submission
from research.judge.log import Log
from research.judge.others_cpu import OthersCpu
from research.judge.processes import CHILDREN, SCORERS, TRAINER, Child, Children, Start, child_environment
from research.judge.row_scores import save_row_scores
from research.judge.scoring import Scoring
from research.result import Placement, RunResult, RunSpec
from research.runnable import not_runnable
from research.sandbox.limits import Limits, MemoryMonitor, Supervisor

MOST_MODEL = 0.2
"""Share of a run's memory that the submitted tensors may take: the judge holds them, a copy, and what a scorer loads of it."""

Requested = Callable[[], float | None]
"""When a speculative run was requested, on the monotonic clock; None until it is."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """What the processes of a run that are ready were started with."""

    check: Start
    """What process B is started with, if it is asked."""
    confinement: Confinement
    rows: int
    """Descriptor of the training rows, sealed."""


class Judge:
    """Executes and scores one run."""

    def __init__(self, spec: RunSpec, placement: Placement, train_py: str, *, emit: Emit, cancelled: Callable[[], bool],
                 forget: Callable[[], None], children: Children | None = None, requested: Requested | None = None,
                 echo: Callable[[str], None] | None = None, caps: Caps | None = None) -> None:  # fmt: skip
        """`children` stand by for this run; with None they are forked now, and can find in memory what this process knows.

        `emit` gets the run's events, `echo` the text of its log; once `cancelled()` is true the run ends as lost.

        `forget` makes the kernel's caches tell nothing of what processes of this run have read; it is called between scorers.

        With `requested` the run is speculative: everything is prepared, and the clock starts once the run is requested.
        """
        self._spec, self._placement, self._train_py = spec, placement, train_py
        self._emit, self._requested, self._echo, self._forget = emit, requested, echo, forget
        self._caps = caps or Caps.for_run(spec, placement.device)
        self._on_gpu = placement.device.startswith("cuda")
        gpu_memory = (placement.gpu_memory_bytes or gpu_bytes()) if self._on_gpu else None
        self._batch_rows = rows_per_batch(spec.contract, torch.device(placement.device), gpu_memory=gpu_memory)
        self._data = PreparedData.load(Path(placement.data_folder))
        self._folder = Path(placement.run_folder)
        self._limits = Limits.of_host(placement.memory_bytes)
        self._supervisor = Supervisor(self._limits)
        self._children = children or Children()
        self._findings = Findings()
        self._conversation = Conversation(
            contract=spec.contract,
            train_py=train_py,
            supervisor=self._supervisor,
            cancelled=cancelled,
            emit=emit,
            hang_up_seconds=self._caps.hang_up,
        )
        self._scratch = Path(tempfile.mkdtemp(prefix=scratch_prefix(os.getpid())))

    def execute(self) -> RunResult:
        """Executes the whole run. Every process that it started has ended when this returns."""
        began = monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "train.py").write_text(self._train_py)
        log = Log(self._folder / "run.log", echo=self._echo)
        try:
            require_runnable(self._train_py, evaluation_bytes(self._spec.contract))
            started = self._start(log)
            if self._requested is not None:
                began = self._wait_until_requested(self._requested)
            model = self._train(started)
            val_bpb = self._score(model, started)
            started.confinement.keep_compiled()
            reason = f"val_bpb {val_bpb:.6f} on {self._spec.contract.eval_rows} rows"
            ending = Ending(status="ok", reason=reason, log_tail=log.tail(1))
        except RunEnded as end:
            ending = _ending_of(end, log)
        except Exception as error:
            if not self._children.have_begun:
                raise
            traceback.print_exc()
            reason = f"the judge could not go on with what train.py did ({type(error).__name__})"
            ending = Ending(status="invalid", reason=reason, log_tail=log.tail(50))
        finally:
            self._children.end_all()
            self._supervisor.stop()
            remove_tree(self._scratch)
        seconds = monotonic() - began
        result = result_of(
            self._findings, ending, self._spec, self._placement, self._train_py, self._data, total_seconds=seconds
        )
        self._write_files(result, ending)
        return result

    # --- the phases -------------------------------------------------------------------------------------------------

    def _start(self, log: Log) -> Started:
        """Starts trainer and scorers, and waits until all are ready, copying the rows in the meantime.

        Scorer A computes nothing from then on until it is asked: the time for training is the trainer's.
        """
        try:
            confinement = Confinement(self._spec, self._placement, self._data, self._train_py, self._scratch,
                                      disk_bytes=self._limits.disk_bytes)  # fmt: skip
        except UserError as error:
            raise RunEnded("lost", str(error)) from None
        self._findings.sandbox = confinement.layer_names
        startup = begin_phase("startup", cap=self._caps.startup, threads=self._placement.threads, on_gpu=self._on_gpu)
        others = None if self._on_gpu else OthersCpu()
        training, first = self._children.trainer, self._children.scorers[0]
        training.start(self._start_of(TRAINER, confinement), log)
        first.start(self._start_of(SCORERS[0], confinement), Log(None))
        check = self._start_of(SCORERS[1], confinement)
        self._supervisor.watch(self._children.pids, [self._scratch / name for name in CHILDREN])
        rows = sealed_memory(self._data.load_rows("train").data.cast("B"))
        self._conversation.wait_for(training, DataRequested, startup)
        if self._conversation.wait_for(first, ModelBuilt, startup).seedless:
            raise RunEnded("invalid", "build_model() initialises the same model under every seed: seeds come from the judge")
        _pause(first)
        self._findings.startup_seconds = monotonic() - startup.began
        if others is not None:
            self._findings.undisturbed_startup_seconds = others.undisturbed_seconds(self._placement.threads)
        return Started(check=check, confinement=confinement, rows=rows)

    def _start_of(self, name: str, confinement: Confinement) -> Start:
        """What the child `name` is started with."""
        folder = self._scratch / name
        folder.mkdir()
        (folder / "train.py").write_text(without_comments(self._train_py))
        spec, placement = self._spec, self._placement
        settings = ChildSettings(
            contract=spec.contract,
            seed=spec.seed,
            device=placement.device,
            batch_rows=self._batch_rows,
            threads=placement.threads,
            gpu_memory_bytes=child_bytes(placement.gpu_memory_bytes, trains=name == TRAINER),
            compare_seeds=name == SCORERS[0],
            rehearse=name == TRAINER and confinement.rehearses,
        )
        environment = {**child_environment(threads=placement.threads), **confinement.environment(name, folder)}
        sandbox = confinement.sandbox(name, folder)
        return Start(folder=folder, settings=settings, environment=environment, sandbox=sandbox)

    def _wait_until_requested(self, requested: Requested) -> float:
        """Keeps all processes ready until the run is requested. Returns that time, from which start-up is counted.

        The trainer waits without computing: it neither trains before its clock starts nor disturbs the run that is executed.
        """
        ready = monotonic()
        _pause(self._children.trainer)
        while (when := requested()) is None:
            message = self._conversation.receive(self._children.trainer)
            if message is not None:
                message.drop()
        _resume(self._children.trainer)
        self._findings.startup_seconds = max(0.0, ready - when)
        self._emit({"event": "asked"})
        return when

    def _train(self, started: Started) -> SubmittedModel:
        """Hands the rows over, keeps the clock, and takes the model, which is sealed at the end of the measured time."""
        waiting = started.confinement.waiting_processes
        monitor = MemoryMonitor(self._children.trainer.pid, gpu=self._on_gpu, waiting=waiting)
        rows, width = self._data.load_rows("train").shape
        largest = int(MOST_MODEL * self._limits.memory_bytes)
        clock = Clock(self._spec.contract.TIME_BUDGET, self._caps, largest_model=largest)
        seconds = None
        try:
            data = Data(rows=rows, width=width, deadline=clock.deadline, descriptors=(started.rows,))
            self._conversation.send(self._children.trainer, data)
            message = clock.wait_for_model(self._children.trainer, self._conversation)
            seal_submission(message, most_bytes=largest)
            seconds = clock.seconds()  # no sooner: until now the trainer could improve the model
            self._children.trainer.pause()  # what is read of its processes next may take a while
        finally:
            self._findings.training = Training(seconds=seconds, peak_memory_mb=monitor.stop())
        self._conversation.report("handover", clock.seconds(), fraction=1.0)
        self._children.end(self._children.trainer)
        os.close(started.rows)
        clock.require_in_time(seconds, message.model_bytes)
        self._findings.model = read_submission(message)
        return self._findings.model

    def _score(self, model: SubmittedModel, started: Started) -> float:
        """Has the model scored, and saves it if that is wanted. Returns its val_bpb."""
        began = monotonic()
        self._conversation.report("scoring", 0.0)
        _resume(self._children.scorers[0])
        scoring = Scoring(self._spec, self._placement, self._data, model, self._conversation, self._caps,
                          batch_rows=self._batch_rows)  # fmt: skip
        scores, may_be_kept = scoring.score(self._children, started.check, self._findings, forget=self._forget)
        self._findings.gpu_tflops = matrix_tflops(torch.device(self._placement.device))
        if self._spec.save_model and may_be_kept:
            (self._folder / "model.safetensors").write_bytes(model.tensors())
        self._findings.scoring_seconds = monotonic() - began
        return scores.val.bits_per_byte

    # --- the run's files ----------------------------------------------------------------------------------------------

    def _write_files(self, result: RunResult, ending: Ending) -> None:
        """Ends run.log with the summary or the reason, and writes rows.npz (of a run with a score) and result.json."""
        last = result.summary() or f"{ending.scorer_words}{result.status}: {result.reason}\n"
        with (self._folder / "run.log").open("a") as log:
            log.write(last)
        if self._echo:
            self._echo(last)
        if result.status == "ok" and self._findings.scores is not None:
            save_row_scores(self._folder, {"val": self._findings.scores.val, "audit": self._findings.scores.audit})
        write_atomically(self._folder / "result.json", result.to_json())


def require_runnable(train_py: str, evaluation: int) -> None:
    """Raises RunEnded if the text of a train.py breaks a rule; `evaluation` is the bytes of text that it is scored on."""
    refused = not_runnable(train_py, evaluation)
    if refused:
        raise RunEnded(refused.status, refused.reason)


def _pause(child: Child) -> None:
    """Has a child compute nothing until it is resumed. Raises RunEnded if it forks faster than it can be stopped."""
    if not child.pause():
        raise RunEnded("invalid", f"the {child.name}'s processes could not be stopped: it starts new ones all the time")


def _resume(child: Child) -> None:
    """Lets a child go on. Raises RunEnded if it has computed in the meantime."""
    if not child.resume():
        raise RunEnded("invalid", f"the {child.name} went on computing while it was to wait")


def scratch_prefix(judge: int) -> str:
    """The prefix of a judge's working folders, by its process id."""
    return f"autoresearch-run-{judge}-"


def _ending_of(end: RunEnded, log: Log) -> Ending:
    """The ending of a run without a score, with the last output of the child that ended it."""
    if end.log is None or end.log is log:
        return Ending(status=end.status, reason=end.reason, log_tail=log.tail(50))
    words = end.log.tail(20)
    return Ending(status=end.status, reason=end.reason, log_tail=words or log.tail(1), scorer_words=words)
