"""Loops of one group in a small world, with real git and a real store: scores are made up, from effects that the test knows."""

import asyncio
import hashlib
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

from agent.loop import LoopSettings, ResearchLoop
from agent.repo.branch_names import worktree_folder
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from agent.researcher import OutOfIdeas
from agent.researchers.scripted import ScriptedResearcher, Step
from agent.shared_research import SharedResearch
from research.hyperparameters import read_constants
from research.profiles import PROFILES
from research.result import RunResult, RunSpec
from results.experiment import Branch, Experiment
from results.head_gain import ExpectedGain
from results.journal import JournalRecord
from results.store import Store
from results.verdict import NoisePrior
from tests.results.new_home import with_tables

GROUP = "autoresearch/mar8"
SIGMA = 0.004

SALT = 2

_GAINS = (0.03, 0.02, -0.02, 0.0, 0.002, 0.0015, 0.003, 0.003, 0.0015, 0.012, 0.003, 0.002, 0.003, 0.0, 0.002, 0.003)
EFFECTS = dict(zip("ABCDEFGHIJKLMNOP", _GAINS, strict=True))
"""The true gain in bpb of each constant's change from 0 to 1."""

TEXT = "".join(f"{name} = 0\n\n\ndef use_{name.lower()}():\n    return {name}\n\n\n" for name in EFFECTS)


class Listener:
    """Keeps the events and the gains that loops report."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.gains: list[ExpectedGain] = []

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        pass

    def on_verdict(self, record: Any) -> None:
        pass

    def on_head_gain(self, group: str, gain: ExpectedGain) -> None:
        self.gains.append(gain)

    def on_event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


def score_of(train_py: str, seed: int) -> float:
    """The val_bpb of a program under a seed: the same every time."""
    constants = read_constants(train_py)
    gain = sum(effect for name, effect in EFFECTS.items() if constants[name] == 1)
    of_seed, of_run = (_chance(f"{seed}"), _chance(f"{SALT} {seed} {sorted(constants.items())}"))
    return 2.0 - gain + SIGMA * (0.9 * of_seed + 0.4 * of_run)


def _chance(text: str) -> float:
    """A number from the standard normal distribution that depends on the text alone."""
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    return NormalDist().inv_cdf((digest + 0.5) / 2**48)


async def nothing(*arguments: object) -> bool:
    """Stands for writing results.tsv and for reading ahead: in threads, which the order of records would depend on."""
    return False


class SharedLab:
    """Two loops of one group, each with half of the ideas as its script."""

    def __init__(self, folder: Path, *, loops: int = 2) -> None:
        self.repo, self.home = folder / "repo", folder / "home"
        if not self.repo.exists():
            make_repository(self.repo, {"research/train.py": TEXT})
        self.names = [f"{GROUP}-cpu{number}" for number in range(loops)]
        self.listener = Listener()
        self.store = Store.open(with_tables(self.home))
        self.loops: list[ResearchLoop] = []

    def open(self) -> list[ResearchLoop]:
        """The loops, as a farm opens them at its start."""
        self.loops = []
        for number in range(len(self.names)):
            self.loops.append(self._loop(number))
        return self.loops

    def _loop(self, number: int) -> ResearchLoop:
        contract, name = PROFILES["cpu"].contract, self.names[number]
        folder = worktree_folder(self.home, name)
        worktree = (Worktree.open if folder.exists() else Worktree.create)(self.repo, folder, name)
        branch = self.store.branch(name) or Branch(
            name=name, tag="mar8", loop=number, profile="cpu", contract_json=contract.to_json(), score_fingerprint="s",
            data_fingerprint="d", platform="a CPU", group=GROUP, baseline_commit=worktree.head(),
            created="2026-03-08T20:00:00Z",
        )  # fmt: skip
        self.store.add_branch(branch)
        shared = self.loops[0].shared if self.loops else SharedResearch(
            store=self.store, repo=self.repo, group=GROUP, baseline_commit=branch.baseline_commit, observer=self.listener
        )  # fmt: skip
        settings = LoopSettings(contract=contract, sandbox="auto", save_model=False, noise=NoisePrior(sigma=SIGMA),
                                rule="estimate", baseline_runs=2, runs_folder=self.home / "runs",
                                program=self.home / "none")  # fmt: skip
        steps = [Step(title=idea, constants={idea: 1}) for idea in list(EFFECTS)[number :: len(self.names)]]
        loop = ResearchLoop(branch=branch, worktree=worktree, researcher=ScriptedResearcher(steps), store=self.store,
                            shared=shared, execute=execute, observer=self.listener, settings=settings,
                            start_speculatively=None)  # fmt: skip
        loop._write_tables_if_due = nothing  # type: ignore[method-assign]
        shared.reader.read = nothing  # type: ignore[method-assign]
        return loop

    async def research(self) -> None:
        """Runs all loops until they are out of ideas, and of near-misses to combine."""

        async def one(loop: ResearchLoop) -> None:
            await loop.start()
            try:
                while True:
                    await loop.step()
            except OutOfIdeas:
                await loop.finish()
                await loop.close()

        await asyncio.gather(*(one(loop) for loop in self.open()))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The answer to a query."""
        return list(self.store.query(sql, audience="person").rows)


def research_until_killed(folder: Path, boundary: str) -> None:
    """Researches in this process, which is killed right before or after the first record of a kind, as in `before head`."""
    when, _, kind = boundary.partition(" ")
    lab = SharedLab(folder)
    append = lab.store.journal.append

    def append_and_die(record: JournalRecord) -> None:
        is_it = bool(kind) and kind in kinds_of(lab.store, record)
        if is_it and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        append(record)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)

    lab.store.journal.append = append_and_die  # type: ignore[method-assign]
    asyncio.run(lab.research())


def kinds_of(store: Store, record: JournalRecord) -> set[str]:
    """What a record is: `merge verdict`, `wave run`, `flip`, `head`, ..."""
    body = record.body
    if record.kind == "event":
        return {str(body["kind"])}
    if record.kind == "experiment":
        return {f"{body['kind']} experiment"}
    if record.kind not in ("run", "verdict"):
        return set()
    kind = store.record(body["experiment_id"]).experiment.kind
    return {f"{kind} {record.kind}", *(["flip"] if "." in record.id else [])}


async def execute(experiment: Experiment, train_py: str, spec: RunSpec, report: Callable[..., None]) -> RunResult:
    """A run of the small world."""
    await asyncio.sleep(0)
    return RunResult(run_id=spec.run_id, status="ok", reason="", seed=spec.seed, device="cpu",
                     val_bpb=score_of(train_py, spec.seed), num_params=1)  # fmt: skip


def research_in_a_fork(folder: Path, boundary: str) -> int:
    """Researches in a fork of this process, which has imported everything; the signal that killed it, 0 for none."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            research_until_killed(folder, boundary)
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), boundary
    return -status


if __name__ == "__main__":
    importlib.import_module("pydoe")  # each fork with a wave would, which takes seconds
    print(*(boundary for boundary in (*sys.argv[2:], "") if research_in_a_fork(Path(sys.argv[1]), boundary)), sep="\n")
