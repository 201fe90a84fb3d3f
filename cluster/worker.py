"""One device and the judge that runs on it. A plain class, so that any engine can wrap it.

A judge is a process that stands by with torch imported, so that a run starts at once: it forks one of its own kind for
each run, which shares nothing with the runs before. A judge ends by itself, with all that it started, when the pipe to
its standard input closes: whatever happens to the farm's process, no training outlives it.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from cluster.hardware import Device
from cluster.home import package_folder
from research.result import RunResult, RunSpec

JUDGE_COMMAND = (sys.executable, "-m", "research.run", "--serve")

PASSED_NAMES = (
    *("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"),
)
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "AUTORESEARCH_")
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""A variable with one of these in its name stays behind even where its prefix would pass."""

END_SECONDS = 3.0
"""How long a judge has to end its own processes (it promises 2 s) before the worker kills them."""

SILENCE_SECONDS = 1800.0
"""A judge that says nothing for so long hangs; the longest silence of a healthy one is a cold compilation."""

POLL_SECONDS = 0.2

WATCH_SECONDS = 2.0
"""How often the worker notes a judge's processes, so that it can end them when the judge itself was killed."""

CANCELLED = "cancelled"

Progress = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Ahead:
    """A run whose processes start, or wait for the clock, before it is asked for."""

    train_py: str
    spec: RunSpec
    judge: "Judge"


class Worker:
    """Runs train.py on one device, one run at a time."""

    def __init__(
        self,
        device: Device,
        *,
        judge_command: Sequence[str] = JUDGE_COMMAND,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.device = device
        self._command = tuple(judge_command)
        self._silence_seconds = silence_seconds
        self._cancelled: set[str] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._spare: Judge | None = None
        self._ahead: _Ahead | None = None
        self._asked_for: set[str] = set()
        """Runs that were asked for, here or of another worker: too late to start them ahead."""
        self._room_ahead = True
        """Whether two runs can be on the device at once, as far as is known."""
        self._suspect = ""
        """The train.py that failed when two were on the device: if it fails alone, too, there is room after all."""
        self.stand_by()

    def stand_by(self) -> None:
        """Starts the spare judge, if none is standing by."""
        with self._lock:
            if not self._closed and (self._spare is None or not self._spare.alive):
                self._spare = Judge(self._command, judge_environment(self.device))

    def run(self, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        """Executes one run and waits for its result; `on_progress` gets the judge's progress messages in this thread.

        Always returns a result: `lost` where the judge failed or the run was cancelled, never an exception for either.
        """
        started = time.monotonic()
        judge, was_ahead = self._begin(train_py, spec)
        outcome = self._follow(judge, spec, on_progress)
        if was_ahead and not judge.was_asked and _failed(outcome):  # beside another run, which may have been the reason
            judge.end()
            self._doubt_room(train_py)
            outcome = self._follow(judge := self._take_for(train_py, spec), spec, on_progress)
        if _failed(outcome):
            outcome = self._blame(outcome, train_py)
        if isinstance(outcome, RunResult):
            self._give_back(judge)
        else:
            judge.end()
            if spec.run_id not in self._cancelled:  # after a cancelled run most often nothing comes
                self.stand_by()
        self._cancelled.discard(spec.run_id)
        if isinstance(outcome, RunResult):
            return outcome
        return RunResult(
            run_id=spec.run_id,
            status="lost",
            reason=outcome,
            seed=spec.seed,
            device=spec.device,
            total_seconds=time.monotonic() - started,
        )

    def start_speculatively(self, train_py: str, spec: RunSpec) -> None:
        """Starts a run that will probably be asked for next, as far as its clock; from another thread, while one runs.

        `run` goes on from there if it is asked for just that, else ends it first. Whatever goes wrong with it before counts for
        nothing: the run is then started anew. Where memory seems to run out over it, this worker does it no more.
        """
        with self._lock:
            too_late = self._closed or spec.run_id in self._asked_for
            if too_late or self._ahead is not None or not self._room_ahead:
                return
            judge = self._take()
            judge.send({"spec": asdict(spec), "train_py": train_py, "ahead": True})
            self._ahead = _Ahead(train_py=train_py, spec=spec, judge=judge)

    def forget(self, run_id: str) -> None:
        """Ends that run if it was started ahead here: another worker was asked for it, and its folder is that one's now."""
        with self._lock:
            self._asked_for.add(run_id)
            is_here = self._ahead is not None and self._ahead.spec.run_id == run_id
        if is_here:
            self._drop_ahead()

    def cancel(self, run_id: str) -> None:
        """Ends that run from another thread, whether it has begun or not: all its processes are gone in 5 s."""
        self._cancelled.add(run_id)

    def close(self) -> None:
        """Ends the spare judge and whatever runs."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()
        self._drop_ahead()

    def _begin(self, train_py: str, spec: RunSpec) -> tuple["Judge", bool]:
        """The judge of a run that begins now, and whether it was started ahead for it; else it is the spare one."""
        with self._lock:
            self._asked_for.add(spec.run_id)
            ahead = self._ahead
            if ahead is not None and (ahead.train_py, ahead.spec) == (train_py, spec) and ahead.judge.waits:
                self._ahead = None
                ahead.judge.send({"go": True})
                return ahead.judge, True
        if ahead is not None and ahead.judge.ended_as == "oom":
            self._doubt_room(ahead.train_py)
        self._drop_ahead()
        return self._take_for(train_py, spec), False

    def _take_for(self, train_py: str, spec: RunSpec) -> "Judge":
        """A judge that begins with the run."""
        with self._lock:
            judge = self._take()
        judge.send({"spec": asdict(spec), "train_py": train_py})
        return judge

    def _blame(self, outcome: RunResult | str, train_py: str) -> RunResult | str:
        """What a failure says: where another run was started beside this one, nothing about this one."""
        with self._lock:
            had_company = self._ahead is not None
            if not had_company and train_py == self._suspect:
                self._room_ahead, self._suspect = True, ""
        if not had_company:
            return outcome
        self._doubt_room(train_py)
        self._drop_ahead()
        how = outcome if isinstance(outcome, str) else f"{outcome.status}: {outcome.reason}"
        return f"it failed while the next run started beside it ({how})"

    def _doubt_room(self, train_py: str) -> None:
        """Starts nothing ahead any more, unless `train_py` fails alone, too."""
        with self._lock:
            self._room_ahead, self._suspect = False, train_py

    def _drop_ahead(self) -> None:
        """Ends what was started ahead, and clears its run folder."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.judge.end()
            shutil.rmtree(ahead.spec.run_folder, ignore_errors=True)

    def _take(self) -> "Judge":
        """The spare judge, or a new one. Whoever calls this holds the lock."""
        judge, self._spare = self._spare, None
        return judge if judge is not None and judge.alive else Judge(self._command, judge_environment(self.device))

    def _give_back(self, judge: "Judge") -> None:
        """Lets a judge that did its run stand by for the next."""
        with self._lock:
            if not self._closed and self._spare is None and judge.alive:
                self._spare = judge
                return
        judge.end()

    def _follow(self, judge: "Judge", spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult | str:
        """Reads the judge's messages until the result, or until it is clear why there will be none."""
        last_heard = time.monotonic()
        while True:
            if spec.run_id in self._cancelled or self._closed:
                return CANCELLED
            judge.watch()
            try:
                message = judge.messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not judge.alive:  # what it started holds its output open
                    return judge.epitaph()
                if time.monotonic() - last_heard > self._silence_seconds:
                    return f"the judge said nothing for {self._silence_seconds:.0f} s"
                continue
            last_heard = time.monotonic()
            if message is None:
                return judge.epitaph()
            if message["event"] == "result":
                return _result(message, spec)
            if message["event"] == "progress":
                on_progress(message)


class Judge:
    """One judge process, from standing by to its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.messages: queue.Queue[Progress | None] = queue.Queue()
        """What it says; None when it can say no more."""
        self.ended_as: str | None = None
        """The status of its last run, once that has ended; None while it has no run, or runs one."""
        self.was_asked = False
        """Of a run that was started ahead: whether it has gone on since it was asked for."""
        self._has_run = False
        self._tree: set[psutil.Process] = set()
        self._watched = 0.0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        # a session of its own: Ctrl-C in the terminal is for the farm, which ends its judges in order
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=dict(environment),
            cwd=package_folder(),
            start_new_session=True,
        )
        threading.Thread(target=self._read, name=f"judge-{self._process.pid}", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def waits(self) -> bool:
        """Of one that has a run: whether that goes on."""
        return self.alive and self.ended_as is None

    def send(self, message: Mapping[str, Any]) -> None:
        """Hands over the run. A judge that is gone is noticed by its silence, not here."""
        assert self._process.stdin is not None
        self._has_run, self.ended_as, self.was_asked = True, None, False
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.messages.put(None)

    def watch(self) -> None:
        """Notes the processes that it has started, from time to time."""
        if time.monotonic() - self._watched > WATCH_SECONDS:
            self._tree.update(_descendants(self._process.pid))
            self._watched = time.monotonic()

    def epitaph(self) -> str:
        """Why a judge ended that gave no result: its exit status and its last words."""
        try:
            code = self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            return "the judge closed its output without a result"
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        last = self._last_words()
        return f"the judge died without a result ({how}{': ' + last if last else ''})"

    def end(self) -> None:
        """Ends the judge and all that it started: at once if it has no run or is gone, else within about END_SECONDS."""
        assert self._process.stdin is not None
        if not self._has_run:  # it may be importing torch, and hear nothing meanwhile
            self._process.kill()
        self._tree.update(_descendants(self._process.pid))
        with contextlib.suppress(OSError):  # it was gone before it read what was sent
            self._process.stdin.close()
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._tree.update(_descendants(self._process.pid))
            self._process.kill()
            self._process.wait()
        for process in self._tree:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil checks the start time: a pid that was given anew is left alone
        deadline = time.monotonic() + 1.0
        while any(map(_is_alive, self._tree)) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stderr.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # some library wrote to standard output
                if isinstance(message, dict) and "event" in message:
                    self.was_asked |= message["event"] == "asked"
                    if message["event"] == "result":
                        self.ended_as = str(dict(message.get("result") or {}).get("status"))
                    self.messages.put(message)
        self.messages.put(None)

    def _last_words(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""


def compile_processes(threads: int) -> int:
    """How many processes the compiler of each of a run's three children may start; its default is one for each of up to 32
    cores, however many runs the machine has.
    """
    return min(32, max(1, threads // 2))


def judge_environment(device: Device, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What of the environment `base` a judge on `device` gets: no keys, that one GPU and its share of the threads."""
    environment = {name: value for name, value in base.items() if _passes(name)}
    environment["CUDA_VISIBLE_DEVICES"] = (device.uuid or str(device.index)) if device.kind == "cuda" else ""
    environment["OMP_NUM_THREADS"] = str(device.threads)
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = str(compile_processes(device.threads))
    return environment


def _passes(name: str) -> bool:
    if any(word in name.upper() for word in SECRET_WORDS):
        return False
    return name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)


def _result(message: Progress, spec: RunSpec) -> RunResult | str:
    try:
        result = RunResult.from_json(json.dumps(message["result"]))
    except (KeyError, TypeError, ValueError) as error:
        return f"the judge's result can't be read ({error})"
    if result.run_id != spec.run_id:
        return f"the judge answered for run {result.run_id}, not for {spec.run_id}"
    return result


def _failed(outcome: RunResult | str) -> bool:
    """Whether memory may have been the reason; it runs out under many names, also in the judge itself."""
    return outcome != CANCELLED if isinstance(outcome, str) else outcome.status in ("oom", "crash")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []
