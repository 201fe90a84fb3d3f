"""Children of the judge: started with a clean environment, measured from outside, and ended with everything they started."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Protocol

import psutil

from research.contract import CONTRACT_VARIABLE, Contract
from research.files import research_folder
from research.ipc.channel import Channel
from research.kernels.compile_cache import link_shared
from research.sandbox.layers import Sandbox, enter
from research.sandbox.linux import die_with_parent

PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
    "OMP_NUM_THREADS",
)  # fmt: skip
"""Environment variables that reach a run; keys and all else do not."""

MAX_LOG_BYTES = 8 * 2**20

MAX_LINE_BYTES = 2**16

MAX_TAIL_LINE = 1000
"""Characters of a line that the log's tail holds at most."""

_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]"
    "|[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"  # which nobody sees, or which turn text round
)
_LOOKS_LIKE_SUMMARY = re.compile(
    r"^(---|(val_bpb|training_seconds|total_seconds|peak_vram_mb|mfu_percent|total_tokens_M|num_steps|num_params_M|depth)\s*:)"
)


def child_environment(contract: Contract, *, threads: int | None, **settings: str | int) -> dict[str, str]:
    """The environment of a run: PASSED_ON, where the farm's code lies, the contract, and `settings` for this child."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    code = str(research_folder().parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [code, environment.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if threads is not None:
        environment["AUTORESEARCH_THREADS"] = environment["OMP_NUM_THREADS"] = str(threads)
    environment[CONTRACT_VARIABLE] = contract.to_json()
    return environment | {f"AUTORESEARCH_{name.upper()}": str(value) for name, value in settings.items()}


class Child:
    """One child process with a channel to it and its output going to a log.

    On Linux it is forked off this process, which has torch imported and has used neither a device nor threads: importing torch
    anew takes seconds. `main` finds its settings in the environment and its folder as the working directory.
    """

    def __init__(self, main: Callable[[], None], *, folder: Path, environment: Mapping[str, str], log: "Log",
                 sandbox: Sandbox | None) -> None:  # fmt: skip
        self.channel, theirs = Channel.pair()
        self._output, output = os.pipe()
        settings = {**environment, "AUTORESEARCH_CHANNEL": str(theirs.fileno())}
        with theirs:
            if sys.platform == "linux":
                self.process: _Process = _fork(main, folder, settings, sandbox, channel=theirs.fileno(), output=output)
            else:
                self.process = _spawn(main, folder, settings, channel=theirs.fileno(), output=output)
        os.close(output)
        self.log = log
        self._pump = threading.Thread(target=self._copy_output, daemon=True)

    @property
    def pid(self) -> int:
        return self.process.pid

    def follow_output(self) -> None:
        """Begins to copy the child's output to its log. Fork no child after this: it starts a thread."""
        self._pump.start()

    def exit_code(self) -> int | None:
        """The exit code, once the process has ended and its output is in the log."""
        code = self.process.poll()
        if code is None:
            return None
        self._join_pump()
        return 128 - code if code > 128 else code  # how a process that waits for another passes a signal on

    def kill(self) -> None:
        """Ends the process and its session (which it may not have opened yet)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Closes the log and the channel of an ended process."""
        self._join_pump()
        self.log.close()
        self.channel.close()

    def _join_pump(self) -> None:
        if self._pump.is_alive():
            self._pump.join(timeout=1.0)

    def _copy_output(self) -> None:
        with os.fdopen(self._output, "rb") as pipe:
            self.log.copy_from(pipe)


class _Process(Protocol):
    pid: int

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


class _Forked:
    """What subprocess.Popen is for a process that was executed, for one that was forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._collect(os.WNOHANG)

    def wait(self) -> int:
        code = self._collect(0)
        assert code is not None
        return code

    def _collect(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _fork(main: Callable[[], None], folder: Path, settings: Mapping[str, str], sandbox: Sandbox | None, *, channel: int,
          output: int) -> _Process:  # fmt: skip
    pid = os.fork()
    if pid:
        return _Forked(pid)
    code = 1
    try:
        _become_child(folder, settings, channel=channel, output=output)
        if sandbox is not None:
            die_with_parent()
            enter(sandbox, folder, channel=channel)
        link_shared()
        main()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            code = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise AssertionError("unreachable")


def _become_child(folder: Path, settings: Mapping[str, str], *, channel: int, output: int) -> None:
    """Leaves behind what belongs to the judge: session, descriptors, signal handlers, environment, working directory."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.closerange(3, channel)
    os.closerange(channel + 1, 65536)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    _wipe_first_environment()
    os.environ.update(settings)
    os.chdir(folder)
    tempfile.tempdir = None
    sys.argv = ["train.py"]
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115


def _wipe_first_environment() -> None:
    """Overwrites what /proc/self/environ shows of the environment that the judge itself was started with."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end; 0 where they are kept from this process
    ctypes.memset(start, 0, end - start)


def _spawn(main: Callable[[], None], folder: Path, settings: Mapping[str, str], *, channel: int, output: int) -> _Process:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", main.__module__],
        cwd=folder,
        env=dict(settings),
        pass_fds=[channel],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def end_children(children: Iterable[Child], *, spare: Iterable[Child] = ()) -> list[int]:
    """Ends children and every process that any of them started, whatever session it hides in.

    The children `spare` live on. Returns the ids of processes that could not be ended, normally none.
    """
    ending = list(children)
    for child in ending:
        child.kill()
    left = kill_descendants(spare=[child.pid for child in spare])
    for child in ending:
        child.close()
    return left


class Log:
    """A bounded text log of a child. Control characters are dropped, and no line can pass for the judge's summary."""

    def __init__(self, path: Path | None, *, echo: Callable[[str], None] | None = None) -> None:
        self._file = path.open("w", encoding="utf-8") if path else None
        self._echo = echo
        self._tail: list[str] = []
        self._bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def copy_from(self, pipe: IO[bytes]) -> None:
        """Copies a pipe line by line until it ends; a line longer than MAX_LINE_BYTES becomes several."""
        while raw := pipe.readline(MAX_LINE_BYTES):
            for line in re.split(r"\r\n|\r|\n", raw.decode("utf-8", "replace").rstrip("\r\n")):
                self.write(_harmless(line) + "\n")

    def write(self, text: str) -> None:
        with self._lock:
            if self._closed:
                return
            self._tail = [*self._tail[-79:], text if len(text) <= MAX_TAIL_LINE else f"{text[:MAX_TAIL_LINE]}...\n"]
            if self._bytes > MAX_LOG_BYTES:
                return
            self._bytes += len(text)
            if self._bytes > MAX_LOG_BYTES:
                text = "[the log is cut here: it passed its limit]\n"
            if self._file is not None:
                self._file.write(text)
                self._file.flush()
                if self._echo:
                    self._echo(text)

    @property
    def closed(self) -> bool:
        return self._closed

    def tail(self, lines: int = 50) -> str:
        """The last lines."""
        with self._lock:
            return "".join(self._tail[-lines:])

    def close(self) -> None:
        """After this, nothing that the child prints is kept."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


def _harmless(line: str) -> str:
    clean = _CONTROL.sub("", line)
    return f"| {clean}" if _LOOKS_LIKE_SUMMARY.match(clean) else clean


def kill_descendants(*, spare: Iterable[int] = (), within: float = 10.0) -> list[int]:
    """Kills every descendant of this process but the processes `spare` and theirs; returns what is left.

    A fork bomb is stopped first and killed then, in rounds, until none is left or `within` seconds have passed.
    """
    spared = set(spare)
    deadline = time.monotonic() + within
    while True:
        living = _descendants_but(spared)
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for child in living:
                with contextlib.suppress(psutil.Error):
                    child.send_signal(signal_number)
        reap(living)
        living = [child for child in living if _is_alive(child)]
        if not living and not _descendants_but(spared):
            return []
        if time.monotonic() > deadline:
            return [child.pid for child in living]
        time.sleep(0.01)


def _descendants_but(spared: set[int]) -> list[psutil.Process]:
    """The descendants of this process without the processes `spared` and their descendants.

    Each walk below a process reads all of /proc, so there is one for each of the few spared: one for each descendant grows
    with the square of a fork bomb, which outlasted it.
    """
    found = psutil.Process().children(recursive=True)
    kept = set(spared)
    for pid in spared:
        with contextlib.suppress(psutil.Error):
            kept.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return [child for child in found if child.pid not in kept]


def reap(children: Iterable[psutil.Process]) -> None:
    """Collects ended orphans; direct children are collected by subprocess."""
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
