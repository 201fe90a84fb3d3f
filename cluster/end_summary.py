"""What a farm did until it ended, as a record and in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.person_requests import REQUESTED
from research.formatting import counted, duration
from results.counts import Counts, beside_stored_ideas, count_stored, keeps_in_words
from results.expected_gain import expected_gain
from results.head_gain import ExpectedGain, gain_text
from results.store import Store

BRANCHES_SHOWN = 16
"""The number of branches that the words name; `farm status` names all."""


@dataclass(frozen=True, kw_only=True)
class FarmSummary:
    """What a farm did until it ended, over all branches of one call."""

    branches: tuple[str, ...]
    experiments: int
    """Ideas with a verdict; lost ones don't count."""
    keeps: int
    """Ideas that are kept: one that several experiments have tried counts once."""
    baseline: float | None
    """val_bpb of the first branch's baseline."""
    gain: ExpectedGain | None
    """What the best head gains by all runs, among the branches that compare with the first; None before it is known."""
    seconds: float
    ended: str
    """Why the farm ended, in words."""
    kept_experiments: int = 0
    """The experiments that have tried the ideas which are kept."""
    of_branches: tuple[str, ...] = ()
    """For each branch how many experiments it has, and what ran beside them, in words."""
    waiting: tuple[str, ...] = ()
    """What a person has asked for and no loop has taken up, in words."""


def summarise(store: Store, branches: Sequence[str], *, seconds: float, ended: str) -> FarmSummary:
    """The summary of a farm that worked on `branches` for `seconds`."""
    counts = counts_of(store, branches)
    first = store.baseline(branches[0]) if branches else None
    return FarmSummary(
        branches=tuple(branches),
        experiments=counts.done,
        keeps=counts.kept,
        kept_experiments=counts.kept_experiments,
        baseline=first.val_bpb if first else None,
        gain=_best_gain(store, branches),
        seconds=seconds,
        ended=ended,
        of_branches=tuple(_of_branch(store, branch) for branch in branches),
        waiting=_waiting(store, branches),
    )


def _of_branch(store: Store, branch: str) -> str:
    counts = count_stored(store.experiments, [branch])
    return ", ".join([f"{branch}: {counts.experiments}", *beside_stored_ideas(store.experiments, branch).values()])


def _waiting(store: Store, branches: Sequence[str]) -> tuple[str, ...]:
    known = [branch for name in branches if (branch := store.branch(name)) is not None]
    groups = dict.fromkeys(branch.head_branch for branch in known)
    return tuple(REQUESTED[request["request"]] for group in groups for request in store.open_requests(group))


def counts_of(store: Store, branches: Iterable[str]) -> Counts:
    """How the experiments on these branches ended, over all calls that have worked on them."""
    of_head: dict[str, list[str]] = {}
    for branch in filter(None, map(store.branch, branches)):
        of_head.setdefault(branch.head_branch, []).append(branch.name)
    return count_stored(store.experiments, *of_head.values())


def _best_gain(store: Store, branches: Sequence[str]) -> ExpectedGain | None:
    """The gain of the head that is expected to score lowest, of the groups on the platform of the first branch."""
    known = [branch for name in branches if (branch := store.branch(name)) is not None]
    alike = dict.fromkeys(branch.head_branch for branch in known if branch.platform == known[0].platform)
    heads = [(group, head) for group in alike if (head := store.groups.head(group)) is not None]
    gains = [gain for group, head in heads if (gain := expected_gain(store.groups.state(group), head.commit)) is not None]
    return min(gains, key=lambda gain: gain.head, default=None)


def experiments_done(store: Store, branch: str) -> int:
    """A branch's ideas with a verdict; lost ones don't count."""
    return store.experiments.done(branch)


def summary_lines(summary: FarmSummary) -> list[str]:
    """The lines after a farm has ended: why, how long it took, and what it gained."""
    lines = [f"ended: {summary.ended}, after {duration(summary.seconds)}"]
    on, more = ", ".join(summary.branches[:BRANCHES_SHOWN]), len(summary.branches) - BRANCHES_SHOWN
    others = f" and {more:,} more" if more > 0 else ""
    kept = keeps_in_words(summary.keeps, experiments=summary.kept_experiments)
    lines.append(f"{counted(summary.experiments, 'experiment')}, {kept}, on {on}{others}")
    lines += [f"  {line}" for line in summary.of_branches[:BRANCHES_SHOWN]]
    if summary.gain:
        lines.append(gain_text(summary.gain))
    if summary.waiting:
        what = ", ".join(summary.waiting)
        lines.append(f"still requested: {what}; it runs when the farm resumes, with more --experiments or none")
    return lines
