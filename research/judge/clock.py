"""Training under the clock: the time budget, and how long the phases of a run may take."""

from dataclasses import dataclass

from research.ipc.channel import monotonic
from research.ipc.messages import Finish, Progress
from research.judge.conversation import Conversation
from research.judge.failures import RunEnded
from research.judge.processes import Child
from research.result import RunSpec

REPORT_EVERY_SECONDS = 0.25
"""Least time between two progress reports."""


GRACE_PER_GB = 1.0
"""Seconds of grace for each GB of a model, which is copied from the GPU to the host; a trainer can't train in them unless it
copies faster. Copying 0.26 GB took less than 0.8 s on an H200's host when it was copied three times instead of once.
"""


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Seconds that the phases of a run may take, in addition to the time budget."""

    startup: float
    grace: float
    """After the budget: a model that comes later, GRACE_PER_GB aside, makes the run invalid."""
    late: float
    """After the grace period: a trainer that has handed over no model by then is taken to hang."""
    answers: float
    """From the hand-over of the model to process A until its last answer to a validation row."""
    hang_up: float = 10.0
    """Between the end of a process's connection and its own end: freeing a GPU's memory takes a while."""

    @staticmethod
    def for_run(spec: RunSpec, device: str) -> "Caps":
        """The caps of a run: those of its spec, which follow other runs on its platform, or generous ones."""
        budget = spec.contract.TIME_BUDGET
        startup, answers = (180.0 + budget, 360.0 + budget) if device.startswith("cuda") else (30.0 + budget, 15.0 + budget / 4)
        return Caps(
            startup=spec.startup_cap or startup, grace=max(2.0, 0.01 * budget), late=5.0, answers=spec.answer_cap or answers
        )


class Clock:
    """The clock of one training, which starts when this object is created."""

    def __init__(self, budget: float, caps: Caps, *, largest_model: int) -> None:
        """`largest_model` is the size in bytes of the largest model that can be handed over."""
        self._budget, self._caps = budget, caps
        self._longest = caps.grace + caps.late + GRACE_PER_GB * largest_model / 1e9
        self._start = monotonic()
        self.deadline = self._start + budget
        """End of the time budget, on the monotonic clock."""

    def seconds(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._start

    def wait_for_model(self, trainer: Child, conversation: Conversation) -> Finish:
        """The trainer's Finish message; progress is reported while waiting. Raises RunEnded if it never comes."""
        reported = 0.0
        while True:
            message = conversation.receive(trainer)
            now = monotonic()
            if isinstance(message, Finish):
                return message
            if message is not None:
                message.drop()
            if isinstance(message, Progress) and now - reported > REPORT_EVERY_SECONDS:
                reported, seconds = now, now - self._start
                fraction = min(seconds / self._budget, 1.0)
                conversation.report("training", seconds, step=message.step, loss=message.loss, fraction=fraction)
            if now > self.deadline + self._longest:
                raise RunEnded("timeout", f"no model within {now - self.deadline:.0f} s after the time budget: training hangs "
                                          "or never called session.finish(model)")  # fmt: skip

    def require_in_time(self, seconds: float, model_bytes: int) -> None:
        """Raises RunEnded if a model of this size that came `seconds` after the start came after the grace period."""
        late, grace = seconds - self._budget, self._caps.grace + GRACE_PER_GB * model_bytes / 1e9
        if late > grace:
            raise RunEnded("invalid", f"over the time budget: the model came {late:.1f} s late (limit {grace:.1f} s); call "
                                      "session.finish(model) as soon as session.batches() ends")  # fmt: skip
