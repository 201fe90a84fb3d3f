"""Records and shows what happens in a farm: verdicts, events, work, workers, and what each loop is doing."""

from typing import Any

from agent.proposing import REPLACED
from cluster.display import Display
from cluster.end_summary import counts_of
from cluster.history_export import HistoryExport
from cluster.home import Home, home_option
from cluster.hooks import HOOK_FAILED, Hooks
from cluster.notifications import Notifications
from cluster.paced import PacedWork
from cluster.workqueue import WorkItem
from research.command_hints import to_type
from results.experiment import ExperimentRecord
from results.head_gain import ExpectedGain
from results.store import Store

MESSAGES = {
    "proposal_withdrawn": "{branch}: {title} was withdrawn before its run: the last keep changed the same thing",
    "proposal_refused": "{branch}: {title} was refused: {reason}",
    "proposal_failed": "{branch}: no proposal, asking again in {again_in_s:g} s: {reason}",
    REPLACED: "{branch}: {by} goes on instead of {researcher}: {reason}",
    "adopting": "{branch}: {commits} made by hand will be run, and recorded as kept (another --tag starts afresh)",
    "moved_aside": "{branch}: results.tsv was no table of experiments: it is now {file}",
    "decision_changed": "{branch}: {experiment} ({title}) {reason}",
    "head_moved": "{branch}: the head is now {change}; val_bpb {expected:.4f} expected",
    "share_unusual": "{branch}: {run} ran {share}, which may decide: it is repeated",
    "overhead_unusual": "{branch}: {run} took longer outside the budget, at a price of {price} that decides: it is repeated",
    "parked": "{branch}: the new head is without what a person had changed there: that is now {ref} in git",
    "made_again": "{branch}: its {what} had been deleted, and was made again",
    "wave_ended": "{branch}: the wave of near-misses ends early: {reason}",
    "edit_waits": "{branch}: train.py is the head's again; {experiment} is kept on record, and comes in by a merge run",
    "no_wave": "{branch}: too few near-misses to combine, or they have been combined on this head",
    "view_failed": "{file} can't be written ({reason}): it is tried again later, and nothing of the history is lost",
    "picture_moved_aside": "{branch}: progress.png was not drawn by the farm: it is now {file}",
    "loop_paused": "{branch}: paused, until: {resume} {branch}",
    "loop_resumed": "{branch}: resumed",
    "loop_stopped": "{branch}: stopped; the other loops go on",
    HOOK_FAILED: "{branch}: the hook {hook} failed for {experiment}: {reason}",
    "run_lost": "{branch}: run {run} was lost: {reason}",
}
"""The messages for events that the user is told about; all others are only logged."""


class FarmEvents:
    """The observer of a farm's loops and of its dispatcher."""

    def __init__(self, home: Home, store: Store, display: Display, export: HistoryExport, *, show_joining: bool) -> None:
        """`show_joining`: whether the user is told which devices join, as is useful on a cluster."""
        self._home, self._store, self._display, self._export = home, store, display, export
        self._show_joining = show_joining
        self._told: set[str] = set()
        self._counting = PacedWork(lambda: display.counts(counts_of(store, list(self.loops))))
        self.loops: dict[str, dict[str, Any]] = {}
        """What each loop is doing, by its branch."""
        self.hooks: Hooks | None = None
        """The user's commands that run after verdicts; None if there are none."""
        self.notifications: Notifications | None = None
        """Messages to people elsewhere; None if nobody wants any."""

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        """A loop's state has changed, or its run has progressed."""
        fields.pop("event", None)
        is_new = branch not in self.loops
        self.loops.setdefault(branch, {}).update(fields)
        if is_new:  # its branch may be one that is resumed
            self._counting.request()
        self._display.loop_state(branch, **fields)

    def on_verdict(self, record: ExperimentRecord) -> None:
        """An experiment has its verdict."""
        assert record.verdict is not None
        self._display.verdict(record)
        self._counting.request()
        self._log(
            "verdict",
            branch=record.experiment.branch,
            experiment=record.experiment.id,
            title=record.experiment.title,
            decision=record.verdict.decision,
            val_bpb=record.val_bpb,
            reason=record.verdict.reason,
        )
        self._export.request()
        if self.hooks is not None:
            self.hooks.after(record)
        if self.notifications is not None:
            self.notifications.on_verdict(record)

    def on_head_gain(self, group: str, gain: ExpectedGain) -> None:
        """All runs of a group have said something new of its head."""
        self._display.head_gain(group, gain)
        if self.notifications is not None:
            self.notifications.on_head_gain(group, gain)

    def on_event(self, kind: str, **fields: Any) -> None:
        """Anything else that people may want to know later."""
        self._log(kind, **fields)
        if kind == "decision_changed":
            self._counting.request()
            self._export.request()
        if kind in MESSAGES:
            self._say(kind, **fields)
        if self.notifications is not None:
            self.notifications.on_event(kind, **fields)

    def _log(self, kind: str, **fields: Any) -> None:
        """Adds an event to the log, which is for people only: if that fails, they are told once for each reason."""
        try:
            self._home.log_event(kind, **fields)
        except OSError as error:
            self._say("view_failed", file=self._home.log_file, reason=error.strerror)

    def _say(self, kind: str, **fields: Any) -> None:
        """Tells the user of an event; that a file can't be written only once for each reason."""
        text = MESSAGES[kind].format(**fields, resume=to_type(f"farm resume{home_option(self._home)}"))
        if kind != "view_failed" or text not in self._told:
            self._told.add(text)
            self._display.say(text)

    def on_work(self, item: WorkItem, state: str, **details: Any) -> None:
        """A run was enqueued, has started, is done or was lost."""
        work = {
            "run": item.id,
            "work": item.kind,
            "branch": item.branch,
            "experiment": item.experiment,
            "platform": item.platform,
            "repeats": item.repeats,
            "state": state,
        }
        self._store.add_event("work", {**work, **details})

    def on_worker(self, name: str, state: str, **details: Any) -> None:
        """A device joined, left, was refused or quarantined."""
        self._store.add_event("worker", {"worker": name, "state": state, **details})
        self._log("worker", worker=name, state=state, **details)
        if state != "joined" or self._show_joining:
            self._display.say(f"{name} {state}" + "".join(f": {value}" for value in details.values()))
        if self.notifications is not None:
            self.notifications.on_worker(name, state, **details)

    def on_control(self, worker: str, found: str) -> None:
        """A control has found whether a device or a train.py is to blame for lost runs."""
        self._log("device_control", worker=worker, found=found)
        self._display.say(f"{worker}: {found}")

    def cancel_old_work(self) -> None:
        """Marks what was queued or running when the last farm on this home ended as cancelled: loops request it again."""
        for run, *_ in self._store.query("SELECT run, state FROM work WHERE state IN ('waiting', 'running')").rows:
            self._store.add_event("work", {"run": run, "state": "cancelled", "reason": "the farm ended"})
