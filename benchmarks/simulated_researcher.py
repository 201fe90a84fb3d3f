"""A real researcher on a response surface, under the farm's real policy of keeping, on one device.

`results/policy.py` decides what is kept and which runs are merges and controls; what differs from a farm is that no edit has a
price, that no two runs share a seed, and that the farm has no follow-ups of its own.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from agent.compare_programs import changed_constants, slots_of
from agent.diff import unified_diff
from agent.researcher import Context, OutOfIdeas, Researcher
from benchmarks.response_surface import MEMORY_LIMIT_GB, SIGMA, TRAIN_PY, ResponseSurface, memory_gb
from research.hyperparameters import read_constants, write_constants
from research.profiles import PROFILES
from research.recipes import Constant
from research.result import RunResult, RunStatus
from results import policy
from results.effect_estimate import effect
from results.experiment import Branch, Experiment, ExperimentKind, ExperimentRecord, Head, Proposal, Verdict
from results.observations import NoiseModel
from results.policy_state import Finished, Patch, Work

BRANCH = Branch(
    name="autoresearch/contest",
    tag="contest",
    loop=0,
    profile="standard",
    contract_json=PROFILES["standard"].contract.to_json(),
    score_fingerprint="",
    data_fingerprint="",
    platform=f"simulated, {MEMORY_LIMIT_GB:g} GB",
    baseline_commit="c",
    created="",
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One simulated run."""

    score: float | None
    """val_bpb; None out of memory."""
    memory_gb: float


class SimulatedResearcher:
    """One loop of a researcher, whose runs are scored by a surface."""

    def __init__(self, surface: ResponseSurface, researcher: Researcher, rng: np.random.Generator) -> None:
        self.surface, self.researcher, self.rng = surface, researcher, rng
        self.state = policy.begin(NoiseModel(sigma=SIGMA, refit_every=policy.LOOP_REFIT), devices=1)
        self.records: list[ExperimentRecord] = []
        self.scores: dict[frozenset[str], list[float]] = {}
        self.runs = 0

    def run(self, budget: int) -> Mapping[str, Constant]:
        """The constants of the head after this many runs, or fewer if the researcher is out of ideas."""
        while self.runs < budget:
            last = policy.last_merge(self.state) if self.runs == budget - 1 else None
            work = last or policy.next_work(self.state, ())
            try:
                self._measure(work) if work is not None else self.try_idea(self.researcher_proposal())
            except OutOfIdeas:
                break
        return read_constants(self.text(self.state.head))

    def text(self, patches: frozenset[str]) -> str:
        """The train.py with these ideas."""
        values: dict[str, Constant] = {}
        for record in self.records:
            if record.experiment.id in patches:
                values |= {name: new for name, (_, new) in record.experiment.changes.items() if new is not None}
        return write_constants(TRAIN_PY, values) if values else TRAIN_PY

    def researcher_proposal(self) -> Proposal:
        """The researcher's next idea. Raises OutOfIdeas or ProposalFailed."""
        return asyncio.run(self.researcher.propose(self._context()))

    def try_idea(self, proposal: Proposal) -> None:
        """Runs an idea on the head, and decides."""
        head, before = self.state.head, self.text(self.state.head)
        slots = frozenset(slots_of(before, proposal.train_py))
        needs = frozenset(name for name in head if self.state.patches[name].slots & slots)
        idea = Patch(name=f"e{len(self.records)}", slots=slots, needs=needs)
        work = policy.explored(self.state, idea)
        measured = self._score(proposal.train_py, work)
        finished = Finished(kind="explore", score=measured.score, patches=work.patches, idea=idea)
        self.state = policy.observe(self.state, finished)
        self._record("explore", proposal, before, _commit(head), work.patches, measured)

    def _measure(self, work: Work) -> None:
        """Runs what the policy asks for: a baseline, a control or a merge."""
        text, head = self.text(work.patches), self.state.head
        before = self.text(head)
        measured = self._score(text, work)
        finished = Finished(kind=work.kind, score=measured.score, patches=work.patches, left_out=work.left_out)
        self.state = policy.observe(self.state, finished)
        if work.kind == "merge":
            proposal = Proposal(title="merge", hypothesis="", train_py=text, researcher="farm")
            self._record("merge", proposal, before, _commit(head), work.patches, measured)

    def _score(self, text: str, work: Work) -> Measured:
        self.runs += 1
        constants = read_constants(text)
        value, noise = self.surface.value(constants), float(self.rng.normal(0, SIGMA))
        if value is None:
            return Measured(score=None, memory_gb=memory_gb(constants))
        self.scores.setdefault(work.patches, []).append(value + noise)
        return Measured(score=value + noise, memory_gb=memory_gb(constants))

    def _record(self, kind: ExperimentKind, proposal: Proposal, before: str, parent: str, patches: frozenset[str],
                measured: Measured) -> None:  # fmt: skip
        number = len(self.records)
        name = f"e{number}"
        experiment = Experiment(
            id=name,
            branch=BRANCH.name,
            number=number,
            kind=kind,
            commit=_commit(patches) if measured.score is not None else f"crash-{name}",
            parent_commit=parent,
            title=proposal.title,
            hypothesis=proposal.hypothesis,
            researcher=proposal.researcher,
            parents=proposal.parents,
            changes=changed_constants(before, proposal.train_py),
            diff=unified_diff(before, proposal.train_py),
            created=f"{number:06}",
        )
        status: RunStatus = "oom" if measured.score is None else "ok"
        run = RunResult(run_id=f"r{number}", status=status, reason="", seed=number, device="cuda:0",
                        val_bpb=measured.score, peak_memory_mb=1024 * measured.memory_gb)  # fmt: skip
        self.records.append(
            ExperimentRecord(experiment=experiment, runs=(run,), verdict=self._verdict(kind, name, patches, measured))
        )

    def _verdict(self, kind: ExperimentKind, name: str, patches: frozenset[str], measured: Measured) -> Verdict:
        if measured.score is None:
            return Verdict(decision="crash", reason="out of memory")
        others = patches - {name}
        gain = policy.expected_score(self.state, others)[0] - measured.score
        kept = patches == self.state.head if kind == "merge" else name in policy.kept(self.state)
        mean = effect(self.state.posterior, name).mean if kind == "explore" else None
        return Verdict(
            decision="keep" if kept else "discard", reason="", gain=gain, sigma=self.state.posterior.sigma, effect=mean
        )

    def _context(self) -> Context:
        head = self.state.head
        self.records = [self._ruled_again(record) for record in self.records]
        by_id = {record.experiment.id: record for record in self.records}
        return Context(
            branch=BRANCH,
            head=Head(
                commit=_commit(head),
                experiment_id="e",
                scores=tuple(self.scores.get(head, ())),
                patches=tuple(head),
                expected=policy.expected_score(self.state, head)[0],
                peak_memory_mb=1024 * memory_gb(read_constants(self.text(head))),
            ),
            train_py=self.text(head),
            records=tuple(self.records),
            near_misses=tuple(by_id[name] for name in policy.near_misses(self.state)),
            sigma=self.state.posterior.sigma,
            program="",
            query=lambda sql: "",
            charge=lambda usage: None,
            spent_usd=lambda: 0.0,
        )

    def _ruled_again(self, record: ExperimentRecord) -> ExperimentRecord:
        """The record with the later ruling, if later runs have decided the idea otherwise."""
        before, name = record.verdict, record.experiment.id
        if before is None or before.decision == "crash" or record.experiment.kind == "merge":
            return record
        kept = name in policy.kept(self.state)
        if kept == (before.decision == "keep"):
            return record
        found = effect(self.state.posterior, name).mean
        return replace(record, verdict=replace(before, decision="keep" if kept else "discard", gain=None, effect=found))


def _commit(patches: frozenset[str]) -> str:
    return "+".join(["c", *sorted(patches)])
