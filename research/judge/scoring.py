"""Scoring a model that was handed over: process A answers the validation and audit rows, process B spliced ones of both.

Process B begins when A and all that it started are dead, so that there is nobody whom A could tell anything.
"""

import os
import secrets
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from research.contract import Contract
from research.data.prepared import PreparedData
from research.ipc.buffer import SLOTS, SharedIds, create_logits_buffer
from research.ipc.channel import monotonic
from research.ipc.messages import Answered, Model, ModelBuilt, ModelLoaded, Score
from research.judge.clock import Caps
from research.judge.consistency import (
    CONSISTENCY_SHARE,
    MIN_CONSISTENCY_ROWS,
    Consistency,
    compare_prefixes,
    splice_rows,
    tolerance_for,
)
from research.judge.conversation import Conversation, begin_phase
from research.judge.cross_entropy import can_read_once, copied, cross_entropy, cross_entropy_read_once, row_scores
from research.judge.failures import RunEnded, require_finite
from research.judge.findings import Findings, Scores
from research.judge.handover import SubmittedModel
from research.judge.log import Log
from research.judge.others_cpu import OthersCpu
from research.judge.processes import Child, Children, Start
from research.judge.row_scores import RowScores
from research.result import Placement, RunSpec

AUDIT_SHARE = 0.1
"""Share of the audit rows that every run is scored on; a run that would be kept is scored on all."""

AUDIT_CHECKED = 0.25
"""Share of the audit rows that process B is asked about if it is asked about all validation rows."""

CHECKED_ANYWAY = 0.1
"""Share of the runs that would not be kept of which process B is asked about some rows: drawn once A has answered."""

SLOW_BATCH, LEAST_BATCH_SECONDS = 20.0, 10.0
"""A batch may take as many times the median of those before it, or as many seconds if that is more."""

FIRST_BATCHES = 4
"""The number of batches from which their median time is known."""

FIRST_ANSWER, FIRST_ANSWER_SECONDS, FIRST_ANSWER_SHARE, FIRST_ANSWER_PER_GB = 4.0, 3.0, 0.025, 1.0
"""A scorer's first answer, for which it loads the model, may take as many times the median of the others, and as many seconds
more: some, a share of the time budget, and some for each GB of the model. With the training rows in its tensors a model could
else go on training there, alike in both processes. One of the two may take longer: that is a busy machine.
"""

FIRST_ANSWER_ON_GPU = 10.0
"""FIRST_ANSWER_SECONDS on a GPU, where a model may compile again for its first answer; the shipped one
takes 0.4 to 0.6 s on an H200.
"""

MORE_TIME = 3.0
"""What a scorer may take for a row in multiples of what process A took for a validation row, in addition to `Caps.startup`."""

ANSWERED_EARLY = "the scorer answered a batch before the judge requested it"


@dataclass(frozen=True, kw_only=True)
class AnsweredRows:
    """Rows with process A's answers to them."""

    rows: np.ndarray
    """(n, T + 1) token ids."""
    nats: np.ndarray
    """(n, T) cross-entropy of the answers, in nats per token."""


class Scoring:
    """The scoring of one model."""

    def __init__(self, spec: RunSpec, placement: Placement, data: PreparedData, model: SubmittedModel,
                 conversation: Conversation, caps: Caps, *, batch_rows: int) -> None:  # fmt: skip
        """`batch_rows` is the number of rows that are scored at once."""
        self._contract, self._device, self._keep_below = spec.contract, torch.device(placement.device), spec.keep_below
        self._data, self._model, self._threads = data, model, placement.threads
        self._conversation, self._caps = conversation, caps
        self._batch_rows = batch_rows
        self._rng = np.random.default_rng(secrets.randbits(128))

    def score(self, children: Children, check: Start, findings: Findings, *,
              forget: Callable[[], None]) -> tuple[Scores, bool]:  # fmt: skip
        """The scores, also added to `findings`, and whether the run may be kept. Ends each scorer after its part.

        `forget` is called between the two, the second of which is started with `check`.

        Raises RunEnded if the logits are not finite, or the two processes don't agree.
        """
        first, second = children.scorers
        began, others = monotonic(), OthersCpu() if self._device.type == "cpu" else None
        answers = self._answers_of(first, seconds=self._caps.answers)
        val = self._answered(answers, np.asarray(self._data.load_rows("val")[: self._contract.eval_rows]))
        findings.answer_seconds = monotonic() - began
        if others is not None:
            findings.undisturbed_answer_seconds = others.undisturbed_seconds(self._threads)
        val_scores = self._row_scores(val)
        late = answers.late_start
        may_be_kept = self._keep_below is None or val_scores.bits_per_byte < self._keep_below
        audit = self._audit(answers, findings.answer_seconds, share=1.0 if may_be_kept else AUDIT_SHARE)
        findings.scores = Scores(val=val_scores, audit=self._row_scores(audit))
        answers.close()
        children.end(first)
        if may_be_kept or self._rng.random() < CHECKED_ANYWAY:
            share = 1.0 if may_be_kept else CONSISTENCY_SHARE
            forget()
            second.start(check, Log(None))
            self._check(second, val, audit, findings, share=share, late=late)
            findings.checked = may_be_kept
        children.end(second)
        return findings.scores, may_be_kept

    def _audit(self, answers: "Answers", answer_seconds: float, *, share: float) -> AnsweredRows:
        """Process A's answers to the first `share` of the audit rows."""
        rows = np.asarray(self._data.load_rows("audit"))
        rows = rows[: max(1, round(share * len(rows)))]
        answers.allow(self._seconds_for(len(rows), answer_seconds))
        return self._answered(answers, rows)

    def _check(self, scorer: Child, val: AnsweredRows, audit: AnsweredRows, findings: Findings, *, share: float,
               late: float) -> None:  # fmt: skip
        """Has process B, which has just begun, answer `share` of the rows, spliced, and compares. Raises RunEnded.

        `late` is the late start of process A.
        """
        on_gpu = self._device.type == "cuda"
        start = begin_phase("scoring", cap=self._caps.startup, threads=self._threads, on_gpu=on_gpu)
        self._conversation.wait_for(scorer, ModelBuilt, start)
        assert findings.answer_seconds is not None
        rows = len(val.rows) + len(audit.rows)
        answers = self._answers_of(scorer, seconds=self._seconds_for(rows, findings.answer_seconds))
        findings.consistency = self._compare(answers, val, share=share)
        self._compare(answers, audit, share=share * AUDIT_CHECKED)
        self._require_prompt(min(late, answers.late_start))
        answers.close()

    def _require_prompt(self, late: float) -> None:
        """Raises RunEnded if both processes worked for longer than loading a model takes before they answered."""
        least = FIRST_ANSWER_ON_GPU if self._device.type == "cuda" else FIRST_ANSWER_SECONDS
        allowed = least + FIRST_ANSWER_SHARE * self._contract.TIME_BUDGET
        if late > allowed + FIRST_ANSWER_PER_GB * self._model.size / 1e9:
            raise RunEnded("invalid", "the model works for long before its first answer: what it computes once belongs into "
                                      "build_model() or into training")  # fmt: skip

    def _compare(self, answers: "Answers", said: AnsweredRows, *, share: float) -> Consistency:
        """Process B's answers to `share` of the rows, spliced, compared with A's. Raises RunEnded if they don't agree."""
        count = min(len(said.rows), max(MIN_CONSISTENCY_ROWS, round(share * len(said.rows))))
        splices = splice_rows(said.rows, count, self._rng, donors=self._data.load_rows("train"))
        targets = said.rows[splices.rows][:, 1:]
        other = answers.cross_entropies(splices.ids, self._rng, targets=targets)
        require_finite(other)
        counts = self._data.token_bytes()[said.rows[:, 1:]] > 0
        found, allowed = compare_prefixes(said.nats, other, splices, counts=counts), tolerance_for(self._device)
        broken = found.broken_rule(allowed)
        if broken is None:
            return found
        again = answers.cross_entropies(splices.ids[: self._batch_rows], self._rng, targets=targets[: self._batch_rows])
        if not np.abs(again - other[: self._batch_rows]).mean() <= allowed.mean:
            broken = "the model's answers are random: asked twice about the same rows, one process answers differently (is " \
                     "dropout left on? eval() turns it off)"  # fmt: skip
        raise RunEnded("invalid", broken)

    def _answered(self, answers: "Answers", rows: np.ndarray) -> AnsweredRows:
        nats = answers.cross_entropies(rows, self._rng)
        require_finite(nats)
        return AnsweredRows(rows=rows, nats=nats)

    def _row_scores(self, said: AnsweredRows) -> RowScores:
        return row_scores(said.nats, said.rows[:, 1:], self._data.token_bytes())

    def _seconds_for(self, rows: int, answer_seconds: float) -> float:
        """Seconds that a scorer may take for as many rows, if process A took `answer_seconds` for the validation rows."""
        return self._caps.startup + MORE_TIME * answer_seconds * rows / self._contract.eval_rows

    def _answers_of(self, scorer: Child, *, seconds: float) -> "Answers":
        return Answers(scorer, self._model, self._conversation, contract=self._contract, device=self._device,
                       batch_rows=self._batch_rows, seconds=seconds, threads=self._threads)  # fmt: skip


class Answers:
    """The answers of one scorer, through buffers that no other process shares."""

    def __init__(self, scorer: Child, model: SubmittedModel, conversation: Conversation, *, contract: Contract,
                 device: torch.device, batch_rows: int, seconds: float, threads: int | None) -> None:  # fmt: skip
        """Hands `model` to the scorer, which has `threads`, and waits until it is loaded; all answers may take `seconds`."""
        self._threads, self._on_gpu = threads, device.type == "cuda"
        self._scorer, self._conversation = scorer, conversation
        self._batch_rows = batch_rows
        self._batch_seconds: list[float] = []
        self._first_seconds = 0.0
        self.allow(seconds)
        self._requested = self._answered = 0
        self._ids = SharedIds(SLOTS * batch_rows, contract.MAX_SEQ_LEN)
        self._logits = create_logits_buffer(SLOTS * batch_rows, contract.MAX_SEQ_LEN, contract.VOCAB_SIZE, device)
        self._logits.tensor.zero_()
        self._reads_once = can_read_once(self._logits.tensor.device, contract.VOCAB_SIZE)
        tensors = model.copy()
        descriptors = (tensors, self._ids.descriptor, self._logits.descriptor)
        self._began = monotonic()
        conversation.send(scorer, Model(model_bytes=model.size, batch_rows=batch_rows, descriptors=descriptors))
        os.close(tensors)
        conversation.wait_for(scorer, ModelLoaded, self._phase)
        scorer.log.close()  # from now on it sees evaluation rows, which no log may hold
        conversation.rows_are_known = True

    def cross_entropies(self, rows: np.ndarray, rng: np.random.Generator, *, targets: np.ndarray | None = None) -> np.ndarray:
        """Nats per token of `rows` (n, T + 1), requested in random order: (n, T) float32.

        `targets` (n, T) replaces the rows' own next tokens. While a batch is read, the next is answered in another slot.
        """
        wanted = rows[:, 1:] if targets is None else targets
        nats = np.empty(wanted.shape, dtype=np.float32)
        order = rng.permutation(len(rows))
        batches = [order[start : start + self._batch_rows] for start in range(0, len(rows), self._batch_rows)]
        for chosen in batches[:SLOTS]:
            self._request(rows[chosen])
        for following, chosen in enumerate(batches, start=SLOTS):
            nats[chosen] = self._read(self._wait_for_logits(len(chosen)), wanted[chosen])
            if following < len(batches):
                self._request(rows[batches[following]])
        if self._conversation.receive(self._scorer, timeout=0.0) is not None:
            raise RunEnded("invalid", ANSWERED_EARLY)
        return nats

    @property
    def late_start(self) -> float:
        """Seconds that the first answer took, with loading the model, beyond FIRST_ANSWER of those that followed."""
        others = self._batch_seconds[1:]
        return self._first_seconds - FIRST_ANSWER * statistics.median(others) if others else 0.0

    def allow(self, seconds: float) -> None:
        """Allows as many seconds for all that follows."""
        self._phase = begin_phase("scoring", cap=seconds, threads=self._threads, on_gpu=self._on_gpu)

    def close(self) -> None:
        """Releases the buffers."""
        os.close(self._ids.descriptor)
        os.close(self._logits.descriptor)
        del self._ids, self._logits

    def _request(self, rows: np.ndarray) -> None:
        """Requests the answers to rows (m, T + 1), in the next slot."""
        first = self._requested % SLOTS * self._batch_rows
        self._ids.tensor[first : first + len(rows)] = torch.from_numpy(rows[:, :-1].astype(np.int32))
        self._conversation.send(self._scorer, Score(rows=len(rows), batch=self._requested))
        self._requested += 1

    def _wait_for_logits(self, count: int) -> torch.Tensor:
        """The logits (count, T, V) of the oldest batch without an answer, in their slot."""
        began = monotonic()
        message = self._conversation.wait_for(self._scorer, Answered, self._phase)
        if message.batch != self._answered:
            raise RunEnded("invalid", ANSWERED_EARLY)
        if self._answered == 0:
            self._first_seconds = monotonic() - self._began
        self._require_steady(monotonic() - began)
        first = self._answered % SLOTS * self._batch_rows
        self._answered += 1
        return self._logits.tensor[first : first + count]

    def _require_steady(self, seconds: float) -> None:
        """Raises RunEnded if a batch took much longer than those before it: a model has time for its answers, not for more."""
        if len(self._batch_seconds) >= FIRST_BATCHES:
            limit = max(LEAST_BATCH_SECONDS, SLOW_BATCH * statistics.median(self._batch_seconds))
            if seconds > limit:
                raise RunEnded("invalid", "the model answered a batch of rows much later than the batches before it")
        self._batch_seconds.append(seconds)

    def _read(self, logits: torch.Tensor, targets: np.ndarray) -> np.ndarray:
        """Nats (m, T) of logits (m, T, V), which the scorer could change between two reads."""
        correct = torch.from_numpy(targets.astype(np.int64))
        nats = cross_entropy_read_once(logits, correct) if self._reads_once else cross_entropy(copied(logits), correct)
        return nats.numpy()
