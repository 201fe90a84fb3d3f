"""One loop with real git and a real store; its runs' results are told by the test."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.loop import BaselineFailed, InfrastructureFailed, LoopSettings, ResearchLoop
from agent.repo.branch_names import worktree_folder
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from agent.researchers.scripted import ScriptedResearcher, Step
from agent.runs import MAX_TRIES
from agent.shared_research import SharedResearch
from research.profiles import PROFILES
from research.result import RunResult, RunSpec
from results.experiment import Branch, Experiment, ExperimentRecord, Proposal
from results.head_gain import ExpectedGain
from results.store import Store
from results.verdict import NoisePrior
from tests.agent.samples import TRAIN_PY
from tests.results.new_home import with_tables

BRANCH = "autoresearch/mar8"
OLD, NEW = {"torch": "2.11"}, {"torch": "2.12"}

Tell = Callable[[Experiment, RunSpec], RunResult]


class Nobody:
    def on_loop_state(self, branch: str, **fields: Any) -> None:
        pass

    def on_verdict(self, record: Any) -> None:
        pass

    def on_head_gain(self, group: str, gain: Any) -> None:
        pass

    def on_event(self, kind: str, **fields: Any) -> None:
        pass


@pytest.fixture
def make_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A loop whose runs end as `tell(experiment, spec)` says."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    repo, home = tmp_path / "repo", tmp_path / "home"
    make_repository(repo, {"research/train.py": TRAIN_PY})
    worktree = Worktree.create(repo, worktree_folder(home, BRANCH), BRANCH)
    contract = PROFILES["cpu"].contract
    store = Store.open(with_tables(home))
    branch = Branch(
        name=BRANCH,
        tag="mar8",
        loop=0,
        profile="cpu",
        contract_json=contract.to_json(),
        score_fingerprint="s",
        data_fingerprint="d",
        platform="a CPU",
        baseline_commit=worktree.head(),
        created="2026-03-08T20:00:00Z",
    )
    store.add_branch(branch)
    steps = [Step(title=f"depth {depth}", constants={"DEPTH": depth}) for depth in range(3, 12)]

    def make(tell: Tell, asked: list[tuple[str, RunSpec]] | None = None,
             guessed: list[tuple[str, str, RunSpec]] | None = None) -> ResearchLoop:  # fmt: skip
        async def execute(experiment: Experiment, train_py: str, spec: RunSpec, report: Any) -> RunResult:
            if asked is not None:
                asked.append((train_py, spec))
            await asyncio.sleep(0.01)
            report({"event": "progress", "phase": "scoring"})
            report({"event": "progress", "phase": "scoring"})
            return tell(experiment, spec)

        settings = LoopSettings(
            contract=contract,
            sandbox="auto",
            save_model=False,
            noise=NoisePrior(sigma=0.01),
            rule="estimate",
            baseline_runs=2,
            runs_folder=tmp_path / "runs",
            program=tmp_path / "none",
        )
        shared = SharedResearch(store=store, repo=repo, group=BRANCH, baseline_commit=branch.baseline_commit,
                                observer=Nobody())  # fmt: skip
        return ResearchLoop(branch=branch, worktree=worktree, researcher=ScriptedResearcher(steps), store=store, shared=shared,
                            execute=execute, observer=Nobody(), settings=settings,
                            start_speculatively=lambda *guess: None if guessed is None else guessed.append(guess))  # fmt: skip

    yield make
    store.close()


def result(spec: RunSpec, val_bpb: float | None, **changes: Any) -> RunResult:
    run = RunResult(run_id=spec.run_id, status="ok" if val_bpb else "lost", reason="told", seed=spec.seed, device="cpu",
                    val_bpb=val_bpb, software=OLD)  # fmt: skip
    return replace(run, **changes)


def test_new_software_is_answered_with_the_baseline_once_more(make_loop) -> None:
    software = OLD

    def tell(experiment: Experiment, spec: RunSpec) -> RunResult:
        return result(spec, 1.5, software=software)

    async def steps() -> list[tuple[str, str]]:
        nonlocal software
        loop = make_loop(tell)
        await loop.start()
        records = [await loop.step()]
        software = NEW
        records += [await loop.step() for _ in range(4)]
        await loop.close()
        return [(record.experiment.kind, record.experiment.title) for record in records]

    told = asyncio.run(steps())
    control = ("control", "baseline again: torch 2.11 -> 2.12")
    assert told == [("explore", "depth 3"), ("explore", "depth 4"), control, ("explore", "depth 5"), ("explore", "depth 6")]


def test_the_next_run_is_guessed_while_one_is_scored(make_loop) -> None:
    """Right after a discard, to the last field of its spec; wrong after a keep, which changes the text it is an edit of."""
    asked: list[tuple[str, RunSpec]] = []
    guessed: list[tuple[str, str, RunSpec]] = []

    def tell(experiment: Experiment, spec: RunSpec) -> RunResult:
        return result(spec, 1.2 if experiment.number == 2 else 1.5)

    async def steps() -> list[str]:
        loop = make_loop(tell, asked, guessed)
        await loop.start()
        records = [await loop.step() for _ in range(4)]
        await loop.close()
        return [record.verdict.decision for record in records if record.verdict]

    assert asyncio.run(steps()) == ["discard", "keep", "discard", "discard"]
    assert [after for after, _, _ in guessed] == ["mar8-0001-1", "mar8-0002-1", "mar8-0003-1", "mar8-0004-1"]
    came = [(text, spec) == wanted for (_, text, spec), wanted in zip(guessed, asked[3:], strict=False)]
    assert came == [True, False, True]


def test_a_loop_goes_on_after_a_kill_between_commit_and_record(make_loop) -> None:
    async def go_on() -> ExperimentRecord:
        loop = make_loop(lambda _, spec: result(spec, 1.5))
        await loop.start()
        left = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 9")
        loop.worktree.commit(left, message="left", parent=loop.head().commit, experiment_id="mar8-0001")
        record = await loop.step()
        assert loop.worktree.train_py(record.experiment.commit) == TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
        await loop.close()
        return record

    record = asyncio.run(go_on())
    assert (record.experiment.id, record.experiment.title) == ("mar8-0001", "depth 3")


def test_a_lost_run_is_put_in_line_again_and_in_the_end_given_up(make_loop) -> None:
    asked: list[str] = []

    def tell(experiment: Experiment, spec: RunSpec) -> RunResult:
        asked.append(spec.run_id)
        never = experiment.number == 2
        once = experiment.number == 1 and not spec.run_id.endswith("-2")
        return result(spec, None if never or once else 1.5)

    async def steps() -> list[tuple[int, str, int]]:
        loop = make_loop(tell)
        await loop.start()
        records = [await loop.step() for _ in range(3)]
        await loop.close()
        return [(r.experiment.number, r.verdict.decision, len(r.runs)) for r in records if r.verdict]

    assert asyncio.run(steps()) == [(1, "discard", 2), (2, "lost", MAX_TRIES), (3, "discard", 1)]
    assert len(asked) == len(set(asked))


def test_a_baseline_that_is_always_lost_ends_the_loop(make_loop) -> None:
    loop = make_loop(lambda experiment, spec: result(spec, None))
    with pytest.raises(InfrastructureFailed, match="told"):
        asyncio.run(loop.start())


def test_a_baseline_that_failed_can_be_mended_and_is_not_the_one_that_counts(make_loop) -> None:
    """Neither for the loop's state nor for a control after the software has changed."""
    software = OLD

    def tell(experiment: Experiment, spec: RunSpec) -> RunResult:
        crashed = result(spec, None, status="crash", reason="line 1: no")
        return crashed if experiment.number == 0 else result(spec, 1.5 - experiment.number / 100, software=software)

    loop = make_loop(tell)
    with pytest.raises(BaselineFailed, match=r"research/train.py.*line 1: no.*commit") as error:
        asyncio.run(loop.start())
    assert "\n" not in str(error.value)
    loop.worktree.begin_again(TRAIN_PY.replace("DEPTH = 2", "DEPTH = 1"))
    mended = loop.worktree.head()
    gains: list[ExpectedGain] = []
    loop.shared.observer.on_head_gain = lambda group, gain: gains.append(gain)

    async def steps() -> list[ExperimentRecord]:
        nonlocal software
        await loop.start()
        records = [await loop.step()]
        software = NEW
        records += [await loop.step() for _ in range(2)]
        await loop.close()
        return records

    control = asyncio.run(steps())[-1]
    assert gains[0].baseline == pytest.approx(1.49)
    assert (control.experiment.kind, control.experiment.commit) == ("control", mended)
    assert control.verdict is not None and control.verdict.gain == pytest.approx(1.49 - control.val_bpb)


def test_one_unlucky_pair_of_baselines_does_not_close_the_night(make_loop) -> None:
    """Seeds that lie 20 prior sigmas apart: the noise is taken to be larger, and a clear gain is kept all the same."""
    scores = {0: [1.5, 1.7], 1: [1.45]}

    def tell(experiment: Experiment, spec: RunSpec) -> RunResult:
        return result(spec, scores[experiment.number].pop())

    async def steps() -> ExperimentRecord:
        loop = make_loop(tell)
        await loop.start()
        assert loop.context().sigma == loop._decisions.sigma() > 0.01
        record = await loop.step()
        await loop.close()
        return record

    record = asyncio.run(steps())
    assert record.verdict is not None and record.verdict.decision == "keep", "0.05 below the better baseline"
    assert record.verdict.effect is not None and record.verdict.low is not None and record.verdict.gain is not None
    assert 0 < record.verdict.low < record.verdict.effect < record.verdict.gain < 0.16


def test_an_idea_with_any_characters_can_be_committed(make_loop) -> None:
    """Git takes no NUL in a message, and no encoding takes half a surrogate pair."""

    async def commit() -> str:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5))
        await loop.start()
        proposal = Proposal(title="deeper", hypothesis="a\x00b\ud800\u202e\r\n\x1b[31mc\n", researcher="told",
                            train_py=TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3"))  # fmt: skip
        record = await loop.try_now(proposal)
        await loop.close()
        return record.experiment.hypothesis

    assert asyncio.run(commit()) == "a b\n [31mc"
