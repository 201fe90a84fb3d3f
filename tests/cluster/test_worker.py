"""A run always ends in a result, and never outlives whoever asked for it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.engine import LocalEngine
from cluster.judge_process import Progress, compile_processes, judge_environment
from cluster.worker import Worker
from research.result import RunResult, RunSpec
from tests.cluster.farm_samples import CPU, FAKE_JUDGE, gpu
from tests.cluster.ray_samples import living
from tests.in_time import in_time

MakeSpec = Callable[..., RunSpec]


def quiet(progress: Progress) -> None:
    pass


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return bool(living([pid]))


def judges() -> list[psutil.Process]:
    """The judges that this process has started."""
    return [child for child in psutil.Process().children() if "fake_judge" in " ".join(command_of(child))]


def command_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has ended, as another test's may have."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def started_pids(folder: Path) -> list[int]:
    path = folder / "pids"
    wait_for(lambda: path.exists() and path.read_text().count(" ") == 1)
    return [int(pid) for pid in path.read_text().split()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge's processes are noted more often, and it has less time to end them."""
    monkeypatch.setattr("cluster.judge_process.WATCH_SECONDS", 0.1)
    monkeypatch.setattr("cluster.judge_process.END_SECONDS", 0.5)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(CPU, runs_folder=tmp_path, judge_command=FAKE_JUDGE, silence_seconds=1.0)
    yield worker
    worker.close()


def test_a_run_gives_its_progress_and_its_result(worker: Worker, spec: MakeSpec) -> None:
    seen: list[Progress] = []
    result = worker.run("ok", spec(), "data", seen.append)
    assert (result.status, result.val_bpb, result.seed) == ("ok", 1.25, 7)
    assert [message["phase"] for message in seen] == ["startup", "scoring"]


def test_runs_follow_each_other(worker: Worker, spec: MakeSpec) -> None:
    assert [worker.run("ok", spec(name), "data", quiet).run_id for name in ("a", "b", "c")] == ["a", "b", "c"]


def test_a_spare_that_died_is_replaced(worker: Worker, spec: MakeSpec) -> None:
    wait_for(judges)  # a process has its command line a moment after it is started
    [child] = judges()
    child.kill()
    wait_for(lambda: not alive(child.pid))
    assert worker.run("ok", spec(), "data", quiet).status == "ok"


@pytest.mark.parametrize(
    ("train_py", "reason"),
    [
        ("die", "exit status 3: last words"),
        ("garbage", "can't be read"),
        ("silent", "said nothing for 1 s"),
    ],
)
def test_a_judge_without_a_result_is_lost_not_a_crash(worker: Worker, spec: MakeSpec, train_py: str, reason: str) -> None:
    result = worker.run(train_py, spec(), "data", quiet)
    assert result.status == "lost"
    assert reason in result.reason


@pytest.mark.usefixtures("impatient")
def test_a_killed_judge_is_lost_and_leaves_nothing_behind(worker: Worker, spec: MakeSpec, tmp_path: Path) -> None:
    a_spec = spec()
    threading.Timer(1.0, lambda: os.kill(started_pids(tmp_path / a_spec.run_id)[0], signal.SIGKILL)).start()
    result = worker.run("slow", a_spec, "data", quiet)
    assert (result.status, "signal 9" in result.reason) == ("lost", True)
    assert not any(alive(pid) for pid in started_pids(tmp_path / a_spec.run_id))
    assert worker.run("ok", spec("next"), "data", quiet).status == "ok"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("train_py", ["slow", "stubborn"])
def test_cancel_ends_the_tree_within_five_seconds(worker: Worker, spec: MakeSpec, train_py: str, tmp_path: Path) -> None:
    a_spec = spec()
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(worker.run(train_py, a_spec, "data", quiet)))
    thread.start()
    pids = started_pids(tmp_path / a_spec.run_id)
    started = time.monotonic()
    worker.cancel(a_spec.run_id)
    thread.join(timeout=120)
    assert in_time(started, 5)
    assert (results[0].status, results[0].reason) == ("lost", "cancelled")
    assert not any(alive(pid) for pid in pids)


def test_a_run_that_was_started_ahead_goes_on_from_there(worker: Worker, spec: MakeSpec, tmp_path: Path) -> None:
    first, second = spec("first"), spec("second")
    folder = tmp_path / second.run_id

    def beside(progress: Progress) -> None:
        if progress["phase"] == "scoring" and not folder.joinpath("started").exists():
            worker.start_speculatively("ok", second, "data")
            wait_for(folder.joinpath("started").exists)

    assert worker.run("scored", first, "data", beside).reason == "ran"
    result = worker.run("ok", second, "data", quiet)
    assert (result.run_id, result.status, result.reason) == ("second", "ok", "started ahead")
    assert worker.run("ok", spec("third"), "data", quiet).reason == "ran"
    assert len(judges()) <= 1, "one stands by"


@pytest.mark.parametrize("change", ["its text", "its threshold"])
def test_what_was_started_ahead_for_nothing_is_ended_and_forgotten(
    worker: Worker, spec: MakeSpec, change: str, tmp_path: Path
) -> None:
    guess = spec("guess")
    worker.start_speculatively("ok", guess, "data")
    started = tmp_path / guess.run_id / "started"
    wait_for(lambda: started.exists() and started.read_text())
    pid = int(started.read_text())
    text, wanted = ("ok ", guess) if change == "its text" else ("ok", replace(guess, keep_below=1.0))
    assert worker.run(text, wanted, "data", quiet).reason == "ran"
    assert not alive(pid) and not started.exists()


def test_a_guess_that_failed_is_tried_anew(worker: Worker, spec: MakeSpec) -> None:
    guess = spec("guess")
    worker.start_speculatively("die", guess, "data")
    wait_for(lambda: not worker._speculative.judge.alive)
    assert "last words" in worker.run("die", guess, "data", quiet).reason
    assert worker.run("ok", spec("next"), "data", quiet).status == "ok"


def test_a_guess_that_failed_without_having_said_so_is_tried_anew(worker: Worker, spec: MakeSpec, tmp_path: Path) -> None:
    guess = spec("guess")
    worker.start_speculatively("unlucky", guess, "data")
    wait_for((tmp_path / guess.run_id / "started").exists)
    result = worker.run("unlucky", guess, "data", quiet)
    assert (result.status, result.reason) == ("ok", "ran")
    assert not is_started_ahead(worker, spec("more"))


@pytest.mark.parametrize("how", ["oom", "die"])
def test_what_fails_beside_a_guess_is_not_charged_and_no_more_is_guessed(worker: Worker, spec: MakeSpec, how: str) -> None:
    guess = spec("guess")
    result = worker.run(f"scored {how}", spec("a"), "data", lambda progress: worker.start_speculatively("ok", guess, "data"))
    assert result.status == "lost" and "while the next run was starting" in result.reason
    assert not is_started_ahead(worker, guess)


def test_there_is_room_after_all_where_it_fails_alone_too(worker: Worker, spec: MakeSpec) -> None:
    guess = spec("guess")
    in_company = worker.run("scored oom", spec("a"), "data", lambda progress: worker.start_speculatively("ok", guess, "data"))
    assert in_company.status == "lost"
    assert worker.run("scored oom", spec("b"), "data", quiet).status == "oom"
    assert is_started_ahead(worker, guess)


def test_a_guess_that_had_no_room_is_the_last_one(worker: Worker, spec: MakeSpec) -> None:
    guess = spec("guess")
    worker.start_speculatively("oom", guess, "data")
    wait_for(lambda: worker._speculative.judge.ended_as == "oom")
    assert worker.run("ok", guess, "data", quiet).reason == "ran"
    assert not is_started_ahead(worker, spec("more"))


def test_an_idea_that_is_too_large_by_itself_does_not_end_guessing(worker: Worker, spec: MakeSpec) -> None:
    guess = spec("guess")
    worker.start_speculatively("oom", guess, "data")
    wait_for(lambda: worker._speculative.judge.ended_as == "oom")
    assert worker.run("oom", guess, "data", quiet).status == "oom"
    assert is_started_ahead(worker, spec("more"))


def is_started_ahead(worker: Worker, spec: RunSpec) -> bool:
    worker.start_speculatively("ok", spec, "data")
    return worker.run("ok", spec, "data", quiet).reason == "started ahead"


def test_a_guess_that_comes_when_its_run_has_begun_is_too_late(worker: Worker, spec: MakeSpec) -> None:
    asked = spec("asked")
    worker.run("scored", asked, "data", lambda progress: worker.start_speculatively("scored", asked, "data"))
    assert worker._speculative is None and len(judges()) == 1


def test_closing_ends_what_was_started_ahead(spec: MakeSpec, tmp_path: Path) -> None:
    worker = Worker(CPU, runs_folder=tmp_path, judge_command=FAKE_JUDGE)
    worker.start_speculatively("ok", spec(), "data")
    worker.close()
    worker.start_speculatively("ok", spec("late"), "data")
    assert judges() == []


def test_closing_leaves_no_process(spec: MakeSpec, tmp_path: Path) -> None:
    worker = Worker(CPU, runs_folder=tmp_path, judge_command=FAKE_JUDGE)
    worker.run("ok", spec(), "data", quiet)
    worker.close()
    assert judges() == []


def test_kill_9_of_the_farm_leaves_no_judge(spec: MakeSpec, tmp_path: Path) -> None:
    """Another process stands for the farm: one run and one spare are under way when it is killed."""
    a_spec = spec()
    program = f"""
import sys
from pathlib import Path
from cluster.hardware import Device
from cluster.worker import Worker
from research.result import RunSpec
device = Device(kind="cpu", index=0, name="", memory_bytes=1, free_bytes=1, threads=1)
worker = Worker(device, runs_folder=Path({str(tmp_path)!r}), judge_command={FAKE_JUDGE!r})
worker.run("slow", RunSpec.from_json({a_spec.to_json()!r}), "data", lambda progress: worker.stand_by())
"""
    farm = subprocess.Popen([sys.executable, "-c", program])
    pids = started_pids(tmp_path / a_spec.run_id)
    wait_for(lambda: len(psutil.Process(farm.pid).children()) == 2)
    pids += [child.pid for child in psutil.Process(farm.pid).children()]
    farm.kill()
    farm.wait()
    killed = time.monotonic()
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert in_time(killed, 2)


def test_the_judge_gets_no_keys() -> None:
    base = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "ANTHROPIC_API_KEY": "k",
        "HF_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AUTORESEARCH_CACHE": "/c",
        "AUTORESEARCH_API_KEY": "k",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SSH_AUTH_SOCK": "/s",
    }
    environment = judge_environment(gpu(1), base)
    assert environment == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "AUTORESEARCH_CACHE": "/c",
        "CUDA_VISIBLE_DEVICES": "GPU-1abc",
        "OMP_NUM_THREADS": "16",
        "PYTHONUTF8": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "8",
    }
    assert judge_environment(CPU, base)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("threads", "processes"), [(1, 1), (16, 8), (96, 32), (256, 32)])
def test_the_compilers_of_a_run_share_its_cores(threads: int, processes: int) -> None:
    assert compile_processes(threads) == processes


def test_the_environment_that_really_arrives(worker: Worker, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    worker.run("ok", spec("spare from before"), "data", quiet)
    arrived = json.loads(worker.run("environment", spec(), "data", quiet).reason)
    assert "OPENAI_API_KEY" not in arrived
    assert (arrived["OMP_NUM_THREADS"], arrived["TORCHINDUCTOR_COMPILE_THREADS"]) == ("2", "1")


def test_loops_on_one_device_take_turns_in_order(spec: MakeSpec, tmp_path: Path) -> None:
    async def three() -> list[str]:
        engine = LocalEngine({CPU: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE)
        order: list[str] = []

        async def one(name: str) -> None:
            order.append((await engine.execute(CPU, "ok", spec(name), quiet)).run_id)

        try:
            await asyncio.gather(*(one(name) for name in "abc"))
        finally:
            await engine.close()
        return order

    assert asyncio.run(three()) == ["a", "b", "c"]


def test_cancelling_the_task_ends_the_run_and_frees_the_device(spec: MakeSpec, tmp_path: Path) -> None:
    async def scenario() -> tuple[bool, bool, str]:
        engine = LocalEngine({CPU: tmp_path}, runs_folder=tmp_path, judge_command=FAKE_JUDGE)
        a_spec = spec()
        task = asyncio.create_task(engine.execute(CPU, "slow", a_spec, quiet))
        pids = await asyncio.to_thread(started_pids, tmp_path / a_spec.run_id)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        is_quick = in_time(started, 5)
        gone = not any(alive(pid) for pid in pids)
        after = await engine.execute(CPU, "ok", spec("after"), quiet)
        await engine.close()
        return is_quick, gone, after.status

    is_quick, gone, status = asyncio.run(scenario())
    assert (is_quick, gone, status) == (True, True, "ok")
