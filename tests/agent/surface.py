"""A cheap substitute for training: val_bpb as a sum of quadratic bowls over the constants on their scales, with noise."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.diff import unified_diff
from agent.search.knobs import knobs_of
from agent.search.search import SearchResearcher
from research.hyperparameters import read_constants
from research.recipes import Constant
from research.result import RunResult
from results.experiment import Experiment, ExperimentRecord, Head, Proposal, Verdict
from tests.agent.samples import make_context

SIGMA = 0.01

CURVATURE = {"MATRIX_LR": 0.016, "EMBEDDING_LR": 0.010, "UNEMBEDDING_LR": 0.008, "SCALAR_LR": 0.006}
"""Bits per byte per squared octave from the best value; other constants cost 0.003 per squared probe."""


@dataclass
class Surface:
    """Scores a train.py. The best value of each knob lies up to `spread` probes away from the shipped one."""

    shipped: str
    seed: int
    spread: float = 0.6
    noise: float = SIGMA
    best: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        self.best = {}
        constants = read_constants(self.shipped)
        for knob in knobs_of(constants):
            position = knob.read(constants[knob.name])
            assert position is not None
            self.best[knob.label] = position + chance.uniform(-self.spread, self.spread) * knob.probe
        self.chance = chance

    def true_bpb(self, train_py: str) -> float:
        return 1.8 + self.loss(read_constants(train_py))

    def loss(self, constants: Mapping[str, Constant]) -> float:
        total = 0.0
        for knob in knobs_of(constants):
            position = knob.read(constants[knob.name])
            if position is not None and knob.label in self.best:
                unit = 1.0 if knob.name in CURVATURE else knob.probe
                total += CURVATURE.get(knob.name, 0.003) * min(6.0, abs(position - self.best[knob.label]) / unit) ** 2
        return total

    def measured_bpb(self, train_py: str) -> float:
        return self.true_bpb(train_py) + self.chance.gauss(0, self.noise)


def is_near_miss(record: ExperimentRecord) -> bool:
    """Whether an experiment was discarded by the lab's rule although it gained."""
    verdict = record.verdict
    return verdict is not None and verdict.decision == "discard" and verdict.gain is not None and verdict.gain > 0


@dataclass
class Lab:
    """A branch on a surface, under a plain rule: keep what beats the head by sigma."""

    surface: Surface
    train_py: str
    researcher: SearchResearcher
    records: list[ExperimentRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        score = self.surface.measured_bpb(self.train_py)
        scores = (score, self.surface.measured_bpb(self.train_py))
        self.head = Head(commit="c0", experiment_id="e0", scores=scores, expected=sum(scores) / 2)

    def propose(self) -> Proposal:
        near = tuple(record for record in self.records if is_near_miss(record))
        context = make_context(tuple(self.records), self.train_py, head=self.head, sigma=SIGMA, near_misses=near)
        return asyncio.run(self.researcher.propose(context))

    def training(self, proposal: Proposal) -> ExperimentRecord:
        """The record of an experiment that is still training."""
        number = len(self.records) + 1
        experiment = Experiment(
            id=f"e{number}",
            branch="autoresearch/test",
            number=number,
            kind="explore",
            commit=f"c{number}",
            parent_commit=self.head.commit,
            title=proposal.title,
            hypothesis=proposal.hypothesis,
            researcher=proposal.researcher,
            parents=proposal.parents,
            changes=proposal.changes,
            diff=unified_diff(self.train_py, proposal.train_py),
            created="2026-01-01T00:00:00Z",
        )
        return ExperimentRecord(experiment=experiment)

    def judge(self, record: ExperimentRecord, proposal: Proposal) -> ExperimentRecord:
        """Scores the proposal and decides. A keep moves the head."""
        score = self.surface.measured_bpb(proposal.train_py)
        gain = self.head.mean - score
        commit = record.experiment.commit
        run = RunResult(run_id=f"r{commit}", status="ok", reason="", seed=1, device="cpu", val_bpb=score)
        kept = gain > SIGMA
        if kept:
            self.train_py = proposal.train_py
            self.head = Head(commit=commit, experiment_id=record.experiment.id, scores=(score,), expected=score)
        verdict = Verdict(decision="keep" if kept else "discard", reason="", gain=gain, needed=SIGMA, sigma=SIGMA)
        return replace(record, runs=(run,), verdict=verdict)

    def step(self) -> ExperimentRecord:
        proposal = self.propose()
        self.records.append(self.judge(self.training(proposal), proposal))
        return self.records[-1]
