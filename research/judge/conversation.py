"""The judge's side of its conversation with the children, which ends as soon as the run can't continue."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from research.contract import Contract
from research.ipc.channel import ChannelClosed, monotonic
from research.ipc.messages import Begun, Message, Unfit
from research.judge.failures import RunEnded, cure_for_memory, ended_by_itself, over_limit
from research.judge.others_cpu import OthersCpu
from research.judge.processes import TRAINER, Child
from research.sandbox.limits import Supervisor

Emit = Callable[[dict[str, Any]], None]
"""Takes an event of the judge, which a worker reads as a JSON line."""

MOST_DISTURBED = 10.0
"""Multiple of its cap that a phase may take, however long others' use of the CPU makes it wait."""

LAST_MESSAGES = 4
"""Messages of a child that has ended which are read: the first of all is that it has begun."""

Wanted = TypeVar("Wanted", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run whose duration is limited."""

    name: str
    began: float
    """Seconds on the monotonic clock."""
    cap: float
    """Seconds that it may take."""
    undisturbed: Callable[[], float | None] | None = None
    """Seconds that it would have taken so far without the processes of others; None where that isn't known."""

    def is_over(self, seconds: float) -> bool:
        """Whether `seconds` since it began are too many. A run isn't ended for the time that others made it wait."""
        if seconds <= self.cap:
            return False
        alone = self.undisturbed() if self.undisturbed is not None and seconds <= MOST_DISTURBED * self.cap else None
        return alone is None or alone > self.cap


def begin_phase(name: str, *, cap: float, threads: int | None, on_gpu: bool) -> Phase:
    """A phase that begins now, of work with `threads` threads (None: one per core) on the CPU, or on a GPU that others don't
    share.
    """
    others = None if on_gpu else OthersCpu()
    undisturbed = None if others is None else partial(others.undisturbed_seconds, threads)
    return Phase(name=name, began=monotonic(), cap=cap, undisturbed=undisturbed)


class Conversation:
    """Sends messages to the children of one run and receives theirs.

    Every method raises RunEnded if the run can't continue: it is cancelled, has broken a limit, or its child has ended.
    """

    def __init__(self, *, contract: Contract, train_py: str, supervisor: Supervisor, cancelled: Callable[[], bool], emit: Emit,
                 hang_up_seconds: float) -> None:  # fmt: skip
        """`hang_up_seconds` is how long a process may live on after its connection has ended."""
        self._contract, self._train_py = contract, train_py
        self._supervisor, self._cancelled, self._emit = supervisor, cancelled, emit
        self._hang_up_seconds = hang_up_seconds
        self.rows_are_known = False
        """Whether a process of the run has seen evaluation rows. What breaks a limit from then on may tell of them."""

    def send(self, child: Child, message: Message) -> None:
        try:
            child.channel.send(message)
        except ChannelClosed:
            raise self._hung_up(child) from None

    def receive(self, child: Child, timeout: float = 0.1) -> Message | None:
        """The next message of `child`; None if none comes within `timeout` seconds."""
        if self._cancelled():
            raise RunEnded("lost", "stopped before the run had ended")
        if self._supervisor.broken is not None:
            raise over_limit(self._supervisor.broken, has_seen_rows=self.rows_are_known)
        try:
            message = child.channel.receive(timeout)
        except ChannelClosed:
            raise self._hung_up(child) from None
        if isinstance(message, Begun):
            child.has_begun = True
        if message is None and child.exit_code() is not None:
            raise self._ended(child)
        return message

    def wait_for(self, child: Child, wanted: type[Wanted], phase: Phase) -> Wanted:
        """The next message of `child` of the type `wanted`; others are dropped. A phase that takes too long is a timeout."""
        while True:
            message = self.receive(child)
            if isinstance(message, wanted):
                return message
            if message is not None:
                message.drop()
            if isinstance(message, Unfit):
                raise self._unfit(child, message)
            seconds = monotonic() - phase.began
            if phase.is_over(seconds):
                limit = "it may here" if child.log.closed else f"{phase.cap:.0f} s"
                raise RunEnded("timeout", f"{phase.name} took more than {limit}")
            self.report(phase.name, seconds)

    def report(self, phase: str, seconds: float, *, step: int | None = None, loss: float | None = None,
               fraction: float = 0.0) -> None:  # fmt: skip
        """Reports the run's progress to whoever started it. Never raises."""
        self._emit({"event": "progress", "phase": phase, "seconds": seconds, "step": step, "loss": loss, "fraction": fraction})

    def _hung_up(self, child: Child) -> RunEnded:
        """Why a child's connection has ended: the child has ended, or will within moments, or it broke the rules."""
        patience = monotonic() + self._hang_up_seconds
        while child.exit_code() is None:
            if monotonic() > patience or self._cancelled():
                return RunEnded("invalid", "train.py closed its connection to the judge")
            time.sleep(0.01)
        return self._ended(child)

    def _unfit(self, child: Child, message: Unfit) -> RunEnded:
        """Why the logits don't fit; without their shape from a child that has seen evaluation rows and may tell of them."""
        right = f"forward(ids) must return logits of shape (rows, {self._contract.MAX_SEQ_LEN}, {self._contract.VOCAB_SIZE})"
        if child.log.closed:
            return RunEnded("invalid", f"{right}, for evaluation rows too")
        return RunEnded("invalid", f"{right}, not ({message.rows}, {message.tokens}, {message.vocabulary})")

    def _ended(self, child: Child) -> RunEnded:
        with suppress(ChannelClosed):
            for _ in range(LAST_MESSAGES):  # what it said before it ended, and not what others may go on saying in its name
                message = child.channel.receive(0.0)
                if message is None:
                    break
                child.has_begun = child.has_begun or isinstance(message, Begun)
                message.drop()
                if isinstance(message, Unfit):  # it ended right after that, before the judge had sent its next request
                    return self._unfit(child, message)
        cure = cure_for_memory(self._train_py, trains=child.name == TRAINER)
        return ended_by_itself(child, memory_cure=cure, use=self._supervisor.memory_use())
