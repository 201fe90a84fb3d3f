"""Loops that share a head, with real git and a real store; a test tells the scores, by the train.py that ran."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.loop import LoopSettings, ResearchLoop
from agent.repo.branch_names import worktree_folder
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from agent.researcher import Context, OutOfIdeas
from agent.researchers.scripted import Step
from agent.shared_research import SharedResearch
from research.profiles import PROFILES
from research.result import RunResult, RunSpec
from results.experiment import Branch, Experiment, ExperimentRecord, Proposal
from results.store import Store
from results.verdict import NoisePrior, Rule
from tests.results.new_home import with_tables

GROUP = "autoresearch/mar8"
CONTRACT = PROFILES["cpu"].contract

Score = Callable[[str], float | str]
"""The val_bpb of a train.py, or the reason of its crash."""

APART_S = 0.3
"""Seconds that a run waits at most for runs of the other loops: one that has nothing to run holds the others up so long."""


class Nobody:
    def on_loop_state(self, branch: str, **fields: Any) -> None:
        pass

    def on_verdict(self, record: Any) -> None:
        pass

    def on_head_gain(self, group: str, gain: Any) -> None:
        pass

    def on_event(self, kind: str, **fields: Any) -> None:
        pass


class Agent:
    """Proposes steps in order, each an edit of the head; what was refused is behind it, too."""

    name = "agent"

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    async def propose(self, context: Context) -> Proposal:
        done = sum(r.experiment.researcher == self.name for r in context.records) + len(context.refused)
        if done >= len(self.steps):
            raise OutOfIdeas
        await asyncio.sleep(0)
        step = self.steps[done]
        return Proposal(title=step.title, hypothesis="", train_py=step.apply(context.train_py), researcher=self.name)

    async def close(self) -> None:
        pass


class Group:
    """The loops of a group, and what they ran. Their folder may be that of an earlier one, with which they go on."""

    def __init__(self, folder: Path, text: str, score: Score, *, rule: Rule = "estimate") -> None:
        self.repo, self.home, self.score, self.rule = folder / "repo", folder / "home", score, rule
        if not self.repo.exists():
            make_repository(self.repo, {"research/train.py": text})
        self.store = Store.open(with_tables(self.home))
        self.ran: list[str] = []
        self.cpu_share: Callable[[str], float | None] = lambda train_py: None
        self._loops = 0
        """How many go on, side by side."""
        self._begun: list[asyncio.Future[None]] = []
        """The runs that wait for those of the other loops."""

    def open(self, *scripts: Sequence[Step]) -> list[ResearchLoop]:
        """A loop for each script, as a farm opens them at its start."""
        loops: list[ResearchLoop] = []
        for number, steps in enumerate(scripts):
            branch, worktree = self._branch(number)
            shared = loops[0].shared if loops else SharedResearch(
                store=self.store, repo=self.repo, group=GROUP, baseline_commit=branch.baseline_commit, observer=Nobody()
            )  # fmt: skip
            settings = LoopSettings(contract=CONTRACT, sandbox="auto", save_model=False, noise=NoisePrior(sigma=0.02),
                                    rule=self.rule, baseline_runs=2, runs_folder=self.home / "runs", program=self.home / "none",
                                    retry_pauses_s=(0.001, 0.01))  # fmt: skip
            loops.append(ResearchLoop(branch=branch, worktree=worktree, researcher=Agent(steps), store=self.store,
                                      shared=shared, execute=self._execute, observer=Nobody(), settings=settings,
                                      start_speculatively=None))  # fmt: skip
        return loops

    def research(self, steps: int, *scripts: Sequence[Step]) -> list[list[ExperimentRecord]]:
        """The next experiments of each loop, side by side; fewer where its script ends."""

        async def one(loop: ResearchLoop) -> list[ExperimentRecord]:
            done: list[ExperimentRecord] = []
            await loop.start()
            try:
                while len(done) < steps:
                    done.append(await loop.step())
            except OutOfIdeas:
                pass
            self._loops -= 1
            await loop.close()
            return done

        async def all_of_them() -> list[list[ExperimentRecord]]:
            self._loops = len(scripts)
            return await asyncio.gather(*(one(loop) for loop in self.open(*scripts)))

        return asyncio.run(all_of_them())

    def _branch(self, number: int) -> tuple[Branch, Worktree]:
        name = f"{GROUP}-cpu{number}"
        folder = worktree_folder(self.home, name)
        worktree = Worktree.open(self.repo, folder, name) if folder.exists() else Worktree.create(self.repo, folder, name)
        branch = self.store.branch(name) or Branch(
            name=name, tag="mar8", loop=number, profile="cpu", contract_json=CONTRACT.to_json(), score_fingerprint="s",
            data_fingerprint="d", platform="a CPU", baseline_commit=worktree.head(), created="2026-03-08T20:00:00Z",
            group=GROUP, rule=self.rule,
        )  # fmt: skip
        self.store.add_branch(branch)
        return branch, worktree

    async def _side_by_side(self) -> None:
        """Returns when every loop runs something: how long texts are read decides nothing then."""
        begun = asyncio.get_running_loop().create_future()
        self._begun.append(begun)
        if len(self._begun) >= self._loops:
            for waiting in self._begun:
                waiting.set_result(None)
            self._begun.clear()
        await asyncio.wait([begun], timeout=APART_S)
        if not begun.done():
            self._begun.remove(begun)

    async def _execute(self, experiment: Experiment, train_py: str, spec: RunSpec, report: Any) -> RunResult:
        await self._side_by_side()
        self.ran.append(train_py)
        score = self.score(train_py)
        if isinstance(score, str):
            return RunResult(run_id=spec.run_id, status="crash", reason=score, seed=spec.seed, device="cpu")
        return RunResult(run_id=spec.run_id, status="ok", reason="", seed=spec.seed, device="cpu", val_bpb=score, num_params=1,
                         cpu_share=self.cpu_share(train_py))  # fmt: skip
