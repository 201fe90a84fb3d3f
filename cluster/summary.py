"""What a farm did until it ended, as a record and in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from research.text import counted, duration
from results.store import Store


@dataclass(frozen=True, kw_only=True)
class FarmSummary:
    """What a farm did until it ended, over all branches of one call."""

    branches: tuple[str, ...]
    experiments: int
    """Ideas with a verdict; lost ones don't count."""
    keeps: int
    baseline: float | None
    """val_bpb of the first branch's baseline."""
    best: float | None
    """The lowest val_bpb of a branch's head."""
    seconds: float
    ended: str
    """Why the farm ended, in words."""


def summarise(store: Store, branches: Sequence[str], *, seconds: float, ended: str) -> FarmSummary:
    """The summary of a farm that worked on `branches` for `seconds`."""
    done = [record for name in branches for record in store.records(name) if record.is_done]
    first = store.baseline(branches[0]) if branches else None
    heads = [head.mean for name in branches if (head := store.head(name)) is not None]
    return FarmSummary(
        branches=tuple(branches),
        experiments=len(done),
        keeps=sum(record.verdict is not None and record.verdict.decision == "keep" for record in done),
        baseline=first.val_bpb if first else None,
        best=min(heads, default=None),
        seconds=seconds,
        ended=ended,
    )


def experiments_done(store: Store, branch: str) -> int:
    """A branch's ideas with a verdict; lost ones don't count."""
    return sum(record.is_done for record in store.records(branch))


def summary_lines(summary: FarmSummary) -> list[str]:
    """The lines after a farm has ended: why, how long it took, and what it gained."""
    lines = [f"ended: {summary.ended}, after {duration(summary.seconds)}"]
    lines.append(f"{counted(summary.experiments, 'experiment')}, {summary.keeps} kept, on {', '.join(summary.branches)}")
    if summary.best is not None and summary.baseline is not None:
        gained = summary.baseline - summary.best
        lines.append(f"val_bpb {summary.baseline:.6f} at the start, {summary.best:.6f} now: {gained:.6f} gained")
    return lines
