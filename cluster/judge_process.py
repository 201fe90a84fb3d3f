"""A judge's process, as its worker handles it: started, given runs, listened to, and ended.

A judge process stands by with torch imported, so that a run starts at once: it forks a new judge for each run, which
shares nothing with earlier runs. When the pipe to its standard input closes, it ends itself and everything that it started:
whatever happens to the farm's process, no training outlives it.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import psutil

from cluster.hardware import Device
from cluster.home import package_folder
from research.result import Placement, RunSpec

JUDGE_COMMAND = (sys.executable, "-m", "research.run", "--serve")

PASSED_NAMES = (
    *("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"),
)
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "AUTORESEARCH_")
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""A variable with one of these in its name is not passed on, even if its prefix is one of PASSED_PREFIXES."""

SILENCE_SECONDS = 1800.0
"""A judge that says nothing for so long hangs; the longest silence of a healthy one is a cold compilation."""

END_SECONDS = 3.0
"""How long a judge has to end its own processes (it promises 2 s) before the worker kills them."""

POLL_SECONDS = 0.2
"""How often a worker that listens to a judge checks whether the run was cancelled."""

WATCH_SECONDS = 2.0
"""How often the worker notes a judge's processes, so that it can end them if the judge itself was killed."""

CANCELLED = "cancelled"
"""The outcome of a run that was cancelled."""

Progress = dict[str, Any]


class JudgeProcess:
    """One judge process, from standing by to its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.messages: queue.Queue[Progress | None] = queue.Queue()
        """The judge's messages; None when there will be no more."""
        self.ended_as: str | None = None
        """The status of its last run, once that has ended; None before its first run and during a run."""
        self.has_resumed = False
        """Whether a speculative run has confirmed that it resumed after it was claimed."""
        self._has_run = False
        self._unstarted: str | None = None
        self._tree: set[psutil.Process] = set()
        self._watched = 0.0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        # its own session: Ctrl-C in the terminal is for the farm, which ends its judges in order
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
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def runs(self) -> bool:
        """Whether the run that it was given has neither ended nor died; a speculative run may be waiting to be claimed."""
        return self.alive and self.ended_as is None

    def start_run(self, train_py: str, spec: RunSpec, placement: Placement, *, speculative: bool = False) -> None:
        """Gives the judge a run. A speculative one waits before its clock starts, until `claim`."""
        self._has_run, self.ended_as, self.has_resumed = True, None, False
        try:
            placement.write_train_py(train_py)
        except OSError as error:
            self._unstarted = f"the run's folder can't be written ({error})"
            self.messages.put(None)
            return
        request = {"spec": asdict(spec), "placement": asdict(placement)}
        self._send(request | ({"ahead": True} if speculative else {}))

    def claim(self) -> None:
        """Tells the judge that its speculative run is requested."""
        self._send({"go": True})

    def outcome(self, on_progress: Callable[[Progress], None], *, cancelled: Callable[[], bool],
                silence_seconds: float) -> Progress | str:  # fmt: skip
        """Listens to the judge until its result, and returns that as parsed JSON, or the reason why there will be none."""
        last_heard = time.monotonic()
        while not cancelled():
            self._watch()
            try:
                message = self.messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not self.alive:  # its output is still open: a process that it started holds it
                    return self._death()
                if time.monotonic() - last_heard > silence_seconds:
                    return f"the judge said nothing for {silence_seconds:.0f} s"
                continue
            last_heard = time.monotonic()
            if message is None:
                return self._death()
            if message["event"] == "result":
                return message
            if message["event"] == "progress":
                on_progress(message)
        return CANCELLED

    def end(self) -> None:
        """Ends the judge and all that it started: at once if it has no run or is gone, else within about END_SECONDS."""
        assert self._process.stdin is not None
        if not self._has_run:  # while it imports torch it notices nothing else
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
                process.kill()  # psutil compares the start time, so a process that got the same pid since is left alone
        deadline = time.monotonic() + 1.0
        while any(map(_is_alive, self._tree)) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stderr.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        """Writes one line to the judge. If the judge is gone, `outcome` reports it, not this."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.messages.put(None)

    def _read(self) -> None:
        """Puts the judge's messages into the queue; runs in its own thread."""
        assert self._process.stdout is not None
        try:
            with self._process.stdout as lines:
                for line in lines:
                    self._take(line)
        finally:  # whoever listens must hear of the end, whatever ended it
            self.messages.put(None)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return  # some library wrote to standard output
        if isinstance(message, dict) and "event" in message:
            self.has_resumed |= message["event"] == "asked"
            if message["event"] == "result":
                self.ended_as = str(dict(message.get("result") or {}).get("status"))
            self.messages.put(message)

    def _watch(self) -> None:
        """Notes the processes that the judge has started, every WATCH_SECONDS."""
        if time.monotonic() - self._watched > WATCH_SECONDS:
            self._tree.update(_descendants(self._process.pid))
            self._watched = time.monotonic()

    def _death(self) -> str:
        """How a judge that gave no result ended: its exit status and the last line of its standard error."""
        if self._unstarted is not None:
            return self._unstarted
        try:
            code = self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            return "the judge closed its output without a result"
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        last = self._last_line()
        return f"the judge died without a result ({how}{': ' + last if last else ''})"

    def _last_line(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""


def judge_environment(device: Device, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a judge on `device`: the part of `base` without secrets, with that one GPU and its share of the
    threads.
    """
    environment = {name: value for name, value in base.items() if _passes(name)}
    environment["CUDA_VISIBLE_DEVICES"] = (device.uuid or str(device.index)) if device.kind == "cuda" else ""
    environment["OMP_NUM_THREADS"] = str(device.threads)
    environment["PYTHONUTF8"] = "1"  # train.py is UTF-8, whatever the terminal's encoding is
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = str(compile_processes(device.threads))
    return environment


def compile_processes(threads: int) -> int:
    """How many processes the compiler of each of a run's three children may start. Its own default is one per core, up to 32,
    however many runs the machine executes.
    """
    return min(32, max(1, threads // 2))


def _passes(name: str) -> bool:
    if any(word in name.upper() for word in SECRET_WORDS):
        return False
    return name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)


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
