"""Lost runs between honest ones: what is charged to an idea, and what to a device."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.runs import MAX_TRIES
from cluster.blame import LOST_IN_A_ROW, Blame
from cluster.dispatch import Dispatcher, NoWorkersLeft
from cluster.driver import lost_since_its_last_result
from cluster.engine import Change, LocalEngine
from cluster.hardware import Device, platform_identity
from cluster.judge_process import Progress
from cluster.workqueue import WorkItem, WorkKind
from research.errors import UserError
from research.profiles import contract_for
from research.result import RunResult, RunSpec
from tests.cluster.farm_samples import CPU, FAKE_JUDGE, make_spec

Use = Callable[[Dispatcher, "Played | LocalEngine"], Awaitable[None]]


class Played:
    """An engine whose one device loses the runs of certain texts, or, once it is broken, all runs."""

    def __init__(self, kills_its_judge: Callable[[str], bool]) -> None:
        self.kills_its_judge = kills_its_judge
        self.is_broken = False
        self.ran: list[str] = []
        """The texts that ran, in order."""

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        yield (Change(kind="joined", name=CPU.key, device=CPU),)

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        self.ran.append(train_py)
        await asyncio.sleep(0)
        if self.is_broken or self.kills_its_judge(train_py):
            return RunResult.lost(spec, "the judge died without a result", device=device.key)
        return RunResult(run_id=spec.run_id, status="ok", reason="ran", seed=1, device=device.key, val_bpb=1.5)

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        pass

    async def close(self) -> None:
        pass


class Notes:
    """What the dispatcher's observer was told of devices."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.controls: list[str] = []

    def on_work(self, item: WorkItem, state: str, **details: Any) -> None:
        pass

    def on_worker(self, name: str, state: str, **details: Any) -> None:
        self.states.append(state)

    def on_control(self, worker: str, found: str) -> None:
        self.controls.append(found)


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.dispatch.PAUSE_SECONDS", 0.01)


def dispatched(engine: "Played | LocalEngine", use: Use) -> Notes:
    """What was noted while `use` had a dispatcher on the engine."""
    notes = Notes()

    async def whole() -> None:
        dispatcher = Dispatcher(engine, notes)
        changes = dispatcher.changes()
        try:
            await anext(changes)
            await use(dispatcher, engine)
        finally:
            await dispatcher.close()
            await changes.aclose()
            await engine.close()

    asyncio.run(asyncio.wait_for(whole(), 60))
    return notes


def make_item(run_id: str, kind: WorkKind = "explore", repeats: int = 0) -> WorkItem:
    return WorkItem(id=run_id, kind=kind, branch="b", experiment="e", platform=platform_identity(CPU), repeats=repeats)


async def tried(dispatcher: Dispatcher, folder: Path, name: str, text: str, *, kind: WorkKind = "explore",
                control: str | None = "ok") -> list[RunResult]:  # fmt: skip
    """All runs of one experiment, repeated while they are lost, as a loop does."""
    runs: list[RunResult] = []
    while len(runs) < MAX_TRIES and (not runs or runs[-1].status == "lost"):
        spec = replace(make_spec(folder), run_id=f"{name}-{len(runs) + 1}")
        (folder / spec.run_id).mkdir(exist_ok=True)
        item = make_item(spec.run_id, kind, lost_since_its_last_result(runs))
        runs.append(await dispatcher.execute(item, text, spec, lambda _: None, control=control))
    return runs


def statuses(runs: list[RunResult]) -> list[str]:
    return [run.status for run in runs]


def test_a_hundred_runs_that_kill_their_judge_cost_neither_the_device_nor_an_honest_idea(tmp_path: Path) -> None:
    async def use(dispatcher: Dispatcher, engine: Played | LocalEngine) -> None:
        for number in range(50):
            bad = await tried(dispatcher, tmp_path, f"bad{number}", f"bad {number}")
            assert statuses(bad) == ["lost", "crash"] and "this train.py" in bad[-1].reason
            if number % 5 == 0:
                honest = await tried(dispatcher, tmp_path, f"honest{number}", "honest")
                assert statuses(honest) == ["ok"] and honest[0].val_bpb == 1.5

    engine = Played(lambda text: text.startswith("bad"))
    notes = dispatched(engine, use)
    assert notes.states == ["joined"]
    assert sum(text.startswith("bad") for text in engine.ran) == 100
    assert len(notes.controls) == 50 and all("the device is in order" in found for found in notes.controls)


def test_bad_ideas_of_several_loops_at_once_do_not_quarantine_the_device(tmp_path: Path) -> None:
    async def use(dispatcher: Dispatcher, engine: Played | LocalEngine) -> None:
        async def loop(name: str) -> None:
            for number in range(6):
                one = f"{name}-{number}"
                runs = await dispatcher_runs(one)
                assert statuses(runs)[-1] == ("crash" if number % 3 else "ok")

        async def dispatcher_runs(one: str) -> list[RunResult]:
            bad = int(one[-1]) % 3 != 0
            return await tried(dispatcher, tmp_path, one, f"bad {one}" if bad else "honest", kind="manual")

        await asyncio.gather(*(loop(name) for name in "abcde"))

    assert dispatched(Played(lambda text: text.startswith("bad")), use).states == ["joined"]


def test_a_broken_device_is_quarantined_after_two_runs_and_a_control_and_no_idea_is_charged(tmp_path: Path) -> None:
    async def use(dispatcher: Dispatcher, engine: Played | LocalEngine) -> None:
        assert isinstance(engine, Played)
        assert statuses(await tried(dispatcher, tmp_path, "first", "honest")) == ["ok"]
        engine.is_broken = True
        with pytest.raises(NoWorkersLeft, match="baseline"):
            await tried(dispatcher, tmp_path, "second", "honest")
        assert dispatcher.quarantined and not dispatcher.devices

    engine = Played(lambda text: False)
    notes = dispatched(engine, use)
    assert notes.states == ["joined", "quarantined"] and engine.ran == ["honest", "honest", "honest", "ok"]


def test_a_baseline_that_is_lost_on_a_new_device_quarantines_it_without_a_control(tmp_path: Path) -> None:
    async def use(dispatcher: Dispatcher, engine: Played | LocalEngine) -> None:
        with pytest.raises(NoWorkersLeft, match=f"{LOST_IN_A_ROW} runs in a row"):
            await tried(dispatcher, tmp_path, "baseline", "bad", kind="baseline", control=None)

    engine = Played(lambda text: True)
    assert dispatched(engine, use).controls == [] and len(engine.ran) == LOST_IN_A_ROW


def test_three_lost_runs_of_different_ideas_are_followed_by_a_control() -> None:
    blame = Blame()
    lost = RunResult.lost(make_spec_alone(), "it died", device="d")
    due = [blame.note("d", make_item(f"r{number}"), lost, has_control=True) for number in range(LOST_IN_A_ROW)]
    assert due == [False, False, True] and not blame.quarantined
    works = replace(lost, status="ok")
    assert blame.decide("d", make_item("r2"), lost, works).status == "lost"  # it will be repeated
    assert not blame.note("d", make_item("r3"), lost, has_control=True)


def test_a_lost_baseline_is_evidence_at_once_and_a_merge_is_none() -> None:
    lost = RunResult.lost(make_spec_alone(), "it died", device="d")
    blame = Blame()
    for number in range(LOST_IN_A_ROW):
        assert not blame.note("d", make_item(f"r{number}", "control"), lost, has_control=True)
    assert "d" in blame.quarantined
    of_ideas = Blame()
    for number in range(10):
        of_ideas.note("d", make_item(f"r{number}", "merge"), lost, has_control=True)
    assert not of_ideas.quarantined


def test_only_runs_that_were_lost_after_the_last_result_are_counted() -> None:
    lost = RunResult.lost(make_spec_alone(), "it died", device="d")
    ok = replace(lost, status="ok")
    assert [lost_since_its_last_result(runs) for runs in ([], [ok], [lost], [lost, ok, lost], [lost, lost])] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("fails", ["running", "watching"])
def test_what_a_task_of_the_dispatcher_raises_ends_all_requested_runs(fails: str, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """A full disk when a run begins, or anything else: nobody waits for a device that is served no more."""
    monkeypatch.setattr("cluster.dispatch.EXPIRY_SECONDS", 0.05)
    told: list[str] = []

    def failing(*arguments: object, **details: object) -> None:
        raise UserError("Cannot write: No space left on device.")

    async def use(dispatcher: Dispatcher, engine: Played | LocalEngine) -> None:
        dispatcher.on_failure = lambda: told.append("told")
        if fails == "running":
            monkeypatch.setattr(Notes, "on_work", lambda self, item, state, **more: state == "running" and failing())
        else:
            monkeypatch.setattr(dispatcher.queue, "expire", failing)
            monkeypatch.setattr(engine, "execute", lambda *arguments: asyncio.sleep(60))
        for _ in range(2):  # one that waits, and one that is requested later
            with pytest.raises(UserError, match="No space left"):
                await tried(dispatcher, tmp_path, "first", "honest")
        assert isinstance(dispatcher.failure, UserError) and told == ["told"]

    dispatched(Played(lambda text: False), use)


def make_spec_alone() -> RunSpec:
    return RunSpec(run_id="run", contract=contract_for("cpu"), seed=7)


def test_a_real_judge_process_that_dies_twice_is_charged_and_one_that_was_killed_is_repeated(tmp_path: Path) -> None:
    """The judge is killed from outside once, and by itself always."""

    async def use(dispatcher: Dispatcher, engine: Played | LocalEngine) -> None:
        died = await tried(dispatcher, tmp_path, "died", "die")
        assert statuses(died) == ["lost", "crash"] and "last words" in died[-1].reason
        killed = asyncio.create_task(tried(dispatcher, tmp_path, "killed", "files"))
        await asyncio.sleep(0.5)
        [judge] = [pid for pid, text in judges_of(os.getpid()) if "fake_judge" in text]
        os.kill(judge, signal.SIGKILL)
        runs = await killed
        assert statuses(runs) == ["lost", "ok"] and runs[-1].val_bpb == 1.25

    engine = LocalEngine({CPU: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE)
    assert dispatched(engine, use).states == ["joined"]


def judges_of(pid: int) -> list[tuple[int, str]]:
    """The child processes of a process, each with its command line."""
    return [(child.pid, " ".join(child.cmdline())) for child in psutil.Process(pid).children()]
