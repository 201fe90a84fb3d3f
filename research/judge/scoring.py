"""Scoring a model that was handed over: process A answers the validation and audit rows, process B spliced rows."""

import os
import secrets

import numpy as np
import torch

from research.contract import Contract
from research.data.prepared import PreparedData
from research.ipc.buffer import SLOTS, SharedIds, create_logits_buffer
from research.ipc.messages import Answered, Model, ModelLoaded, Score
from research.judge.consistency import (
    CONSISTENCY_SHARE,
    MIN_CONSISTENCY_ROWS,
    Consistency,
    compare_prefixes,
    splice_rows,
    tolerance_for,
)
from research.judge.conversation import Conversation, Phase
from research.judge.cross_entropy import can_read_once, copied, cross_entropy, cross_entropy_read_once, row_scores
from research.judge.failures import RunEnded, require_finite
from research.judge.findings import Findings, Scores
from research.judge.handover import SubmittedModel
from research.judge.processes import Child, Children
from research.judge.row_scores import RowScores
from research.result import Placement, RunSpec

AUDIT_SHARE = 0.1
"""Share of the audit rows that every run is scored on; a run that would be kept is scored on all."""

ANSWERED_EARLY = "the scorer answered a batch before the judge requested it"


class Scoring:
    """The scoring of one model."""

    def __init__(self, spec: RunSpec, placement: Placement, data: PreparedData, model: SubmittedModel,
                 conversation: Conversation, phase: Phase, *, batch_rows: int) -> None:  # fmt: skip
        """`batch_rows` is the number of rows that are scored at once."""
        self._contract, self._device, self._keep_below = spec.contract, torch.device(placement.device), spec.keep_below
        self._data, self._model = data, model
        self._conversation, self._phase = conversation, phase
        self._batch_rows = batch_rows
        self._rng = np.random.default_rng(secrets.randbits(128))

    def score(self, scorers: tuple[Child, Child], children: Children, findings: Findings) -> tuple[Scores, bool]:
        """The scores, also added to `findings`, and whether the run would be kept. Ends each scorer after its part.

        Raises RunEnded if the logits are not finite, or the two processes don't agree.
        """
        rows = np.asarray(self._data.load_rows("val")[: self._contract.eval_rows])
        first, second = scorers
        answers = self._answers_of(first)
        nats = answers.cross_entropies(rows, self._rng)
        val = self._row_scores(nats, rows)
        would_keep = self._keep_below is None or val.bits_per_byte < self._keep_below
        scores = Scores(val=val, audit=self._audit(answers, share=1.0 if would_keep else AUDIT_SHARE))
        findings.scores = scores
        answers.close()
        children.end(first)
        findings.consistency = self._compare(second, rows, nats, share=1.0 if would_keep else CONSISTENCY_SHARE)
        if broken := findings.consistency.broken_rule(tolerance_for(self._device)):
            raise RunEnded("invalid", broken)
        children.end(second)
        return scores, would_keep

    def _audit(self, answers: "Answers", *, share: float) -> RowScores:
        """The model's scores on the first `share` of the audit rows."""
        rows = np.asarray(self._data.load_rows("audit"))
        rows = rows[: max(1, round(share * len(rows)))]
        return self._row_scores(answers.cross_entropies(rows, self._rng), rows)

    def _compare(self, scorer: Child, rows: np.ndarray, nats: np.ndarray, *, share: float) -> Consistency:
        """Has `scorer` answer `share` of the rows (n, T + 1), spliced, and compares that with the real rows' nats (n, T)."""
        answers = self._answers_of(scorer)
        count = min(len(rows), max(MIN_CONSISTENCY_ROWS, round(share * len(rows))))
        splices = splice_rows(rows, count, self._rng)
        other = answers.cross_entropies(splices.ids, self._rng, targets=rows[splices.rows][:, 1:])
        answers.close()
        require_finite(other)
        return compare_prefixes(nats, other, splices)

    def _row_scores(self, nats: np.ndarray, rows: np.ndarray) -> RowScores:
        require_finite(nats)
        return row_scores(nats, rows[:, 1:], self._data.token_bytes())

    def _answers_of(self, scorer: Child) -> "Answers":
        return Answers(scorer, self._model, self._conversation, self._phase, contract=self._contract, device=self._device,
                       batch_rows=self._batch_rows)  # fmt: skip


class Answers:
    """The answers of one scorer, through buffers that no other process shares."""

    def __init__(self, scorer: Child, model: SubmittedModel, conversation: Conversation, phase: Phase, *, contract: Contract,
                 device: torch.device, batch_rows: int) -> None:  # fmt: skip
        """Hands `model` to the scorer and waits until it is loaded."""
        self._scorer, self._conversation, self._phase = scorer, conversation, phase
        self._batch_rows = batch_rows
        self._requested = self._answered = 0
        self._ids = SharedIds(SLOTS * batch_rows, contract.MAX_SEQ_LEN)
        self._logits = create_logits_buffer(SLOTS * batch_rows, contract.MAX_SEQ_LEN, contract.VOCAB_SIZE, device)
        self._logits.tensor.zero_()
        self._reads_once = can_read_once(self._logits.tensor.device, contract.VOCAB_SIZE)
        tensors = model.copy()
        descriptors = (tensors, self._ids.descriptor, self._logits.descriptor)
        conversation.send(scorer, Model(model_bytes=model.size, batch_rows=batch_rows, descriptors=descriptors))
        os.close(tensors)
        conversation.wait_for(scorer, ModelLoaded, phase)
        scorer.log.close()  # from now on it sees evaluation rows, which no log may hold

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
        message = self._conversation.wait_for(self._scorer, Answered, self._phase)
        if message.batch != self._answered:
            raise RunEnded("invalid", ANSWERED_EARLY)
        first = self._answered % SLOTS * self._batch_rows
        self._answered += 1
        return self._logits.tensor[first : first + count]

    def _read(self, logits: torch.Tensor, targets: np.ndarray) -> np.ndarray:
        """Nats (m, T) of logits (m, T, V), which the scorer could change between two reads."""
        correct = torch.from_numpy(targets.astype(np.int64))
        nats = cross_entropy_read_once(logits, correct) if self._reads_once else cross_entropy(copied(logits), correct)
        return nats.numpy()
