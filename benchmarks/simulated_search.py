"""Research on a simulated landscape: the farm with its real policy and queue, independent greedy loops, a noise-free oracle.

Time is simulated: every run takes about one unit, and a device that is free takes the most urgent run of the queue. A policy's
noise depends on the repeat and on its own name alone.
"""

import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from benchmarks.landscape import World
from cluster.workqueue import Lease, WorkItem, WorkQueue
from results import effect_estimate as estimate
from results import policy
from results.observations import NoiseModel
from results.policy_state import FarmState, Finished, Patch, RunKind, Work

PLATFORM = "simulated"
JITTER = 0.05
"""How much longer or shorter than one unit a run may take."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one policy ended with on one landscape."""

    true_gain: float
    reported: float
    bad_share: float
    """NaN where the head is empty."""
    first_beliefs: tuple["Belief", ...] = ()
    """What the farm thought of each idea right after its first run."""
    last_beliefs: tuple["Belief", ...] = ()
    """What it thinks of each idea that has a score at the end."""
    gain_is_covered: bool | None = None

    @property
    def overstatement(self) -> float:
        """How much more is reported than was gained."""
        return self.reported - self.true_gain


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What the farm thinks of an idea, and what is true of it."""

    helps: float
    """P(effect > 0)."""
    does_help: bool
    is_covered: bool
    """Whether the 90% interval held the true effect."""


def greedy(world: World, loops: int, runs: int) -> Found:
    """Independent loops, each of which keeps what scores below its head's own score; the branch that reports most counts."""
    branches = [_greedy_loop(world, loop, runs) for loop in range(loops)]
    reported, head = max(branches, key=lambda branch: branch[0])
    return Found(true_gain=world.value(sorted(head)), reported=reported, bad_share=world.bad_share(head))


def oracle(world: World, loops: int, runs: int) -> Found:
    """Loops that share one head and see no noise."""
    head: frozenset[int] = frozenset()
    value = 0.0
    ideas = _SharedIdeas(world, loops)
    for number in range(loops * runs - 1):
        idea = ideas.next(number % loops)
        if idea is None:
            break
        tried = world.with_idea(head, idea)
        if not world.crashes[idea] and (found := world.value(sorted(tried))) > value:
            head, value = tried, found
    return Found(true_gain=value, reported=value, bad_share=world.bad_share(head))


def farm(world: World, loops: int, runs: int) -> Found:
    """The farm: `results/policy.py` decides, `cluster/workqueue.py` hands out the runs."""
    research = _Farm(world, loops)
    research.run(loops * runs)
    head = frozenset(map(int, research.state.head))
    reported, low, high = policy.head_gain(research.state)
    gained = world.value(sorted(head))
    return Found(
        true_gain=gained,
        reported=reported,
        bad_share=world.bad_share(head),
        first_beliefs=tuple(research.first_beliefs),
        last_beliefs=research.last_beliefs(),
        gain_is_covered=low <= gained <= high,
    )


def _greedy_loop(world: World, loop: int, runs: int) -> tuple[float, frozenset[int]]:
    """The gain that one loop reports, and its head."""
    rng = np.random.default_rng([world.repeat, 2, loop])
    baseline = world.score((), None, rng)
    assert baseline is not None, "the untouched train.py does not crash"
    best, head = baseline, frozenset[int]()
    for idea in world.order(loop)[: runs - 1].tolist():
        tried = world.with_idea(head, idea)
        score = world.score(sorted(tried), idea, rng)
        if score is not None and score < best:
            best, head = score, tried
    return baseline - best, head


class _SharedIdeas:
    """What each loop thinks of next, without what any loop tried."""

    def __init__(self, world: World, loops: int) -> None:
        self._orders: list[Iterator[int]] = [iter(world.order(loop).tolist()) for loop in range(loops)]
        self._tried: set[int] = set()

    def next(self, loop: int) -> int | None:
        """The loop's next idea; None when it has no more."""
        idea = next((idea for idea in self._orders[loop] if idea not in self._tried), None)
        if idea is not None:
            self._tried.add(idea)
        return idea


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run that a device executes."""

    lease: Lease
    work: Work
    idea: Patch | None


class _Farm:
    """Devices, queue and policy in simulated time. One loop for each device."""

    def __init__(self, world: World, loops: int) -> None:
        model = NoiseModel(sigma=world.landscape.told_sigma, refit_every=policy.LOOP_REFIT * loops)
        self.state: FarmState = policy.begin(model, devices=loops)
        self.first_beliefs: list[Belief] = []
        self._truths: dict[int, float] = {}
        self._world, self._loops = world, loops
        self._ideas = _SharedIdeas(world, loops)
        self._queue = WorkQueue(lease_seconds=float("inf"))
        self._requested: dict[str, Work | Patch] = {}
        self._numbers = itertools.count()
        self._rng = np.random.default_rng([world.repeat, 3])

    def run(self, budget: int) -> None:
        """Executes this many runs."""
        ends: list[tuple[float, int, _Run]] = []
        free, now, started = list(range(self._loops)), 0.0, 0
        while free or ends:
            for device in free:
                run = self._start(device, now) if started < budget else None
                if run is not None:
                    heapq.heappush(ends, (now + self._rng.uniform(1 - JITTER, 1 + JITTER), device, run))
                    started += 1
            free = []
            if ends:
                now, device, run = heapq.heappop(ends)
                self._end(run)
                free = [device]

    def _start(self, device: int, now: float) -> _Run | None:
        """Leases the most urgent run to a device; an exploration is rebased on the head of this moment."""
        self._enqueue()
        lease = self._queue.claim(f"device-{device}", PLATFORM, now)
        if lease is None:
            return None
        requested = self._requested.pop(lease.item.id)
        if isinstance(requested, Work):
            return _Run(lease=lease, work=requested, idea=None)
        return _Run(lease=lease, work=policy.explored(self.state, requested), idea=requested)

    def _enqueue(self) -> None:
        """Adds what the policy asks for, and an exploration for each loop that has none waiting."""
        while (work := policy.next_work(self.state, self._under_way())) is not None:
            self._add(work.kind, "head", work)
        waiting = {item.branch for item in self._queue.waiting}
        for loop in range(self._loops):
            if (branch := f"loop-{loop}") not in waiting and (idea := self._ideas.next(loop)) is not None:
                self._add("explore", branch, Patch(name=str(idea), slots=frozenset({str(self._world.slots[idea])})))

    def _under_way(self) -> list[RunKind]:
        items = [*self._queue.waiting, *(lease.item for lease in self._queue.leases)]
        return [kind for kind in get_args(RunKind) for item in items if item.kind == kind]

    def _add(self, kind: RunKind, branch: str, requested: Work | Patch) -> None:
        name = f"run-{next(self._numbers)}"
        self._queue.add(WorkItem(id=name, kind=kind, branch=branch, experiment=name, platform=PLATFORM))
        self._requested[name] = requested

    def _end(self, run: _Run) -> None:
        """Scores a run, and tells the policy."""
        self._queue.finish(run.lease)
        ideas = sorted(map(int, run.work.patches))
        new = int(run.idea.name) if run.idea is not None else None
        score = self._world.score(ideas, new, self._rng)
        work = run.work
        finished = Finished(kind=work.kind, score=score, patches=work.patches, left_out=work.left_out, idea=run.idea)
        self.state = policy.observe(self.state, finished)
        if new is not None and score is not None and self.state.posterior.knows(str(new)):
            self._truths[new] = self._effect_in(ideas, new)
            self.first_beliefs += self._beliefs({new: self._truths[new]})

    def last_beliefs(self) -> tuple[Belief, ...]:
        """What the estimate says in the end of every idea with a score.

        What is true of an idea is its effect in the head, or, if it isn't there, on the head that it was tried on.
        """
        head = sorted(map(int, self.state.head))
        truths = {idea: self._effect_in(head, idea) if idea in head else effect for idea, effect in self._truths.items()}
        return tuple(self._beliefs(truths))

    def _effect_in(self, ideas: list[int], idea: int) -> float:
        return self._world.value(ideas) - self._world.value([other for other in ideas if other != idea])

    def _beliefs(self, truths: Mapping[int, float]) -> list[Belief]:
        if not truths:
            return []
        posterior = self.state.posterior
        mixture = estimate.effects_of(posterior, map(str, truths))
        helps = mixture.above(np.zeros(len(truths)))
        above = estimate.in_context(mixture).above(np.array(list(truths.values())) / posterior.scale)
        tail = (1 - estimate.INTERVAL) / 2
        return [
            Belief(helps=p, does_help=effect > 0, is_covered=tail <= beyond <= 1 - tail)
            for effect, p, beyond in zip(truths.values(), helps.tolist(), above.tolist(), strict=True)
        ]
