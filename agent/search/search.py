"""Search: a researcher that needs no key and no network.

It turns one constant at a time by a line search, and mixes in ablations and crossovers of near-misses. All that it knows is
in the history. How it chooses:

- Every constant is a knob (`knobs.py`), and the experiments that turned it alone give a curve of how good its values
  were (`curves.py`). Where neither side of the head is known, it probes; after a gain it goes on, more boldly after a
  large one; after a loss it turns round; between two losses it takes the top of the parabola.
- Every such step has a score, the gain to hope for in sigmas: from the curve where there is one, else from a prior order of
  knobs, lowered for knobs that only failed. The best step that was never tried is proposed. This is a greedy bandit.
- Every fifth idea combines discarded experiments that came close, every eighth removes something.
- When all lines are searched, it turns two or three knobs at once, at random.

Loops that begin side by side have other seeds: each takes another of the best steps first, and then its own order.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from statistics import fmean

from agent.patch import changed_constants
from agent.researcher import Context, OutOfIdeas, ProposalFailed
from agent.search.ablations import ABLATIONS, ablated
from agent.search.curves import Curve, Step, next_steps, outcome, read_curves
from agent.search.knobs import Knob, knobs_of, settle
from agent.search.tried import Tried, only_constants
from research.contract import Contract
from research.hyperparameters import literal_text, write_constants
from research.profiles import Constant
from research.text import counted
from research.train_py import problem_with
from results.experiment import ExperimentRecord, Proposal
from results.verdict import is_near_miss

SETTLING_IN = 8
"""Ideas before the first crossover or ablation: at first single constants pay most."""
CROSSOVER_EVERY = 5
ABLATION_EVERY = 8
NEAR_MISSES = 10
"""How many of the best are combined."""
LARGEST_GROUP = 5
RANDOM_TRIES = 300
TASTE = 0.1
"""Share of its score that a seed adds to a step or takes from it."""


@dataclass(frozen=True, kw_only=True)
class Idea:
    """An edit of the head, not yet a proposal."""

    hypothesis: str
    changes: Mapping[str, Constant]
    parents: tuple[str, ...] = ()


class SearchResearcher:
    """Proposes by rules from the history alone: deterministic for a seed and a history."""

    name = "search"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    async def propose(self, context: Context) -> Proposal:
        """The most promising edit that was never tried on this branch."""
        if problem := problem_with(context.train_py):
            raise ProposalFailed(f"the head can't be edited: {problem}")
        view = _View(context, self.seed)
        turn = sum(record.experiment.researcher == self.name for record in context.records)
        proposal = None
        if turn == 0:
            proposal = view.first_step_of_its_own(self.seed)
        elif turn >= SETTLING_IN and turn % ABLATION_EVERY == ABLATION_EVERY - 2:
            proposal = view.ablation()
        elif turn >= SETTLING_IN and turn % CROSSOVER_EVERY == CROSSOVER_EVERY - 1:
            proposal = view.first_new(view.crossovers())
        proposal = (
            proposal
            or view.first_new(view.steps())
            or view.first_new(view.crossovers())
            or view.ablation()
            or view.first_new(view.random_changes())
        )
        if proposal is None:
            raise OutOfIdeas("Every step, combination and ablation that search knows has been tried.")
        return proposal

    async def close(self) -> None:
        """Nothing to end."""


class _View:
    """One look at the history, and the ideas that follow from it."""

    def __init__(self, context: Context, seed: int) -> None:
        self.context = context
        self.records = context.records
        self.max_seq_len = Contract.from_json(context.branch.contract_json).MAX_SEQ_LEN
        self.tried = Tried(context.train_py, context.head.commit, context.records)
        self.constants = self.tried.constants
        self.knobs = knobs_of(self.constants)
        self.curves = read_curves(self.knobs, context.records, context.sigma)
        self.keeps = sum(record.verdict is not None and record.verdict.decision == "keep" for record in self.records)
        self.random = random.Random(f"{seed} {context.head.commit} {len(context.records)}")
        self.taste = random.Random(seed)

    def first_new(self, ideas: Iterator[Idea]) -> Proposal | None:
        """The first idea that was never tried."""
        return next(self.new_ones(ideas), None)

    def new_ones(self, ideas: Iterator[Idea]) -> Iterator[Proposal]:
        """The ideas that were never tried, as proposals."""
        for idea in ideas:
            changes = settle(self.constants, idea.changes, max_seq_len=self.max_seq_len)
            if changes is not None and not self.tried.holds_constants(changes):
                train_py = write_constants(self.context.train_py, changes)
                yield Proposal(
                    title=_title(self.constants, changes),
                    hypothesis=idea.hypothesis,
                    train_py=train_py,
                    researcher=SearchResearcher.name,
                    parents=idea.parents,
                    changes={name: (self.constants[name], new) for name, new in changes.items()},
                )

    def first_step_of_its_own(self, place: int) -> Proposal | None:
        """The step at a place of the order that all seeds share: no two loops begin with the same. None past its end."""
        return next(islice(self.new_ones(self.steps(taste=0.0)), place, None), None)

    def steps(self, *, taste: float = TASTE) -> Iterator[Idea]:
        """Steps of single knobs, the most promising first."""
        ranked = []
        for knob in self.knobs:
            liking = self.taste.uniform(1 - taste, 1 + taste)  # loops with other seeds take another order
            curve, head = self.curves[knob.label], knob.read(self.constants[knob.name])
            if head is None or curve.busy:
                continue
            seen = curve.seen_from(head, keeps=self.keeps)
            turned = [(step, self._turned(knob, step.position)) for step in next_steps(knob, head, curve, keeps=self.keeps)]
            possible = [(step, changes) for step, changes in turned if changes]
            for step, changes in possible:
                if not _is_known(knob, changes, head, seen):
                    score = step.score if len(possible) > 1 else max(step.score, turned[0][0].score)
                    ranked.append((score * liking, knob, step, changes))
        for _, knob, step, changes in sorted(ranked, key=lambda item: -item[0]):
            yield Idea(hypothesis=_reason(knob, step, self.curves[knob.label]), changes=changes)

    def crossovers(self) -> Iterator[Idea]:
        """Groups of near-misses that turned different constants, those with the largest sum of gains first."""
        near = sorted(self._near_misses(), key=lambda item: -item[0])[:NEAR_MISSES]
        groups = [group for size in range(2, LARGEST_GROUP + 1) for group in combinations(near, size)]
        for group in sorted(groups, key=lambda group: -sum(gain for gain, _ in group)):
            changes = [_new_values(record) for _, record in group]
            merged = {name: value for change in changes for name, value in change.items()}
            if len(merged) == sum(map(len, changes)):
                names = " and ".join(f"`{record.experiment.title}` ({gain:+.1f} sigma)" for gain, record in group)
                yield Idea(
                    hypothesis=f"{names} came close to being kept one by one; together they may be worth it.",
                    changes=merged,
                    parents=tuple(record.experiment.id for _, record in group),
                )

    def ablation(self) -> Proposal | None:
        """The first ablation that fits the head and was never tried on this branch."""
        titles = {record.experiment.title for record in self.records}
        for ablation in ABLATIONS:
            train_py = ablated(self.context.train_py, ablation) if ablation.title not in titles else None
            if train_py is not None and problem_with(train_py) is None and not self.tried.holds(train_py):
                return Proposal(
                    title=ablation.title,
                    hypothesis=ablation.hypothesis,
                    train_py=train_py,
                    researcher=SearchResearcher.name,
                    changes=changed_constants(self.context.train_py, train_py),
                )
        return None

    def random_changes(self) -> Iterator[Idea]:
        """Steps of one to three knobs at once, of any size up to two probes."""
        for _ in range(RANDOM_TRIES if self.knobs else 0):
            chosen = self.random.sample(self.knobs, min(len(self.knobs), self.random.choice((1, 2, 2, 3))))
            changes: dict[str, Constant] = {}
            for knob in chosen:
                head = knob.read(self.constants[knob.name])
                if head is not None and knob.name not in changes:
                    size = self.random.uniform(knob.finest, 2 * max(knob.finest, knob.probe))
                    changes |= self._turned(knob, head + size * self.random.choice((-1, 1)))
            if changes:
                yield Idea(
                    hypothesis="The lines of single knobs are searched: a random step may find what they miss.", changes=changes
                )

    def _turned(self, knob: Knob, position: float) -> dict[str, Constant]:
        """The change that turns a knob; empty where that leaves its range."""
        old = self.constants[knob.name]
        new = knob.write(old, position)
        return {} if new is None or new == old else {knob.name: new}

    def _near_misses(self) -> Iterator[tuple[float, ExperimentRecord]]:
        """Near-misses that changed constants alone, with their gains, where the head still has the old values.

        A gain is the mean of the experiment's own and of its share in the crossovers that it was part of.
        """
        shares = defaultdict(list)
        for record in self.records:
            gain = outcome(record, self.context.sigma)
            parents = record.experiment.parents
            for member in parents or (record.experiment.id,):
                if gain is not None:
                    shares[member].append(gain / max(1, len(parents)))
        for record in self.records:
            changes = record.experiment.changes
            if not is_near_miss(record) or record.experiment.parents:
                continue
            same = all(self.constants.get(name) == old and new is not None for name, (old, new) in changes.items())
            gain = fmean(shares[record.experiment.id])
            if changes and same and gain > 0 and only_constants(record):
                yield gain, record


def _is_known(knob: Knob, changes: Mapping[str, Constant], head: float, seen: Mapping[float, float]) -> bool:
    """Whether a step is too small to matter, or ends where the knob was lately."""
    new = knob.read(changes[knob.name])
    if new is None or abs(new - head) < 0.5 * knob.finest:
        return True
    return any(abs(new - head - distance) < 0.5 * knob.finest for distance in seen)


def _new_values(record: ExperimentRecord) -> dict[str, Constant]:
    return {name: new for name, (_, new) in record.experiment.changes.items() if new is not None}


def _title(constants: Mapping[str, Constant], changes: Mapping[str, Constant]) -> str:
    return ", ".join(f"{name} {literal_text(constants[name])} -> {literal_text(new)}" for name, new in changes.items())


def _reason(knob: Knob, step: Step, curve: Curve) -> str:
    so_far = f" Kept so far: {curve.keeps} of {counted(curve.trials, 'experiment')} with it." if curve.trials else ""
    return f"{knob.label}: {step.why}.{so_far}"
