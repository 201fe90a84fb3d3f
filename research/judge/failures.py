"""How a run ends without a score, and what the exit of a child means."""

import re
import signal

import numpy as np

from research.child.scorer import OUT_OF_MEMORY
from research.gpu_memory import says_memory_ran_out
from research.hyperparameters import read_constants
from research.judge.log import Log
from research.judge.processes import Child
from research.result import RunStatus
from research.sandbox.layers import BROKEN
from research.sandbox.limits import BrokenLimit, MemoryUse
from research.session import DIVERGED

_SIZE = r"([\d.]+ (?:bytes|[KMG]iB))"
_CUDA_SAYS = re.compile(rf"CUDA out of memory\. .*?(?:Tried to allocate|Requested size:) {_SIZE}")


class RunEnded(Exception):
    """The run has ended without a score."""

    def __init__(self, status: RunStatus, reason: str, *, log: Log | None = None) -> None:
        super().__init__(reason)
        self.status: RunStatus = status
        self.reason = reason
        self.log = log
        """Log of the child whose exit ended the run; None if the judge ended it."""


def require_finite(nats: np.ndarray) -> None:
    """Raises RunEnded unless every token's cross-entropy is finite."""
    if not np.isfinite(nats).all():
        raise RunEnded("diverged", "the model's logits are not finite on some of the evaluation rows")


def over_limit(broken: BrokenLimit, *, has_seen_rows: bool) -> RunEnded:
    """The end of a run that has broken a limit: oom for memory, invalid for processes and disk space, lost if another process
    uses up the machine's memory.

    The reason gives no amounts if what broke it has seen evaluation rows, and could tell of them.
    """
    if broken.resource == "machine":
        return RunEnded("lost", "the machine's memory ran out, and another process uses more of it than this run")
    reason = f"over the limit of {broken.resource} while it was scored" if has_seen_rows else broken.reason
    return RunEnded("oom" if broken.resource == "memory" else "invalid", reason)


def cure_for_memory(train_py: str, *, trains: bool) -> str:
    """What to do about a train.py that ran out of memory, in the trainer or (`trains` False) while a scorer started."""
    if not trains:
        return "make the model smaller: its forward pass doesn't fit in a scorer's memory"
    try:
        batch = read_constants(train_py).get("DEVICE_BATCH_SIZE")
    except SyntaxError:
        batch = None
    if isinstance(batch, int) and batch > 1:
        return f"halve DEVICE_BATCH_SIZE, now {batch} rows"
    return "make the model smaller"


def in_few_words(said: str, cure: str) -> str | None:
    """torch's message about GPU memory that has run out, as one short line with what to do; None for any other text."""
    match = _CUDA_SAYS.search(said)
    if match is None:
        return None
    facts = [f"needed {match[1]} more"]
    for pattern, words in ((rf"memory {_SIZE} is allocated", "had {}"), (rf"{_SIZE} allowed;", "may use {}"),
                           (rf"capacity of {_SIZE}", "GPU has {}"), (rf"of which {_SIZE} is free", "{} free")):  # fmt: skip
        if found := re.search(pattern, said):
            facts.append(words.format(found[1]))
    return f"out of memory ({', '.join(facts)}): {cure}"


def ended_by_itself(child: Child, *, memory_cure: str = "", use: MemoryUse | None = None) -> RunEnded:
    """What a child's early end means; `memory_cure` says what to do if it ran out of memory, `use` what was measured of it.

    The exit status decides if there is one for the case. A trainer that ran out of memory has none: torch, CUDA's libraries and
    the allocator only print an error, so the text of the log is the evidence. A child that had begun with train.py chooses its
    exit status, so that none of them lays the end on the machine; and once it has seen rows, the reason is a fixed sentence.
    A signal is laid on whoever sent it only if the child cannot have sent it to itself.
    """
    log, tail = child.log, child.log.tail(30)
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    code = child.exit_code()
    if code == BROKEN and not child.has_begun:
        return RunEnded("lost", last, log=log)
    ran_out = use is not None and use.ran_out
    if code is not None and code < 0 and not ran_out and (child.was_killed_from_outside() or not child.has_begun):
        return RunEnded("lost", f"signal {-code} from outside ended the {child.name}", log=log)
    if code == OUT_OF_MEMORY or (log.closed and code == -signal.SIGKILL and ran_out):
        return RunEnded("oom", "out of memory while the model was scored: make the model smaller", log=log)
    if log.closed:
        return RunEnded("crash", "the model failed while it was scored: its output is hidden because it had seen evaluation "
                                 "rows; call forward(ids) in train() to see it", log=log)  # fmt: skip
    if code == DIVERGED:
        return RunEnded("diverged", next((line for line in reversed(lines) if line.startswith("FAIL: ")), last), log=log)
    if says_memory_ran_out(tail):
        reasons = [reason for line in lines if (reason := in_few_words(line, memory_cure))]
        return RunEnded("oom", reasons[-1] if reasons else last, log=log)
    if code == -signal.SIGKILL and ran_out:
        return RunEnded("oom", f"killed because memory ran out{use.in_words() if use else ''}: {memory_cure}", log=log)
    if code == -signal.SIGKILL:
        used = use.in_words() if use else ""
        return RunEnded("crash", f"killed by SIGKILL, which it can have sent itself, and not for memory{used}", log=log)
    return RunEnded("crash", last, log=log)
