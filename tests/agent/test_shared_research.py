"""Several loops on one head, with real git and a real store; the scores come from a surface over the constants."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.loop import LoopSettings, ResearchLoop
from agent.repo.branch_names import worktree_folder
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from agent.search.search import SearchResearcher
from agent.shared_research import SharedResearch
from research.files import research_folder
from research.hyperparameters import fit_to_profile
from research.profiles import PROFILES
from research.result import RunResult, RunSpec
from results.experiment import Branch, Experiment
from results.store import Store
from results.verdict import NoisePrior
from tests.agent.surface import Surface

GROUP = "autoresearch/mar8"
PROFILE = "cpu"
SIGMA = 0.004


class Listener:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        pass

    def on_verdict(self, record: Any) -> None:
        pass

    def on_event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


class Lab:
    """Loops of one group on a surface."""

    def __init__(self, folder: Path, loops: int) -> None:
        self.repo, self.home = folder / "repo", folder / "home"
        self.text, _ = fit_to_profile((research_folder() / "train.py").read_text(), PROFILE, None)
        make_repository(self.repo, {"research/train.py": self.text})
        self.surface = Surface(self.text, seed=3, spread=2.0)
        self.names = [f"{GROUP}-cpu{number}" for number in range(loops)]
        self.listener = Listener()
        self.store = Store.open(self.home)
        self.runs = 0
        self.stop_at: int | None = None
        self.loops: list[ResearchLoop] = []

    def open(self) -> list[ResearchLoop]:
        """Opens the store and the loops, as a farm does at its start."""
        contract = PROFILES[PROFILE].contract
        loops, shared = [], None
        for number, name in enumerate(self.names):
            folder = worktree_folder(self.home, name)
            worktree = Worktree.open(self.repo, folder, name) if folder.exists() else Worktree.create(self.repo, folder, name)
            known = self.store.branch(name)
            branch = known or Branch(name=name, tag="mar8", loop=number, profile=PROFILE, contract_json=contract.to_json(),
                                     score_fingerprint="s", data_fingerprint="d", platform="a CPU", group=GROUP,
                                     baseline_commit=worktree.head(), created="2026-03-08T20:00:00Z")  # fmt: skip
            self.store.add_branch(branch)
            shared = shared or SharedResearch(store=self.store, repo=self.repo, group=GROUP,
                                              baseline_commit=branch.baseline_commit, observer=self.listener)  # fmt: skip
            settings = LoopSettings(contract=contract, sandbox="auto", save_model=False, noise=NoisePrior(sigma=SIGMA),
                                    rule="estimate", baseline_runs=2, program=self.home / "none")  # fmt: skip
            loops.append(ResearchLoop(branch=branch, worktree=worktree, researcher=SearchResearcher(number), store=self.store,
                                      shared=shared, execute=self._execute, observer=self.listener, settings=settings,
                                      start_speculatively=None))  # fmt: skip
        self.loops = loops
        return loops

    async def _execute(self, experiment: Experiment, train_py: str, spec: RunSpec, report: Any) -> RunResult:
        self.runs += 1
        if self.runs == self.stop_at:
            raise KeyboardInterrupt
        await asyncio.sleep(0)
        seed_effect = (spec.seed % 1000 / 1000 - 0.5) * 0.02
        score = self.surface.true_bpb(train_py) + seed_effect + self.surface.chance.gauss(0, SIGMA / 4)
        return RunResult(run_id=spec.run_id, status="ok", reason="", seed=spec.seed, device="cpu", val_bpb=score, num_params=1)


@pytest.fixture
def make_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    labs: list[Lab] = []

    def make(loops: int = 2) -> Lab:
        labs.append(Lab(tmp_path, loops))
        return labs[-1]

    yield make
    for lab in labs:
        lab.store.close()


async def research(lab: Lab, steps: int) -> None:
    async def one(loop: ResearchLoop) -> None:
        await loop.start()
        for _ in range(steps):
            await loop.step()
        await loop.close()

    await asyncio.gather(*(one(loop) for loop in lab.open()))


def rows(lab: Lab, sql: str) -> list[tuple[Any, ...]]:
    return list(lab.store.query(sql, audience="person").rows)


def test_loops_go_on_from_one_head_that_is_put_together_from_the_ideas_of_all(make_lab) -> None:
    lab = make_lab()
    asyncio.run(research(lab, 30))
    heads = rows(lab, "SELECT experiment_id, patches, expected, commit FROM heads")
    makers = {name.rpartition("-")[0] for _, patches, *_ in heads for name in patches}
    assert len(makers) == 2, "ideas of both loops are in it"
    kinds = dict(rows(lab, "SELECT kind, count(*) FROM experiments GROUP BY kind"))
    assert kinds["merge"] >= 1 and kinds["control"] >= 1, kinds
    truth = [lab.surface.true_bpb(lab.loops[0].worktree.train_py(commit)) for *_, commit in heads]
    assert truth[-1] < lab.surface.true_bpb(lab.text) - 0.01
    print(kinds, heads[-1][2], truth[-1], lab.surface.true_bpb(lab.text), len(heads))
    print(rows(lab, "SELECT id, effect, low, high, helps, in_head, is_near_miss FROM estimates"))
    print([e for e in lab.listener.events])
