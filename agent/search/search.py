"""Search: a researcher that needs no key and no network.

It changes one constant at a time by a line search, and mixes in ablations and crossovers of discarded experiments that came
close. All of its state is in the history. How it chooses:

- Every constant is a knob (`knobs.py`), and the experiments that changed it alone give a curve of how good its values
  were (`line_search.py`). If neither side of the head is known, it probes; after a gain it continues in the same direction,
  with a larger step after a large gain; after a loss it reverses; between two losses it takes the vertex of the parabola.
- Every step has a score, the expected gain in sigmas: from the curve if there is one, else from a prior per knob, lowered
  for knobs that only failed. The step with the highest score that was never tried is proposed: a greedy bandit.
- Every fifth idea combines discarded experiments that came close, every eighth removes something.
- What won't fit into memory, by what earlier runs took of it (`memory.py`), is left out.
- Once all lines are searched, it changes up to three knobs at once, at random.

Loops that start together have different seeds: each begins with a different one of the best steps, and continues in its own
order.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from statistics import fmean

from agent.compare_programs import changed_constants
from agent.duplicate_edits import reason_not_to_run
from agent.researcher import Context, OutOfIdeas, ProposalFailed
from agent.search.ablations import ABLATIONS, ablated
from agent.search.knobs import Knob, knobs_of, settle
from agent.search.line_search import Curve, KnobStep, next_steps, outcome, read_curves
from agent.search.memory import learned
from agent.search.tried import Tried, only_constants
from research.contract import Contract
from research.formatting import counted
from research.hyperparameters import literal_text, write_constants
from research.recipes import Constant
from research.valid_train_py import problem_with
from results.experiment import ExperimentRecord, Proposal

SETTLING_IN = 8
"""Ideas before the first crossover or ablation: at first, single constants gain most."""
CROSSOVER_EVERY = 5
ABLATION_EVERY = 8
NEAR_MISSES = 10
"""Number of the best ones that are combined."""
LARGEST_GROUP = 5
RANDOM_TRIES = 300
JITTER = 0.1
"""Largest share of a step's score that a seed adds or subtracts."""


@dataclass(frozen=True, kw_only=True)
class Idea:
    """An edit of the head, not yet a proposal."""

    hypothesis: str
    changes: Mapping[str, Constant]
    parents: tuple[str, ...] = ()


class SearchResearcher:
    """Proposes by rules from the history alone. The same seed and history give the same proposal."""

    name = "search"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    async def propose(self, context: Context) -> Proposal:
        """The edit with the highest expected gain that was never tried on this branch. Raises OutOfIdeas or ProposalFailed."""
        if problem := problem_with(context.train_py):
            raise ProposalFailed(f"The head can't be edited: {problem}.")
        view = _View(context, self.seed)
        turn = sum(record.experiment.researcher == self.name for record in context.records)
        proposal = None
        if turn == 0:
            proposal = view.starting_step(self.seed)
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
        """Does nothing: search holds no connection."""


class _View:
    """The history at one moment, and the ideas that follow from it."""

    def __init__(self, context: Context, seed: int) -> None:
        self.context = context
        self.records = sorted((*context.records, *context.others), key=lambda record: record.experiment.created)
        self.max_seq_len = Contract.from_json(context.branch.contract_json).MAX_SEQ_LEN
        self.tried = Tried(context.train_py, context.head.commit, self.records)
        self.constants = self.tried.constants
        self.knobs = knobs_of(self.constants)
        self.curves = read_curves(self.knobs, self.records, context.sigma)
        self.memory = learned(context, self.records, self.tried)
        self.keeps = sum(record.verdict is not None and record.verdict.decision == "keep" for record in self.records)
        self.random = random.Random(f"{seed} {context.head.commit} {len(self.records)}")
        self.jitter = random.Random(seed)

    def first_new(self, ideas: Iterator[Idea]) -> Proposal | None:
        """The first idea that was never tried."""
        return next(self.new_ones(ideas), None)

    def new_ones(self, ideas: Iterator[Idea]) -> Iterator[Proposal]:
        """The ideas that were never tried, as proposals."""
        for idea in ideas:
            changes = settle(self.constants, idea.changes, max_seq_len=self.max_seq_len)
            if changes is not None and not self.tried.holds_constants(changes):
                if self.memory.refuses({**self.constants, **changes}):
                    continue
                train_py = write_constants(self.context.train_py, changes)
                if reason_not_to_run(train_py, self.context) is not None:  # such as another loop's idea
                    continue
                yield Proposal(
                    title=_title(self.constants, changes),
                    hypothesis=idea.hypothesis,
                    train_py=train_py,
                    researcher=SearchResearcher.name,
                    parents=idea.parents,
                    changes={name: (self.constants[name], new) for name, new in changes.items()},
                )

    def starting_step(self, rank: int) -> Proposal | None:
        """The step with this rank, from 0, in the order that all seeds share: no two loops start with the same one.

        None if there are fewer steps.
        """
        return next(islice(self.new_ones(self.steps(jitter=0.0)), rank, None), None)

    def steps(self, *, jitter: float = JITTER) -> Iterator[Idea]:
        """Steps of single knobs, those with the highest score first."""
        ranked = []
        for knob in self.knobs:
            factor = self.jitter.uniform(1 - jitter, 1 + jitter)  # loops with different seeds take different orders
            curve, head = self.curves[knob.label], knob.read(self.constants[knob.name])
            if head is None or curve.busy:
                continue
            seen = curve.seen_from(head, keeps=self.keeps)
            steps = next_steps(knob, head, curve, keeps=self.keeps)
            moves = [(step, self._move(knob, step.position)) for step in steps]
            possible = [(step, changes) for step, changes in moves if changes]
            for step, changes in possible:
                if not _is_known(knob, changes, head, seen):
                    score = step.score if len(possible) > 1 else max(step.score, steps[0].score)
                    ranked.append((score * factor, knob, step, changes))
        for _, knob, step, changes in sorted(ranked, key=lambda item: -item[0]):
            yield Idea(hypothesis=_reason(knob, step, self.curves[knob.label]), changes=changes)

    def crossovers(self) -> Iterator[Idea]:
        """Combinations of near-misses that changed different constants, those with the largest sum of gains first."""
        close = sorted(self._near_misses(), key=lambda item: -item[0])[:NEAR_MISSES]
        groups = [group for size in range(2, LARGEST_GROUP + 1) for group in combinations(close, size)]
        for group in sorted(groups, key=lambda group: -sum(gain for gain, _ in group)):
            changes = [_new_values(record) for _, record in group]
            merged = {name: value for change in changes for name, value in change.items()}
            if len(merged) == sum(map(len, changes)):
                names = " and ".join(f"`{record.experiment.title}` ({gain:+.1f} sigma)" for gain, record in group)
                yield Idea(
                    hypothesis=f"{names} came close to being kept one by one; together they may gain enough.",
                    changes=merged,
                    parents=tuple(record.experiment.id for _, record in group),
                )

    def ablation(self) -> Proposal | None:
        """The first ablation that fits the head and was never tried on this branch."""
        titles = {record.experiment.title for record in self.records}
        for ablation in ABLATIONS:
            train_py = ablated(self.context.train_py, ablation) if ablation.title not in titles else None
            if train_py is None or self.tried.holds(train_py):
                continue
            if reason_not_to_run(train_py, self.context) is None:
                return Proposal(
                    title=ablation.title,
                    hypothesis=ablation.hypothesis,
                    train_py=train_py,
                    researcher=SearchResearcher.name,
                    changes=changed_constants(self.context.train_py, train_py),
                )
        return None

    def random_changes(self) -> Iterator[Idea]:
        """Random steps of one to three knobs at once, each of at most two probes."""
        for _ in range(RANDOM_TRIES if self.knobs else 0):
            chosen = self.random.sample(self.knobs, min(len(self.knobs), self.random.choice((1, 2, 2, 3))))
            changes: dict[str, Constant] = {}
            for knob in chosen:
                head = knob.read(self.constants[knob.name])
                if head is not None and knob.name not in changes:
                    size = self.random.uniform(knob.finest, 2 * max(knob.finest, knob.probe))
                    changes |= self._move(knob, head + size * self.random.choice((-1, 1)))
            if changes:
                yield Idea(
                    hypothesis="Every single knob has been searched: a random step may find what that misses.", changes=changes
                )

    def _move(self, knob: Knob, position: float) -> dict[str, Constant]:
        """The change that moves a knob to a position; empty if that changes nothing or leaves its range."""
        old = self.constants[knob.name]
        new = knob.write(old, position)
        return {} if new is None or new == old else {knob.name: new}

    def _near_misses(self) -> Iterator[tuple[float, ExperimentRecord]]:
        """Near-misses that changed constants alone, with their gains, if the head still has the old values.

        A gain is the mean of the experiment's own gain and of its shares of the crossovers that it was part of.
        """
        shares = defaultdict(list)
        near = {record.experiment.id for record in self.context.near_misses}
        for record in self.records:
            gain = outcome(record, self.context.sigma)
            parents = record.experiment.parents
            for member in parents or (record.experiment.id,):
                if gain is not None:
                    shares[member].append(gain / max(1, len(parents)))
        for record in self.records:
            changes = record.experiment.changes
            if record.experiment.id not in near or record.experiment.parents:
                continue
            same = all(self.constants.get(name) == old and new is not None for name, (old, new) in changes.items())
            gain = fmean(shares[record.experiment.id] or [0.0])
            if changes and same and gain > 0 and only_constants(record):
                yield gain, record


def _is_known(knob: Knob, changes: Mapping[str, Constant], head: float, seen: Mapping[float, float]) -> bool:
    """Whether a step is too small to matter, or ends at a value that was measured recently."""
    new = knob.read(changes[knob.name])
    if new is None or abs(new - head) < 0.5 * knob.finest:
        return True
    return any(abs(new - head - distance) < 0.5 * knob.finest for distance in seen)


def _new_values(record: ExperimentRecord) -> dict[str, Constant]:
    return {name: new for name, (_, new) in record.experiment.changes.items() if new is not None}


def _title(constants: Mapping[str, Constant], changes: Mapping[str, Constant]) -> str:
    return ", ".join(f"{name} {literal_text(constants[name])} -> {literal_text(new)}" for name, new in changes.items())


def _reason(knob: Knob, step: KnobStep, curve: Curve) -> str:
    so_far = f" Kept so far: {curve.keeps} of {counted(curve.changes, 'experiment')} with it." if curve.changes else ""
    return f"{knob.label}: {step.why}.{so_far}"
