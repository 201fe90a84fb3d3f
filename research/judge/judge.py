"""The judge of one run: processes, clock, hand-over, scoring, kill.

The trainer and the scorers execute the researchers' code and are believed in nothing. docs/architecture.md tells the
protocol; in short: the clock starts when the data is handed over, the model comes back as raw tensors, the trainer dies, and
two fresh processes answer rows whose cross-entropy is computed here.
"""

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from research.child import scorer, trainer
from research.contract import Contract, judge_sha256
from research.data.prepared import PreparedData, Split
from research.errors import UserError
from research.files import write_atomically
from research.gpu_driver import gpu_bytes
from research.ipc.buffer import SLOTS, SharedIds, create_logits_buffer, rows_per_batch
from research.ipc.channel import (
    ChannelClosed,
    Kind,
    Message,
    is_sealable_memory,
    map_shared,
    monotonic,
    seal,
    sealed_memory,
    shared_memory,
)
from research.judge.clock import Caps
from research.judge.confinement import CHILDREN, Confinement
from research.judge.failures import RunEnded, cure_for_memory, ended_by_itself, require_finite
from research.judge.handover import count_parameters, printable_shapes, reported_fields, tensor_shapes
from research.judge.processes import Child, Log, child_environment, end_children
from research.judge.row_scores import RowScores, save_row_scores
from research.judge.score import (
    CONSISTENCY_SHARE,
    MIN_CONSISTENCY_ROWS,
    Consistency,
    can_read_once,
    compare_prefixes,
    copied,
    cross_entropy,
    cross_entropy_read_once,
    row_scores,
    splice_rows,
    tolerance_for,
)
from research.judge.seeds import seed_set_by
from research.result import RunResult, RunSpec, RunStatus
from research.sandbox.limits import MemoryMonitor, Supervisor
from research.software import software_versions
from research.train_py import size_problem, syntax_problem

MAX_REPORT_BYTES = 2**20
MAX_REASON = 300
ANSWERED_EARLY = "the model answered before it was asked"

HANG_UP_SECONDS = 10.0
"""How long a process may take to end after its connection has: giving back a GPU's memory takes a while."""

AUDIT_SHARE = 0.1
"""Share of the audit rows that every run is scored on; a run that would be kept is scored on all."""

Emit = Callable[[dict[str, Any]], None]

Asked = Callable[[], float | None]
"""When a run that was started ahead was asked for, by the monotonic clock; None as long as it was not."""


class Judge:
    """Executes and scores one run. `emit` gets its events; once `cancelled()` is true the run ends as lost.

    With `asked` it is started ahead: all is made ready, and the clock starts when the run has been asked for.
    """

    def __init__(self, spec: RunSpec, train_py: str, *, emit: Emit, cancelled: Callable[[], bool], asked: Asked | None = None,
                 echo: Callable[[str], None] | None = None, caps: Caps | None = None) -> None:  # fmt: skip
        self.spec, self.train_py = spec, train_py
        self.contract: Contract = spec.contract
        self.device = torch.device(spec.device)
        self.caps = caps or Caps.for_budget(self.contract.TIME_BUDGET, spec.device)
        on_gpu = self.device.type == "cuda"
        memory = (spec.gpu_memory_bytes or gpu_bytes()) if on_gpu else None
        self.batch_rows = rows_per_batch(self.contract, self.device, gpu_memory=memory)
        """Rows that are scored at once."""
        self.data = PreparedData.load(Path(spec.data_folder))
        self.folder = Path(spec.run_folder)
        self._emit, self._cancelled, self._asked, self._echo = emit, cancelled, asked, echo
        self._supervisor: Supervisor | None = None
        self._found: dict[str, Any] = {}
        self._children: list[Child] = []
        self._rows_of: dict[Split, RowScores] = {}
        self._scorer_words = ""
        self._scratch = Path(tempfile.mkdtemp(prefix=scratch_prefix(os.getpid())))

    def execute(self) -> RunResult:
        """The whole run. Everything that it started is ended when this returns."""
        began = monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "train.py").write_text(self.train_py)
        status: RunStatus = "ok"
        tail = ""
        self.log = Log(self.folder / "run.log", echo=self._echo)
        try:
            self._check_train_py()
            self._start()
            if self._asked is not None:
                began = self._wait_until_asked(self._asked)
            tensors = self._train()
            self._score(tensors)
            self.confinement.keep_compiled()
            reason = f"val_bpb {self._found['val_bpb']:.6f} on {self.contract.eval_rows} rows"
        except RunEnded as end:
            status, reason = end.status, end.reason
            tail = self._tail_of(end)
        finally:
            self._end(self._children)
            if self._supervisor is not None:
                self._supervisor.stop()
            shutil.rmtree(self._scratch, ignore_errors=True)
        result = self._result(status, reason, tail or self.log.tail(1), total_seconds=monotonic() - began)
        self._write_files(result)
        return result

    def _tail_of(self, end: RunEnded) -> str:
        """The last words of the child that ended the run; few of a scorer, for it sees what is scored."""
        if end.log is None or end.log is self.log:
            return self.log.tail(50)
        self._scorer_words = end.log.tail(20)
        return self._scorer_words

    # --- start-up ---------------------------------------------------------------------------------------------------

    def _check_train_py(self) -> None:
        if too_large := size_problem(self.train_py):
            raise RunEnded("invalid", too_large)
        if broken := syntax_problem(self.train_py):
            raise RunEnded("crash", broken)
        own_seed = seed_set_by(self.train_py)
        if own_seed:
            raise RunEnded("invalid", own_seed)

    def _start(self) -> None:
        """Starts trainer and scorers, and waits until all are ready; the rows are copied meanwhile."""
        try:
            self.confinement = Confinement(self.spec, self.data, self.train_py, self._scratch)
        except UserError as error:
            raise RunEnded("lost", str(error)) from None
        began = monotonic()
        self._found["sandbox"] = self.confinement.layer_names
        self.trainer = self._child(trainer.main, CHILDREN[0], self.log)
        self.scorers = [self._child(scorer.main, name, Log(None)) for name in CHILDREN[1:]]
        for child in self._children:
            child.follow_output()
        folders = [self._scratch / name for name in CHILDREN]
        self._supervisor = Supervisor([child.pid for child in self._children], folders, self.confinement.bounds)
        self._rows = sealed_memory(self.data.load_rows("train").data.cast("B"))
        for child in (self.trainer, *self.scorers):
            self._await(child, Kind.READY, phase="startup", began=began, cap=self.caps.startup)
        self._found["startup_seconds"] = monotonic() - began

    def _wait_until_asked(self, asked: Asked) -> float:
        """Keeps all processes ready until the run is asked for; gives the time when it was, which start-up counts from."""
        ready = monotonic()
        while (when := asked()) is None:
            message = self._receive(self.trainer)
            if message is not None:
                message.drop()
        self._found["startup_seconds"] = max(0.0, ready - when)
        self._emit({"event": "asked"})
        return when

    def _child(self, main: Callable[[], None], name: str, log: Log) -> Child:
        folder = self._scratch / name
        folder.mkdir()
        (folder / "train.py").write_text(self.train_py)
        spec = self.spec
        environment = child_environment(
            self.contract, threads=spec.threads, device=spec.device, seed=spec.seed, rows=self.batch_rows
        )
        environment |= self.confinement.environment(name, folder)
        child = Child(main, folder=folder, environment=environment, log=log, sandbox=self.confinement.sandbox(name, folder))
        self._children.append(child)
        return child

    # --- training under the clock -----------------------------------------------------------------------------------

    def _train(self) -> int:
        """Hands the rows over, keeps the clock, and returns the descriptor of the model's tensors, sealed."""
        waiting = self.confinement.waiting_processes
        monitor = MemoryMonitor(self.trainer.pid, gpu=self.device.type == "cuda", waiting=waiting)
        count, width = self.data.load_rows("train").shape
        start = monotonic()
        deadline = start + self.contract.TIME_BUDGET
        self._send(self.trainer, Kind.DATA, count, width, deadline, [self._rows])
        try:
            message = self._await_model(start, deadline)
            self._found["training_seconds"] = monotonic() - start
        finally:
            self._found["peak_memory_mb"] = monitor.stop()
        self._report("handover", monotonic() - start, fraction=1.0)
        self._end([self.trainer])
        self.log.close()
        os.close(self._rows)
        if monotonic() > deadline and self._found["training_seconds"] > self.contract.TIME_BUDGET + self.caps.grace:
            late = self._found["training_seconds"] - self.contract.TIME_BUDGET
            raise RunEnded("invalid", f"over the clock: the model came {late:.1f} s after the budget "
                                      f"(allowed: {self.caps.grace:.1f} s)")  # fmt: skip
        return self._accept(message)

    def _await_model(self, start: float, deadline: float) -> Message:
        self._last_progress = 0.0
        while True:
            message = self._receive(self.trainer)
            now = monotonic()
            if message is not None and message.kind == Kind.FINISH:
                return message
            if message is not None:
                message.drop()
            if message is not None and message.kind == Kind.PROGRESS and now - self._last_progress > 0.25:
                self._last_progress = now
                fraction = min((now - start) / self.contract.TIME_BUDGET, 1.0)
                self._report("training", now - start, step=message.a, loss=message.x, fraction=fraction)
            if now > deadline + self.caps.grace + self.caps.late:
                raise RunEnded("timeout", f"no model within {now - deadline:.0f} s after the budget: training hung or never "
                                          "called session.finish(model)")  # fmt: skip

    def _accept(self, message: Message) -> int:
        """Checks what the trainer handed over, seals it, and notes what it reported."""
        if len(message.descriptors) != 2:
            raise RunEnded("invalid", "the model was not handed over by session.finish(model)")
        tensors, words = message.descriptors
        for descriptor, size in ((tensors, message.a), (words, message.b)):
            if not is_sealable_memory(descriptor) or not 0 < size <= os.fstat(descriptor).st_size:
                raise RunEnded("invalid", "the model was not handed over as tensors in memory")
            try:
                seal(descriptor)
            except OSError:
                raise RunEnded("invalid", "the handed-over tensors can still be written to") from None
        self._tensor_bytes = message.a
        try:
            shapes = tensor_shapes(tensors, message.a)
        except ValueError:
            raise RunEnded("invalid", "the handed-over tensors are no safetensors") from None
        self._found |= {"num_params": count_parameters(shapes), "tensor_shapes": printable_shapes(shapes)}
        if message.b <= MAX_REPORT_BYTES:
            self._found |= reported_fields(bytes(map_shared(words, message.b, writable=False)[:]))
        os.close(words)
        return tensors

    # --- scoring ----------------------------------------------------------------------------------------------------

    def _score(self, tensors: int) -> None:
        """Validation and audit rows by process A, spliced rows by process B."""
        began = monotonic()
        self._scoring_began = began
        self._report("scoring", 0.0)
        rng = np.random.default_rng(secrets.randbits(128))
        rows = np.asarray(self.data.load_rows("val")[: self.contract.eval_rows])
        first, second = self.scorers
        answers = Answers(self, first, self._copy_of(tensors))
        nats = answers.cross_entropies(rows, rng)
        self._found["val_bpb"] = self._bits_per_byte("val", nats, rows)
        would_keep = self.spec.keep_below is None or self._found["val_bpb"] < self.spec.keep_below
        self._audit(answers, rng, share=1.0 if would_keep else AUDIT_SHARE)
        answers.close()
        self._end([first])
        share = 1.0 if would_keep else CONSISTENCY_SHARE
        count = min(len(rows), max(MIN_CONSISTENCY_ROWS, round(share * len(rows))))
        self._check_consistency(Answers(self, second, self._copy_of(tensors)), rows, nats, count, rng)
        self._end([second])
        if self.spec.save_model and would_keep:
            payload = map_shared(tensors, self._tensor_bytes, writable=False)
            (self.folder / "model.safetensors").write_bytes(payload)
        self._found["scoring_seconds"] = monotonic() - began

    def _copy_of(self, tensors: int) -> int:
        """A descriptor of the tensors for one scorer alone: two could tell each other things by attributes of one."""
        copy = shared_memory(self._tensor_bytes)
        os.sendfile(copy, tensors, 0, self._tensor_bytes)
        seal(copy)
        return copy

    def _audit(self, answers: "Answers", rng: np.random.Generator, *, share: float) -> None:
        rows = np.asarray(self.data.load_rows("audit"))
        rows = rows[: max(1, round(share * len(rows)))]
        self._found["audit_bpb"] = self._bits_per_byte("audit", answers.cross_entropies(rows, rng), rows)
        self._found["audit_rows"] = len(rows)

    def _check_consistency(self, answers: "Answers", rows: np.ndarray, nats: np.ndarray, count: int,
                           rng: np.random.Generator) -> None:  # fmt: skip
        splices = splice_rows(rows, count, rng)
        targets = rows[splices.rows][:, 1:]
        other = answers.cross_entropies(splices.ids, rng, targets=targets)
        answers.close()
        require_finite(other)
        found: Consistency = compare_prefixes(nats, other, splices)
        self._found |= {
            "consistency_rows": found.rows,
            "consistency_mean": found.mean,
            "consistency_row_rms": found.row_rms,
            "consistency_section_rms": found.section_rms,
            "consistency_boundary": found.boundary,
            "consistency_max": found.largest,
        }
        broken = found.broken_rule(tolerance_for(self.device))
        if broken:
            raise RunEnded("invalid", broken)

    def _bits_per_byte(self, split: Split, nats: np.ndarray, rows: np.ndarray) -> float:
        require_finite(nats)
        self._rows_of[split] = row_scores(nats, rows[:, 1:], self.data.token_bytes())
        return self._rows_of[split].bits_per_byte

    # --- talking to children ----------------------------------------------------------------------------------------

    def _await(self, child: Child, kind: Kind, *, phase: str, began: float, cap: float) -> Message:
        """The next message of `child`, which must be of `kind`, within `cap` seconds from `began`."""
        while True:
            message = self._receive(child)
            if message is not None and message.kind == kind:
                return message
            if message is not None:
                message.drop()
            if message is not None and message.kind == Kind.UNFIT:
                wanted = f"(rows, {self.contract.MAX_SEQ_LEN}, {self.contract.VOCAB_SIZE})"
                raise RunEnded("invalid", f"forward(ids) must give logits of shape {wanted}, not "
                                          f"({message.a}, {message.b}, {message.x:.0f})")  # fmt: skip
            seconds = monotonic() - began
            if seconds > cap:
                raise RunEnded("timeout", f"{phase} took more than {cap:.0f} s")
            self._report(phase, seconds)

    def _receive(self, child: Child, timeout: float = 0.1) -> Message | None:
        """A message of `child`, or None. Raises RunEnded where the child has ended or the run is cancelled."""
        if self._cancelled():
            raise RunEnded("lost", "stopped before the run had ended")
        if self._supervisor is not None and self._supervisor.broken:
            status: RunStatus = "oom" if "memory" in self._supervisor.broken else "invalid"
            raise RunEnded(status, self._supervisor.broken)
        try:
            message = child.channel.receive(timeout)
        except ChannelClosed:
            raise self._hung_up(child) from None
        if message is None and child.exit_code() is not None:
            raise self._ended(child)
        return message

    def _send(self, child: Child, kind: Kind, a: int, b: int = 0, x: float = 0.0, descriptors: Sequence[int] = ()) -> None:
        try:
            child.channel.send(kind, a, b, x, descriptors)
        except ChannelClosed:
            raise self._hung_up(child) from None

    def _hung_up(self, child: Child) -> RunEnded:
        """Why a child can't be talked to any more: it has ended, or will within moments, or it broke the rules."""
        patience = monotonic() + HANG_UP_SECONDS
        while child.exit_code() is None:
            if monotonic() > patience or self._cancelled():
                return RunEnded("invalid", "train.py broke off its connection to the judge")
            time.sleep(0.01)
        return self._ended(child)

    def _ended(self, child: Child) -> RunEnded:
        return ended_by_itself(child, memory_cure=cure_for_memory(self.train_py, trains=child is self.trainer))

    def _end(self, children: list[Child]) -> None:
        """Ends children and whatever they started."""
        ending = [child for child in children if child in self._children]
        self._children = [child for child in self._children if child not in ending]
        left = end_children(ending, spare=self._children)
        if left:
            raise RuntimeError(f"processes {left} could not be ended")

    def _report(self, phase: str, seconds: float, *, step: int | None = None, loss: float | None = None,
                fraction: float = 0.0) -> None:  # fmt: skip
        self._emit({"event": "progress", "phase": phase, "seconds": seconds, "step": step, "loss": loss, "fraction": fraction})

    # --- the result -------------------------------------------------------------------------------------------------

    def _result(self, status: RunStatus, reason: str, tail: str, *, total_seconds: float) -> RunResult:
        if status != "ok":
            self._found.pop("val_bpb", None)
            self._found.pop("audit_bpb", None)
        return RunResult(
            run_id=self.spec.run_id,
            status=status,
            reason=reason[:MAX_REASON],
            seed=self.spec.seed,
            device=self.spec.device,
            gpu_memory_bytes=self.spec.gpu_memory_bytes,
            total_seconds=total_seconds,
            score_fingerprint=self.data.score_fingerprint(self.contract),
            data_fingerprint=self.data.data_fingerprint,
            tokenizer_sha256=self.data.tokenizer_sha256,
            val_sha256=self.data.val_sha256,
            audit_sha256=self.data.audit_sha256,
            train_sha256=hashlib.sha256(self.train_py.encode()).hexdigest(),
            judge_sha256=judge_sha256(),
            software=software_versions(),
            log_tail=tail,
            **self._found,
        )

    def _write_files(self, result: RunResult) -> None:
        ending = result.summary() or f"{self._scorer_words}{result.status}: {result.reason}\n"
        with (self.folder / "run.log").open("a") as log:
            log.write(ending)
        if self._echo:
            self._echo(ending)
        if result.status == "ok":
            save_row_scores(self.folder, self._rows_of)
        write_atomically(self.folder / "result.json", result.to_json())


class Answers:
    """Process A or B, answering rows through buffers that no other process shares."""

    def __init__(self, judge: Judge, child: Child, tensors: int) -> None:
        self._judge, self._child = judge, child
        contract = judge.contract
        self._batch = judge.batch_rows
        self._asked = self._answered = 0
        held = SLOTS * self._batch
        self._ids = SharedIds(held, contract.MAX_SEQ_LEN)
        self._logits = create_logits_buffer(held, contract.MAX_SEQ_LEN, contract.VOCAB_SIZE, judge.device)
        self._logits.tensor.zero_()
        self._reads_once = can_read_once(self._logits.tensor.device, contract.VOCAB_SIZE)
        descriptors = [tensors, self._ids.descriptor, self._logits.descriptor]
        judge._send(child, Kind.MODEL, judge._tensor_bytes, self._batch, 0.0, descriptors)
        os.close(tensors)
        self._await(Kind.READY)
        child.log.close()  # from now on it sees what it must not tell

    def cross_entropies(self, rows: np.ndarray, rng: np.random.Generator, *, targets: np.ndarray | None = None) -> np.ndarray:
        """Nats of each token of `rows` (n, T + 1), asked for in random order: (n, T) float32.

        `targets` (n, T) replaces the rows' own next tokens. While a batch is read, the next is answered in another slot.
        """
        wanted = rows[:, 1:] if targets is None else targets
        nats = np.empty(wanted.shape, dtype=np.float32)
        order = rng.permutation(len(rows))
        batches = [order[start : start + self._batch] for start in range(0, len(rows), self._batch)]
        for chosen in batches[:SLOTS]:
            self._ask(rows[chosen])
        for following, chosen in enumerate(batches, start=SLOTS):
            logits, correct = self._await_answer(len(chosen)), torch.from_numpy(wanted[chosen].astype(np.int64))
            if self._reads_once:  # the child could change them between two reads
                nats[chosen] = cross_entropy_read_once(logits, correct).numpy()
            else:
                nats[chosen] = cross_entropy(copied(logits), correct).numpy()
            if following < len(batches):
                self._ask(rows[batches[following]])
        if self._judge._receive(self._child, timeout=0.0) is not None:
            raise RunEnded("invalid", ANSWERED_EARLY)
        return nats

    def _ask(self, rows: np.ndarray) -> None:
        """Has rows (m, T + 1) answered, in the next slot."""
        first = self._asked % SLOTS * self._batch
        self._ids.tensor[first : first + len(rows)] = torch.from_numpy(rows[:, :-1].astype(np.int32))
        self._judge._send(self._child, Kind.SCORE, len(rows), self._asked)
        self._asked += 1

    def _await_answer(self, count: int) -> torch.Tensor:
        """The logits (count, T, V) of the batch that was asked for first of those that are not answered, in their slot."""
        message = self._await(Kind.ANSWERED)
        if message.b != self._answered:
            raise RunEnded("invalid", ANSWERED_EARLY)
        first = self._answered % SLOTS * self._batch
        self._answered += 1
        return self._logits.tensor[first : first + count]

    def close(self) -> None:
        """Gives the buffers back."""
        os.close(self._ids.descriptor)
        os.close(self._logits.descriptor)
        del self._ids, self._logits

    def _await(self, kind: Kind) -> Message:
        judge = self._judge
        return judge._await(self._child, kind, phase="scoring", began=judge._scoring_began, cap=judge.caps.scoring)


def scratch_prefix(judge: int) -> str:
    """How the names of a judge's working folders begin, by its process id."""
    return f"autoresearch-run-{judge}-"
