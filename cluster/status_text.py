"""`farm status` in words: what each loop of a running farm does, and where each branch stands."""

from typing import Any

from research.formatting import counted
from results.history import BranchHistory


def running_lines(running: dict[str, Any]) -> list[str]:
    lines = [f"{branch}: {_doing(known)}" for branch, known in running["loops"].items()]
    lines.append(f"devices: {', '.join(running['devices']) or 'none yet'}")
    if running["waiting"]:
        lines.append(f"queued: {', '.join(running['waiting'])}")
    return lines + [f"{device} gets no more work: {reason}" for device, reason in running["quarantined"].items()]


def _doing(known: dict[str, Any]) -> str:
    phase = str(known.get("phase", "starting"))
    if phase != "training":
        return f"{phase} {known.get('title', '')}".strip()
    loss = "" if known.get("loss") is None else f", loss {known['loss']:.3f}"
    return f"training {known.get('title', '')} ({known.get('fraction', 0.0):.0%}{loss})"


def standing(history: BranchHistory) -> dict[str, Any]:
    """The state of a branch, for --json. What is expected of its head was recorded when that became the head."""
    group, head = history.group, history.group.head
    scores = group.baseline_scores
    baseline = sum(scores) / len(scores) if scores else None
    return {
        "platform": history.branch.platform,
        "profile": history.branch.profile,
        "experiments": sum(record.is_done for record in history.records),
        "keeps": sum(record.is_done for record in history.keeps),
        "baseline": baseline,
        "best": head.expected if head else None,
        "gain": baseline - head.expected if head and baseline is not None else None,
        "head": head.commit if head else None,
        "head_branch": group.name,
    }


def standing_line(history: BranchHistory) -> str:
    state = standing(history)
    name, counts = history.branch.name, f"{counted(state['experiments'], 'experiment')}, {state['keeps']} kept"
    if state["best"] is None or state["baseline"] is None:
        return f"{name}: {counts}; no score yet"
    expected = f"{state['best']:.4f} expected of the head: {state['gain']:+.4f}"
    return f"{name}: {counts}; val_bpb {state['baseline']:.4f} -> {expected}"
