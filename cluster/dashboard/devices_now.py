"""What each device and each loop of the running farm does now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster.display import LoopFields, time_left
from cluster.status_text import doing

RUNNING = "SELECT run, worker, branch, experiment, kind, began FROM work WHERE state = 'running' ORDER BY began"
"""The runs that are under way, as the queue has them."""


@dataclass(frozen=True, kw_only=True)
class DeviceNow:
    """A device and what it runs."""

    name: str
    state: Literal["running", "idle", "quarantined"]
    branch: str = ""
    experiment: str = ""
    title: str = ""
    kind: str = ""
    phase: str = ""
    fraction: float | None = None
    """Share of the time budget that is used, 0 to 1; None while nothing trains."""
    left: str = ""
    """Time until the budget ends."""
    loss: float | None = None
    reason: str = ""
    """Why it gets no more work."""


@dataclass(frozen=True, kw_only=True)
class LoopNow:
    """A loop and what it does, in words."""

    branch: str
    words: str
    is_paused: bool
    has_ended: bool


def devices_now(running: Mapping[str, Any], work: Sequence[Mapping[str, Any]]) -> list[DeviceNow]:
    """The devices of a farm by its answer to `farm status`, and the rows of RUNNING."""
    on = {str(row["worker"]): row for row in work}
    found = [_device(str(name), on.get(str(name)), running["loops"]) for name in running["devices"]]
    out = [DeviceNow(name=name, state="quarantined", reason=str(why)) for name, why in running["quarantined"].items()]
    return [device for device in found if device.name not in running["quarantined"]] + out


def _device(name: str, row: Mapping[str, Any] | None, loops: Mapping[str, Mapping[str, Any]]) -> DeviceNow:
    if row is None:
        return DeviceNow(name=name, state="idle")
    known: LoopFields = loops.get(str(row["branch"]), {})  # type: ignore[assignment]
    is_its = known.get("experiment") == row["experiment"]  # a loop that proposes meanwhile tells of something else
    is_training = is_its and known.get("phase") == "training"
    return DeviceNow(
        name=name,
        state="running",
        branch=str(row["branch"]),
        experiment=str(row["experiment"]),
        title=str(known.get("title", "")) if is_its else "",
        kind=str(row["kind"]),
        phase=str(known.get("phase", "")) if is_its else "running",
        fraction=known.get("fraction") if is_training else None,
        left=time_left(known) if is_training else "",
        loss=known.get("loss") if is_training else None,
    )


def loops_now(running: Mapping[str, Any]) -> list[LoopNow]:
    """The loops of a farm by its answer to `farm status`."""
    return [
        LoopNow(branch=str(branch), words=doing(dict(known)), is_paused=known.get("phase") == "paused",
                has_ended=known.get("phase") == "ended")
        for branch, known in running["loops"].items()
    ]  # fmt: skip
