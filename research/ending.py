"""How a run ends without a score, and what a child's own end means."""

import numpy as np

from research.processes import Child, Log
from research.result import RunStatus
from research.sandbox import BROKEN
from research.scorer import OUT_OF_MEMORY


class RunEnded(Exception):
    """The run is over without a score."""

    def __init__(self, status: RunStatus, reason: str, *, log: Log | None = None) -> None:
        super().__init__(reason)
        self.status: RunStatus = status
        self.reason = reason
        self.log = log
        """Of the child that ended the run by its own end."""


def require_finite(nats: np.ndarray) -> None:
    """Raises RunEnded where a token's cross-entropy is no number."""
    broken = (~np.isfinite(nats)).any(axis=1).sum()
    if broken:
        raise RunEnded("diverged", f"the model's logits are not finite on {broken} of {len(nats)} rows")


def ended_by_itself(child: Child) -> RunEnded:
    """What a child's early end means: diverged, oom or crash."""
    log, tail = child.log, child.log.tail(30)
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    failed = next((line for line in lines[-5:] if line.startswith("FAIL")), None)
    code = child.exit_code()
    if code == BROKEN:
        return RunEnded("lost", last, log=log)
    if code == OUT_OF_MEMORY:
        return RunEnded("oom", "out of memory while it was scored", log=log)
    if log.closed:
        return RunEnded("crash", f"the model failed while it was scored (exit status {code}): what it said is not shown, since "
                                 "it had seen evaluation rows; call forward(ids) in train() to see it", log=log)  # fmt: skip
    if failed:
        return RunEnded("diverged", failed, log=log)
    if any(sign in tail for sign in ("OutOfMemoryError", "out of memory", "can't allocate memory", "MemoryError")):
        return RunEnded("oom", last, log=log)
    if child.exit_code() == -9:
        return RunEnded("oom", "killed by the system, which does that when memory runs out", log=log)
    return RunEnded("crash", last, log=log)
