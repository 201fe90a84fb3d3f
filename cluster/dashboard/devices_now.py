"""What each device and each loop of the running farm does now."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from cluster.display import LoopFields, time_left
from cluster.status_text import doing
from results.residuals import DeviceResidual

DUTY_SECONDS = 3_600.0
"""The most recent seconds of a farm over which the duty cycle of its devices is computed."""

IDLE_SECONDS = 60.0
"""How long a device may wait for work before it is flagged; between two runs a few seconds are normal."""


def work_since(seconds: float) -> str:
    """The query for the runs that are under way or ended in the latest `seconds`."""
    return (
        "SELECT run, state, worker, branch, experiment, kind, began, ended FROM work WHERE worker IS NOT NULL AND "
        f"(state = 'running' OR ended > (now() AT TIME ZONE 'UTC') - INTERVAL {round(seconds)} SECOND) ORDER BY began"
    )


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
    duty: float | None = None
    """Share of the latest time, DUTY_SECONDS at most, in which a run was on it; None if that isn't known."""
    idle_seconds: float | None = None
    """Seconds since its last run of that time ended; None while it runs one, or if it had none."""
    residual: DeviceResidual | None = None

    @property
    def is_idle_long(self) -> bool:
        """Whether it has waited for work longer than devices do between two runs."""
        return self.state == "idle" and self.idle_seconds is not None and self.idle_seconds > IDLE_SECONDS


@dataclass(frozen=True, kw_only=True)
class LoopNow:
    """A loop and what it does, in words."""

    branch: str
    words: str
    is_paused: bool
    has_ended: bool


def devices_now(
    running: Mapping[str, Any],
    work: Sequence[Mapping[str, Any]],
    *,
    residuals: Mapping[str, DeviceResidual],
    now: datetime | None = None,
) -> list[DeviceNow]:
    """The devices of a farm by its answer to `farm status`, the rows of `work_since`, and what each one's scores say of it."""
    now = now or datetime.now(UTC)
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in work:
        rows[str(row["worker"])].append(row)
    window = min(DUTY_SECONDS, float(running["seconds"]))
    found = [
        _device(str(name), rows[str(name)], running["loops"], window, now, residuals.get(str(name)))
        for name in running["devices"]
    ]
    out = [DeviceNow(name=name, state="quarantined", reason=str(why)) for name, why in running["quarantined"].items()]
    return [device for device in found if device.name not in running["quarantined"]] + out


def _device(name: str, rows: Sequence[Mapping[str, Any]], loops: Mapping[str, Mapping[str, Any]], window: float, now: datetime,
            residual: DeviceResidual | None) -> DeviceNow:  # fmt: skip
    """A device by the rows of its runs."""
    duty = _duty(rows, window, now)
    row = next((row for row in reversed(rows) if row["state"] == "running"), None)
    if row is None:
        last = max((_time(row["ended"]) for row in rows if row["ended"]), default=None)
        idle = None if last is None else max(0.0, (now - last).total_seconds())
        return DeviceNow(name=name, state="idle", duty=duty, idle_seconds=idle, residual=residual)
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
        duty=duty,
        residual=residual,
    )


def _duty(rows: Sequence[Mapping[str, Any]], window: float, now: datetime) -> float | None:
    """The share of the latest `window` seconds in which one of these runs was under way; None for no time at all."""
    begin = now - timedelta(seconds=window)
    busy = sum(
        max(0.0, ((_time(row["ended"]) if row["ended"] else now) - max(_time(row["began"]), begin)).total_seconds())
        for row in rows
        if row["began"]
    )
    return min(1.0, busy / window) if window > 0 else None


def _time(told: Any) -> datetime:
    """A time of the database, which is UTC."""
    found = told if isinstance(told, datetime) else datetime.fromisoformat(str(told))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def loops_now(running: Mapping[str, Any]) -> list[LoopNow]:
    """The loops of a farm by its answer to `farm status`."""
    return [
        LoopNow(branch=str(branch), words=doing(dict(known)), is_paused=known.get("phase") == "paused",
                has_ended=known.get("phase") == "ended")
        for branch, known in running["loops"].items()
    ]  # fmt: skip
