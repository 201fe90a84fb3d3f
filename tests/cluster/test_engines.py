"""One behavioural suite for every engine: what a loop may rely on, whatever executes its runs.

The tests that take `opened` are run on Ray as well, in ray_cluster/test_ray_farm.py.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.dispatch import Dispatcher, NoWorkersLeft
from cluster.engine import ALIVE, Change, Engine, LocalEngine
from cluster.hardware import limited, platform_identity
from cluster.workqueue import WorkItem, WorkQueue
from research.gpu_memory import GIB
from tests.cluster.farm_samples import CPU, FAKE_JUDGE, gpu
from tests.cluster.ray_samples import living
from tests.in_time import in_time


class Opened:
    """An engine and its one device, which has joined; in an event loop of its own, so that it can outlive a test."""

    def __init__(self, make, runs):
        self.runs: Path = runs
        """Where the engine's run folders are."""
        self._runner = asyncio.Runner()
        self._runner.run(self._open(make))
        self._closed = False

    def run(self, use):
        """Runs `use(engine, device)`."""
        return self._runner.run(use(self.engine, self.device))

    def close(self):
        """A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._runner.run(self.engine.close())
            self._runner.run(self._changes.aclose())
            self._runner.close()

    async def _open(self, make):
        self.engine: Engine = make()
        self._changes = self.engine.changes()
        [change] = await anext(self._changes)
        assert change.kind == "joined"
        assert change.name == change.device.key
        self.device = change.device


@pytest.fixture
def opened(local, tmp_path):
    """An engine with one CPU and a judge that needs no torch; ray_cluster/test_ray_farm.py has one on Ray."""
    opened = Opened(local, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path):
    """Makes a local engine with one CPU."""
    return lambda: LocalEngine({CPU: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE)


def quiet(progress):
    pass


def test_a_run_gives_its_result_its_progress_and_its_files(opened, spec):
    said = []
    written = spec("files")

    async def use(engine, device):
        assert device.kind == "cpu"
        result = await engine.execute(device, "ok", spec(), quiet)
        assert (result.status, result.val_bpb, result.seed, result.run_id) == ("ok", 1.25, 7, "run1")
        result = await engine.execute(device, "files", written, said.append)
        assert result.status == "ok"

    opened.run(use)
    assert (opened.runs / written.run_id / "run.log").read_text() == "a log\n"
    assert any(message.get("phase") == "training" for message in said)
    assert len(said) >= 2  # it took two seconds, and a worker shows every second that it lives


def test_runs_are_under_their_devices_limit_of_memory(spec, tmp_path):
    gpus = (gpu(0), limited(gpu(1), 24 * GIB))

    async def use():
        engine = LocalEngine(dict.fromkeys(gpus, tmp_path), runs_folder=tmp_path, judge_command=FAKE_JUDGE)
        try:
            return [await engine.execute(device, "ok", spec(device.key), quiet) for device in gpus]
        finally:
            await engine.close()

    assert [result.gpu_memory_bytes for result in asyncio.run(use())] == [None, 24 * GIB]


def test_runs_take_turns_and_a_lost_one_is_a_result(opened, spec):
    async def use(engine, device):
        runs = [("a", "ok"), ("b", "die"), ("c", "ok")]
        results = await asyncio.gather(*(engine.execute(device, judge, spec(name), quiet) for name, judge in runs))
        assert [result.run_id for result in results] == ["a", "b", "c"]
        assert [result.status for result in results] == ["ok", "lost", "ok"]
        assert "last words" in results[1].reason

    opened.run(use)


def test_a_run_that_was_guessed_is_started_ahead(opened, spec):
    first, second = spec("first"), spec("second")

    async def use(engine, device):
        run = asyncio.create_task(engine.execute(device, "files", first, quiet))
        await asyncio.sleep(0.5)
        engine.start_speculatively(device, "ok", second)
        assert (await run).reason == "ran"
        assert (await engine.execute(device, "ok", second, quiet)).reason == "started ahead"
        engine.start_speculatively(device, "ok", second)
        assert (await engine.execute(device, "environment", spec("third"), quiet)).status == "ok"

    opened.run(use)


def test_a_guess_that_another_device_was_asked_for_leaves_that_ones_files_alone(spec, tmp_path):
    other = replace(gpu(), index=1, uuid="another")
    second = spec("second")

    async def use():
        engine = LocalEngine({gpu(): tmp_path, other: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE)
        try:
            await engine.execute(gpu(), "ok", spec("first"), quiet)
            engine.start_speculatively(gpu(), "ok", second)
            while not (tmp_path / second.run_id / "started").exists():
                await asyncio.sleep(0.05)
            run = asyncio.create_task(engine.execute(other, "files", second, quiet))
            await asyncio.sleep(0.5)
            engine.start_speculatively(gpu(), "ok", second)  # too late, too
            await engine.execute(gpu(), "ok", spec("third"), quiet)
            assert (await run).reason == "ran"
        finally:
            await engine.close()

    asyncio.run(use())
    assert (tmp_path / second.run_id / "run.log").read_text() == "a log\n"


def test_cancelling_ends_the_whole_tree(opened, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.judge_process.END_SECONDS", 0.5)  # not of a worker on Ray

    async def use(engine, device):
        trace = tmp_path / "trace"
        run = asyncio.create_task(engine.execute(device, f"stubborn traced {trace}", spec("cancelled"), quiet))
        while not trace.exists() or trace.read_text().count(" ") < 1:
            await asyncio.sleep(0.05)
        pids = [int(pid) for pid in trace.read_text().split()]
        assert len(living(pids)) == 2
        asked = time.monotonic()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert in_time(asked, 6)
        assert living(pids) == []
        return pids

    opened.run(use)


def test_closing_ends_what_runs(opened, spec, tmp_path):
    trace = tmp_path / "trace"

    async def use(engine, device):
        run = asyncio.create_task(engine.execute(device, f"traced {trace}", spec("closed"), quiet))
        while not trace.exists() or trace.read_text().count(" ") < 1:
            await asyncio.sleep(0.05)
        return run

    opened.run(use)
    opened.close()
    assert living([int(pid) for pid in trace.read_text().split()]) == []


# --- the dispatcher on an engine ----------------------------------------------------------------------------------------


class Notes:
    """Who is told, and of what."""

    def __init__(self):
        self.work_states, self.worker_states, self.controls = [], [], []

    def on_work(self, item, state, **details):
        self.work_states.append((item.id, state))

    def on_worker(self, name, state, **details):
        self.worker_states.append((state, details.get("reason", "")))

    def on_control(self, worker, found):
        self.controls.append(found)


def item(spec, device, repeats=0):
    from cluster.hardware import platform_identity

    return WorkItem(id=spec.run_id, kind="explore", branch="b", experiment="e", platform=platform_identity(device),
                    repeats=repeats)  # fmt: skip


def with_dispatcher(make_engine, use, **options):
    notes = Notes()

    async def whole():
        engine = make_engine()
        dispatcher = Dispatcher(engine, notes, **options)
        changes = dispatcher.changes()
        try:
            [device] = await anext(changes)
            await use(dispatcher, device)
        finally:
            await dispatcher.close()
            await changes.aclose()
            await engine.close()

    asyncio.run(whole())
    return notes


class Joined:
    """An engine whose one device has joined before."""

    def __init__(self, engine, device):
        self.execute, self.start_speculatively, self._device = engine.execute, engine.start_speculatively, device

    async def changes(self):
        yield (Change(kind="joined", name=self._device.key, device=self._device),)

    async def close(self):
        pass


def test_a_control_decides_whether_the_idea_or_the_device_is_charged(opened, spec, monkeypatch):
    monkeypatch.setattr("cluster.dispatch.PAUSE_SECONDS", 0.1)

    async def use(engine, device):
        notes = Notes()
        dispatcher = Dispatcher(Joined(engine, device), notes)
        changes = dispatcher.changes()
        await anext(changes)

        async def status(run_id, text, repeats, control):
            run = spec(run_id)
            return (await dispatcher.execute(item(run, device, repeats), text, run, quiet, control=control)).status

        assert [await status("bad1", "die", 0, "ok"), await status("bad2", "die", 1, "ok")] == ["lost", "crash"]
        assert await status("honest", "ok", 0, "ok") == "ok"
        assert not dispatcher.quarantined
        assert [await status("bad3", "die", 0, "die"), await status("bad4", "die", 1, "die")] == ["lost", "lost"]
        assert list(dispatcher.quarantined) == [device.key]
        assert [state for state, _ in notes.worker_states][-1] == "quarantined" and len(notes.controls) == 2
        await dispatcher.close()
        await changes.aclose()

    opened.run(use)


def test_work_is_seen_waiting_running_and_done(spec, local):
    async def use(dispatcher, device):
        run = spec()
        assert (await dispatcher.execute(item(run, device), "ok", run, quiet)).status == "ok"

    notes = with_dispatcher(local, use)
    assert notes.work_states == [("run1", "waiting"), ("run1", "running"), ("run1", "done")]


@pytest.mark.parametrize(("device", "in_line", "reason"), [
    (gpu(), False, "started ahead"),
    (gpu(), True, "ran"),
    (limited(gpu(), 24 * GIB), False, "ran"),
    (CPU, False, "ran"),
])  # fmt: skip
def test_the_next_run_is_started_ahead_on_a_whole_gpu_with_nothing_in_line(spec, device, in_line, reason, tmp_path):
    first, other, second = spec("first"), spec("other"), spec("second")

    async def use(dispatcher, device):
        others = []

        def beside(progress):
            if progress.get("phase") == "scoring" and not others:
                if in_line:
                    others.append(asyncio.create_task(dispatcher.execute(item(other, device), "ok", other, quiet)))
                asyncio.get_running_loop().call_later(0.2, dispatcher.start_speculatively, "first", "ok", second)

        await dispatcher.execute(item(first, device), "scored", first, beside)
        await asyncio.gather(*others)
        assert (await dispatcher.execute(item(second, device), "ok", second, quiet)).reason == reason
        dispatcher.start_speculatively("first", "ok", second)  # it is over: nobody's

    with_dispatcher(lambda: LocalEngine({device: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE), use)


@pytest.fixture
def short_pause(monkeypatch):
    """A shorter pause after a lost run."""
    monkeypatch.setattr("cluster.dispatch.PAUSE_SECONDS", 0.1)


def test_a_worker_that_fails_three_times_in_a_row_gets_no_more_work(spec, local, short_pause):
    async def use(dispatcher, device):
        for number in range(3):
            run = spec(f"run{number}")
            assert (await dispatcher.execute(item(run, device, number), "die", run, quiet)).status == "lost"
        run = spec("after")
        with pytest.raises(NoWorkersLeft, match=r"3 runs in a row.*last words"):
            await dispatcher.execute(item(run, device), "ok", run, quiet)

    notes = with_dispatcher(local, use)
    assert [state for state, _ in notes.worker_states] == ["joined", "quarantined"]


def test_a_success_in_between_clears_a_workers_name(spec, local, short_pause):
    async def use(dispatcher, device):
        for number, train_py in enumerate(["die", "die", "ok", "die", "die", "ok"]):
            run = spec(f"run{number}")
            await dispatcher.execute(item(run, device), train_py, run, quiet)

    notes = with_dispatcher(local, use)
    assert [state for state, _ in notes.worker_states] == ["joined"]


def test_cancelled_runs_are_nobodys_fault(spec, tmp_path, local):
    async def use(dispatcher, device):
        for number in range(4):
            run = spec(f"run{number}")
            asked = asyncio.create_task(dispatcher.execute(item(run, device), "slow", run, quiet))
            while not (tmp_path / run.run_id / "pids").exists():
                await asyncio.sleep(0.05)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        run = spec("after")
        assert (await dispatcher.execute(item(run, device), "ok", run, quiet)).status == "ok"

    notes = with_dispatcher(local, use)
    assert [state for state, _ in notes.worker_states] == ["joined"]


class Mute(LocalEngine):
    """Its worker never shows that it lives."""

    async def execute(self, device, train_py, spec, on_progress):
        return await super().execute(device, train_py, spec, quiet)


def test_a_run_whose_worker_falls_silent_is_lost(spec, monkeypatch, tmp_path):
    monkeypatch.setattr("cluster.dispatch.EXPIRY_SECONDS", 0.1)

    async def use(dispatcher, device):
        run = spec()
        result = await dispatcher.execute(item(run, device), "slow", run, quiet)
        assert (result.status, "said nothing" in result.reason) == ("lost", True)

    def mute():
        return Mute({CPU: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE)

    notes = with_dispatcher(mute, use, queue=WorkQueue(lease_seconds=1.0))
    assert notes.work_states[-1] == ("run1", "lost")


def test_a_farm_that_was_busy_itself_takes_no_worker_for_silent(spec, monkeypatch):
    """Nothing could be heard while the event loop stood still; a worker that stays silent afterwards is lost."""
    monkeypatch.setattr("cluster.dispatch.EXPIRY_SECONDS", 0.05)

    async def leases():
        queue = WorkQueue(lease_seconds=0.6)
        queue.add(item(spec(), CPU))
        assert queue.claim(CPU.key, platform_identity(CPU), time.monotonic())
        watching = asyncio.create_task(Dispatcher(None, None, queue=queue)._expire_regularly())
        await asyncio.sleep(0.01)
        time.sleep(1.2)
        await asyncio.sleep(0.1)
        after_the_pause = len(queue.leases)
        await asyncio.sleep(1.5)
        watching.cancel()
        return after_the_pause, len(queue.leases)

    assert asyncio.run(leases()) == (1, 0)


def test_alive_is_no_news():
    assert set(ALIVE) == {"event"}
