"""What a farm tells people elsewhere: a new best, an alarm, a device that is taken out, a budget that is spent, and the end."""

from collections.abc import Callable
from typing import Any, Literal

from agent.proposing import BUDGET_SPENT
from agent.repo.branch_names import short_name
from cluster.farm_options import FarmOptions
from cluster.notification_channels import Channels
from research.formatting import one_line
from results.experiment import ExperimentRecord
from results.head_gain import ExpectedGain, gain_text
from results.overfitting import ON_VALIDATION_ALONE

What = Literal["new_best", "integrity_alarm", "device_quarantined", "budget_spent", "farm_ended"]
"""What people are told of."""

TITLE_WIDTH = 120


class Notifications:
    """Turns what a farm observes into messages. Its methods are those of the farm's observers."""

    def __init__(self, channels: Channels, *, tag: str) -> None:
        self._channels, self._tag = channels, tag
        self._gains: dict[str, ExpectedGain] = {}
        self._moved: dict[str, str] = {}
        """What each group's new head has changed, as long as its gain isn't known."""

    @property
    def close(self) -> Callable[[], None]:
        """Ends the sending, after a moment for what still waits."""
        return self._channels.close

    def on_event(self, kind: str, **fields: Any) -> None:
        """Something happened that is recorded."""
        if kind == "head_moved":
            self._moved[fields["branch"]] = str(fields["change"])
        elif kind == BUDGET_SPENT:
            self._tell("budget_spent", f"{short_name(fields['branch'])}: {fields['reason']}", **fields)
        elif kind == "farm_ended":
            best = min(self._gains.values(), key=lambda gain: gain.head, default=None)
            told = f"; {gain_text(best)}" if best else ""
            self._tell("farm_ended", f"the farm has ended: {fields['reason']}{told}", **fields)

    def on_head_gain(self, group: str, gain: ExpectedGain) -> None:
        """The estimate of a head has changed: a message if it has just become the head and is better than the one before."""
        before, change = self._gains.get(group), self._moved.pop(group, None)
        self._gains[group] = gain
        if change is not None and gain.gain > 0 and (before is None or gain.head < before.head):
            figures = {name: getattr(gain, name) for name in ("baseline", "head", "gain", "low", "high", "sigma")}
            text = f"{short_name(group)}: new best, {gain_text(gain)}; {one_line(change, TITLE_WIDTH)}"
            self._tell("new_best", text, branch=group, change=one_line(change), **figures)

    def on_verdict(self, record: ExperimentRecord) -> None:
        """An experiment is decided: an alarm if its score is not to be believed."""
        verdict, experiment = record.verdict, record.experiment
        if verdict is None or not (verdict.decision == "invalid" or ON_VALIDATION_ALONE in verdict.reason):
            return
        title, reason = one_line(experiment.title, TITLE_WIDTH), one_line(verdict.reason, 400)
        told = {"branch": experiment.branch, "experiment": experiment.id, "title": title, "reason": reason}
        self._tell("integrity_alarm", f"{short_name(experiment.branch)}: {experiment.id} ({title}) {reason}", **told)

    def on_worker(self, name: str, state: str, **details: Any) -> None:
        """A device has changed its state."""
        if state == "quarantined":
            reason = one_line(str(details.get("reason", "")), 400)
            self._tell("device_quarantined", f"{name} gets no more work: {reason}", device=name, reason=reason)

    def _tell(self, what: What, text: str, **fields: Any) -> None:
        self._channels.send({"event": what, "tag": self._tag, "text": f"farm {self._tag}: {one_line(text)}", **fields})


def notifications_of(options: FarmOptions, *, say: Callable[[str], None]) -> Notifications | None:
    """The messages that a farm's user wants; None for none."""
    if options.notify is None and options.notify_url is None:
        return None
    channels = Channels(command=options.notify, url=options.notify_url, shape=options.notify_shape, say=say)
    return Notifications(channels, tag=options.tag)
