"""`python -m research.run` and `research/train.py`, by hand and for a worker."""

import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import psutil
import pytest

from research import run as run_module
from research.data.prepare import prepare
from research.profiles import contract_for
from research.result import RunResult
from research.run import GO
from tests.in_time import in_time
from tests.research.judged import (
    HELPERS,
    Runner,
    events,
    in_a_fork,
    is_alive,
    read_result,
    start_main,
    variant,
    wait_for,
    with_train,
    write_documents,
)

GONE_SECONDS = 2.0
STEP_LINE = (
    r"step \d{5} \(\d+\.\d%\) \| loss: \d+\.\d+ \| lrm: \d\.\d\d \| dt: \d+ms \| tok/sec: [\d,]+ \| mfu: .*% \| "
    r"epoch: \d+ \| remaining: \d+s"
)
SUMMARY_KEYS = ["val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps",
                "num_params_M", "depth"]  # fmt: skip


def test_garbage_is_collected_again_once_torch_is_imported() -> None:
    assert in_a_fork(gc.isenabled)


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that choose the `cpu` profile on a little text, which is prepared."""
    folder = tmp_path_factory.mktemp("by-hand")
    (folder / "texts").mkdir()
    write_documents(folder / "texts", documents=1500, words=1500, seed=2)
    source = f"files:{folder / 'texts'}"
    prepare(contract_for("cpu", source=source), cache=folder / "cache", say=lambda line: None)
    return ["--profile", "cpu", "--source", source, "--cache", str(folder / "cache"), "--device", "cpu"]


FEW_ROWS = """
import runpy, sys
from dataclasses import replace
from pathlib import Path
from research.profiles import PROFILES
cpu = PROFILES["cpu"]
PROFILES["cpu"] = replace(cpu, contract=replace(cpu.contract, EVAL_TOKENS=2**13))
del sys.argv[0]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script or a module as Python does; the `cpu` profile has an eighth of its evaluation rows, which take long."""


@pytest.fixture
def by_hand_on_few_rows(by_hand: list[str], tmp_path: Path) -> list[str]:
    source = by_hand[by_hand.index("--source") + 1]
    contract = replace(contract_for("cpu", source=source), EVAL_TOKENS=2**13)
    prepare(contract, cache=tmp_path / "cache", say=lambda line: None)
    return [*by_hand, "--cache", str(tmp_path / "cache")]


def python(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **(environment or {})}
    )


def test_the_shipped_file_runs_as_people_know_it(by_hand_on_few_rows: list[str], tmp_path: Path) -> None:
    train_py = str(run_module.SHIPPED_TRAIN_PY)
    calm = {"OMP_WAIT_POLICY": "passive"}  # torch is imported first here, so that the judge comes too late to set it
    folder = tmp_path / "run"
    done = python("-c", FEW_ROWS, train_py, *by_hand_on_few_rows, "--budget", "2", "--folder", str(folder), environment=calm)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"profile cpu: DEPTH = 2, .*DEVICE_BATCH_SIZE = \d+, .*\(`.*farm profile --profile cpu --write` makes this permanent\)",
        lines[0],
    )
    steps = [line for line in lines if line.startswith("step ")]
    assert steps and all(re.fullmatch(STEP_LINE, line) for line in steps), steps
    assert lines[lines.index("---") + 1 :] == [line for line in lines[-9:] if line.split(":")[0] in SUMMARY_KEYS]
    assert [line.split(":")[0] for line in lines[-9:]] == SUMMARY_KEYS
    result = read_result(folder)
    assert (result.reported_depth, result.reported_kernel, result.reported_recompiles) == (2, "sdpa", 0)
    assert result.val_bpb is not None and f"val_bpb:          {result.val_bpb:.6f}" in lines
    losses = [loss for _, _, loss in result.reported_curve]
    assert losses[-1] < losses[0] - 0.3, "it learns"


SHOWS_KEYS = """
print("has keys", "sk-hidden" in str(os.environ), "sk-hidden" in Path("/proc/self/environ").read_text())
print("stdin", repr(sys.stdin.read()))
for x, y in session.batches(8):
    pass
session.finish(build_model())
"""


def test_the_result_is_one_json_object_on_the_last_line(by_hand_on_few_rows: list[str], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(with_train(SHOWS_KEYS))
    keys = {"ANTHROPIC_API_KEY": "sk-hidden", "OPENAI_API_KEY": "sk-hidden", "HF_TOKEN": "sk-hidden"}
    arguments = [
        "-c",
        FEW_ROWS,
        "-m",
        "research.run",
        "--train",
        str(tmp_path / "train.py"),
        *by_hand_on_few_rows,
        "--budget",
        "0.5",
        "--seed",
        "7",
        "--json",
    ]
    done = python(*arguments, environment=keys)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    result = RunResult.from_json(lines[-1])
    assert (result.status, result.seed, result.device) == ("ok", 7, "cpu")
    assert result.training_seconds is not None and 0.5 <= result.training_seconds < 2.5
    assert {"status", "val_bpb", "reason", "audit_bpb", "reported_curve"} <= set(json.loads(lines[-1]))
    assert lines[-10].split() == ["val_bpb:", f"{result.val_bpb:.6f}"]
    assert "has keys False False" in lines and "stdin ''" in lines


def test_a_run_without_a_score_exits_with_1(by_hand: list[str], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise ValueError('boom')\n")
    process = start_main(["--train", str(tmp_path / "train.py"), *by_hand, "--json"], output=tmp_path / "out")
    process.join(60)
    lines = (tmp_path / "out").read_text().splitlines()
    assert process.exitcode == 1
    assert lines[-2] == "crash: ValueError: boom" and json.loads(lines[-1])["status"] == "crash"
    assert "Traceback (most recent call last):" in lines


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--train", "/nowhere/train.py"], ["/nowhere/train.py", "--train"]),
        (["--profile", "cpu", "--cache", "/nowhere"], ["No data is prepared for profile cpu", "farm prepare", "/nowhere"]),
        (["--profile", "huge"], ["--profile", "huge", "standard"]),
        (["--budget", "-1"], ["--budget", "from 0.5", "-1"]),
        (["--budget", "nan"], ["--budget", "from 0.5", "nan"]),
        (["--seed", "-1"], ["--seed", "from 0", "-1"]),
        (["--device", "cpu", "--gpu-memory", "8"], ["--gpu-memory", "CUDA GPUs only", "cpu"]),
        (["--device", "tpu"], ["--device", "tpu", "cpu"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    arguments: list[str], facts: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "become_subreaper", lambda: None)
    monkeypatch.setattr(run_module.signal, "signal", lambda number, handler: None)
    try:
        status = run_module.main(arguments)
    except SystemExit as ended:  # the parser's own
        status = ended.code
    shown = capsys.readouterr()
    assert status == 2 and shown.err.startswith("research.run: ") and shown.err.count("\n") == 1 and shown.out == ""
    assert all(fact in shown.err for fact in facts)


# --- for a worker ---------------------------------------------------------------------------------------------------

HANGS = """
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(write, b"x")
        time.sleep(1000)
    os._exit(0)
os.read(read, 1)
print("hidden", flush=True)
for x, y in session.batches(8):
    time.sleep(1000)
"""


class Serving:
    """`python -m research.run --serve`, whose standard input is held by another process."""

    def __init__(self, folder: Path, runner: Runner, sandbox: str) -> None:
        self._output = folder / "out"
        read, write = os.pipe()
        self.holder = subprocess.Popen(["sleep", "1000"], pass_fds=[write])
        self.judge = start_main(["--serve"], stdin=read, output=self._output)
        self.spec = runner.spec(contract=replace(runner.contract, TIME_BUDGET=60.0), sandbox=sandbox)
        self.folder = runner.folder(self.spec)
        text = with_train(HANGS)
        os.write(write, runner.request(self.spec, text))
        os.close(read)
        os.close(write)

    def pids(self) -> list[int]:
        """The judge and everything below it, once the run is under way."""
        log = self.folder / "run.log"
        wait_for(lambda: log.exists() and "hidden" in log.read_text())
        below = [child.pid for child in psutil.Process(self.judge.pid).children(recursive=True)]
        assert len(below) >= 4, "trainer, hidden grandchild, two scorers"
        return [self.judge.pid, *below]

    def events(self) -> list[dict[str, Any]]:
        return events(self._output)

    def end(self) -> None:
        self.holder.kill()
        self.holder.wait()
        self.judge.join(10)
        self.judge.kill()


@pytest.fixture(params=["auto", "off"])
def serving(request: pytest.FixtureRequest, run: Runner, tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(tmp_path, run, request.param)
    yield serving
    serving.end()


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9 of who holds its input"])
def test_a_run_is_gone_two_seconds_after_whoever_wanted_it(how: str, serving: Serving) -> None:
    pids = serving.pids()
    began = time.monotonic()
    if how == "SIGTERM":
        os.kill(serving.judge.pid, signal.SIGTERM)
    else:
        serving.holder.kill()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert in_time(began, GONE_SECONDS)
    last = wait_for(serving.events)[-1]
    assert (last["event"], last["result"]["status"]) == ("result", "lost")
    assert last["result"]["reason"] == "stopped before the run had ended"
    assert read_result(serving.folder).status == "lost"


@pytest.mark.parametrize("killed", ["the judge", "who stands by"])
def test_kill_9_leaves_nothing_of_the_training(killed: str, serving: Serving) -> None:
    pids = serving.pids()
    [judge] = psutil.Process(serving.judge.pid).children()
    victim = judge.pid if killed == "the judge" else serving.judge.pid
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, pids)))
    assert in_time(began, GONE_SECONDS)
    assert not list(Path(tempfile.gettempdir()).glob(f"autoresearch-run-{judge.pid}-*"))


def opened_by(pid: int) -> list[str]:
    """What a process has open; it may close some of it meanwhile."""
    opened = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            opened.append(str(link.readlink()))
    return opened


def test_a_served_run_tells_its_progress_and_its_result(run: Runner, tmp_path: Path) -> None:
    spec = run.spec(contract=replace(run.contract, TIME_BUDGET=1.0))
    read, write = os.pipe()
    process = start_main(["--serve"], stdin=read, output=tmp_path / "out")
    os.close(read)
    wait_for(lambda: {"event": "ready"} in events(tmp_path / "out"))
    text = HELPERS + variant(("    step = 0\n\n    def run", '    step = 0\n    print(\'{"event": "result"}\')\n\n    def run'))
    request = run.request(spec, text)
    os.write(write, request[:100])
    os.write(write, request[100:])
    wait_for(lambda: any(event["event"] == "result" for event in events(tmp_path / "out")))
    assert "/dev/nvidia-uvm" not in opened_by(process.pid), "what stands by never starts CUDA, so it takes nothing of a GPU"
    os.close(write)
    process.join(60)
    told = events(tmp_path / "out")
    assert process.exitcode == 0, (tmp_path / "out").read_text()
    assert [event["event"] for event in told].count("result") == 1 and told[-1]["event"] == "result"
    assert told[-1]["result"] == json.loads(read_result(run.folder(spec)).to_json())
    assert told[-1]["result"]["status"] == "ok"
    phases = [event["phase"] for event in told[1:-1]]
    assert list(dict.fromkeys(phases)) == ["startup", "training", "handover", "scoring"] or phases[0] == "training"
    training = [event for event in told if event.get("phase") == "training"]
    assert training and all(event["loss"] > 0 and 0 <= event["fraction"] <= 1 for event in training)
    assert [event["step"] for event in training] == sorted(event["step"] for event in training)


LOOKS_AROUND = """
backwards = [b"dniheb-tfel", b"kramer-nwo", b"nur-eht-fo-eman"]
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        place, access, _, _, inode, *_ = line.split()
        if access.startswith("rw") and inode == "0":
            start, end = (int(address, 16) for address in place.split("-"))
            memory.seek(start)
            found = memory.read(end - start)[::-1]
            print("found", sum(map(found.count, backwards)))
frame = sys._getframe()
while frame := frame.f_back:
    print("found", sum(type(value).__name__ in ("Judge", "RunSpec") for value in frame.f_locals.values()))
"""


def test_runs_are_served_one_after_another_and_find_nothing_of_each_other(run: Runner, tmp_path: Path) -> None:
    """Neither the text of an earlier run, refused or not, nor what the judge knows of its own run is in a run's memory."""
    specs = [run.spec(), run.spec(run_id="name-of-the-run"), run.spec()]
    remarks = "# left-behind\n" * 1000
    looks = HELPERS + variant(("def train(session):\n", f"def train(session):  # own-remark\n{indent(LOOKS_AROUND, '    ')}"))
    texts = [f"raise ValueError('boom')\n{remarks}", looks, "def (\n"]
    read, write = os.pipe()
    process = start_main(["--serve"], stdin=read, output=tmp_path / "out")
    os.close(read)
    for spec, text in zip(specs, texts, strict=True):
        os.write(write, run.request(spec, text))
    wait_for(lambda: len([event for event in events(tmp_path / "out") if event["event"] == "result"]) == 3)
    os.close(write)
    process.join(60)
    results = [event["result"] for event in events(tmp_path / "out") if event["event"] == "result"]
    assert [(result["run_id"], result["status"]) for result in results] == [
        (spec.run_id, status) for spec, status in zip(specs, ["crash", "ok", "crash"], strict=True)
    ]
    assert process.exitcode == 0
    found = [int(line.split()[1]) for line in (run.folder(specs[1]) / "run.log").read_text().splitlines() if "found" in line]
    assert found and not any(found)


def test_input_that_ends_at_once_ends_it(tmp_path: Path) -> None:
    process = start_main(["--serve"], stdin=os.open(os.devnull, os.O_RDONLY), output=tmp_path / "out")
    process.join(20)
    assert process.exitcode == 0 and events(tmp_path / "out") == [{"event": "ready"}]


def test_a_run_that_is_started_ahead_waits_where_its_clock_would_start(run: Runner, tmp_path: Path) -> None:
    spec = run.spec(contract=replace(run.contract, TIME_BUDGET=1.0))
    out = tmp_path / "out"
    read, write = os.pipe()
    process = start_main(["--serve"], stdin=read, output=out)
    os.close(read)
    os.write(write, run.request(spec, variant(), ahead=True))
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 4)
    time.sleep(3.0)
    assert not any(event.get("phase") == "training" or event["event"] == "asked" for event in events(out))
    asked = time.monotonic()
    os.write(write, GO)
    wait_for(lambda: any(event["event"] == "result" for event in events(out)))
    took = time.monotonic() - asked
    os.close(write)
    process.join(60)
    assert any(event["event"] == "asked" for event in events(out))
    result = read_result(run.folder(spec))
    assert (result.status, result.startup_seconds) == ("ok", 0.0)
    assert result.training_seconds is not None and result.training_seconds >= 1.0
    assert result.total_seconds is not None and result.total_seconds <= took, "it counts from when it was wanted"
    assert process.exitcode == 0


def test_a_run_that_ended_before_it_was_wanted_leaves_room_for_the_next(run: Runner, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = start_main(["--serve"], stdin=read, output=tmp_path / "out")
    os.close(read)

    def results() -> list[str]:
        return [event["result"]["status"] for event in events(tmp_path / "out") if event["event"] == "result"]

    os.write(write, run.request(run.spec(), "raise ValueError('boom')\n", ahead=True))
    wait_for(lambda: results() == ["crash"])
    time.sleep(0.2)
    os.write(write, GO)
    os.write(write, run.request(run.spec(), "def (\n"))
    wait_for(lambda: results() == ["crash", "crash"])
    os.close(write)
    process.join(60)
    assert process.exitcode == 0


def test_a_run_that_was_started_ahead_is_gone_with_who_started_it(run: Runner, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = start_main(["--serve"], stdin=read, output=tmp_path / "out")
    os.close(read)
    os.write(write, run.request(run.spec(), variant(), ahead=True))
    below = wait_for(lambda: pids if len(pids := psutil.Process(process.pid).children(recursive=True)) >= 4 else None)
    os.close(write)
    closed = time.monotonic()
    wait_for(lambda: not any(map(is_alive, [child.pid for child in below])))
    assert in_time(closed, GONE_SECONDS)
    process.join(60)


def test_a_spare_ends_with_its_worker(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = start_main(["--serve"], stdin=read, output=tmp_path / "out")
    os.close(read)
    wait_for(lambda: events(tmp_path / "out") == [{"event": "ready"}])
    os.close(write)
    process.join(60)
    assert process.exitcode == 0 and events(tmp_path / "out") == [{"event": "ready"}]
