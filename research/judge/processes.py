"""The judge's children: started with a clean environment, and ended with every process that they started."""

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, cast

from research.child import scorer, trainer
from research.child_settings import ChildSettings
from research.files import research_folder
from research.ipc.channel import Channel
from research.judge.log import Log
from research.kernels.compile_cache import link_shared
from research.sandbox.descendants import Slices, kill_descendants, pause_tree, resume_tree
from research.sandbox.layers import Sandbox, enter
from research.sandbox.linux import die_with_parent

TRAINER = "trainer"
SCORERS = ("scorer-a", "scorer-b")
CHILDREN = (TRAINER, *SCORERS)
"""Names of a run's children."""

PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
    "OMP_NUM_THREADS",
)  # fmt: skip
"""Environment variables of the judge that reach its children; API keys and all others do not."""


def child_environment(*, threads: int | None) -> dict[str, str]:
    """The environment of a child: PASSED_ON, the path of the farm's code, and OMP_NUM_THREADS."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    code = str(research_folder().parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [code, environment.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a child is started with."""

    folder: Path
    """Its working folder, which holds its train.py."""
    settings: ChildSettings
    environment: Mapping[str, str]
    sandbox: Sandbox | None


class Child:
    """One child process, with a channel to it and its output going to a log.

    On Linux it is forked off this process, which has torch imported and has used neither a device nor threads: importing torch
    again takes seconds. It is forked before this process knows anything of the run, since all that this process has read could
    be found in the child's memory, and does nothing until `start`: it has neither entered its sandbox nor read a file.
    """

    def __init__(self, main: Callable[[], None], *, name: str) -> None:
        """`main` runs in the child's working folder and finds its settings in the environment."""
        self.name = name
        self.log = Log(None)
        self.has_begun = False
        """Whether it has said that it is in its sandbox and begins with train.py."""
        self.channel, self._theirs = Channel.pair()
        self._main = main
        self._output, self._writes = os.pipe()
        self._pump = threading.Thread(target=self._copy_output, daemon=True)
        self._process: _Process | None = None
        self._has_namespaces = False
        self._paused: Slices | None = None
        if sys.platform == "linux":
            waits, self._order = os.pipe()
            self._process = _fork(main, channel=self._theirs.fileno(), output=self._writes, order=waits)
            os.close(waits)

    def start(self, start: Start, log: Log) -> None:
        """Lets the process begin; its output goes to `log`. No child may be forked after this: it starts a thread."""
        self.log = log
        self._has_namespaces = start.sandbox is not None and start.sandbox.layers.namespaces
        settings = replace(start.settings, channel=self._theirs.fileno())
        variables = {**start.environment, **settings.environment()}
        if self._process is None:
            self._process = _spawn(self._main, start.folder, variables, channel=self._theirs.fileno(), output=self._writes)
        else:
            with os.fdopen(self._order, "wb") as order:
                pickle.dump((start.folder, variables, start.sandbox), order)
        self._let_go()
        self._pump.start()

    @property
    def exists(self) -> bool:
        """Whether there is a process, which lives or has ended. Elsewhere than on Linux there is none before `start`."""
        return self._process is not None

    @property
    def process(self) -> "_Process":
        assert self._process is not None, "it has not been started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def exit_code(self) -> int | None:
        """The exit code, once the process has ended and its output is in the log."""
        code = self.process.poll()
        if code is None:
            return None
        self._join_pump()
        return 128 - code if code > 128 else code  # a process that waits for another reports that one's signal this way

    def was_killed_from_outside(self) -> bool:
        """Whether a signal ended it that nothing in its sandbox can have sent.

        With namespaces the processes that only wait for it are out of its reach, and turn a signal that ended it into an exit
        status: if one of them died of a signal, somebody else sent that. Without namespaces nothing tells who it was.
        """
        code = self.process.poll()
        return self._has_namespaces and code is not None and code < 0

    def pause(self) -> bool:
        """Stops the process and all that it started, so that it computes nothing until `resume`. Returns whether it could."""
        self._paused = pause_tree(self.pid)
        return self._paused is not None

    def resume(self) -> bool:
        """Lets the process and all that it started go on. Returns whether they computed nothing meanwhile."""
        return resume_tree(self.pid, self._paused or {}) and self._paused is not None

    def kill(self) -> None:
        """Kills the process and its session (which it may not have created yet)."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Closes the log and the channel of an ended process."""
        if self._theirs.fileno() >= 0:  # it was never started
            self._let_go()
            os.close(self._output)
            if self._process is not None:
                os.close(self._order)
        self._join_pump()
        self.log.close()
        self.channel.close()

    def _let_go(self) -> None:
        """Closes this process's copies of the child's ends, so that they end with the child."""
        self._theirs.close()
        os.close(self._writes)

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
    """A forked process, with the methods of subprocess.Popen that are needed here."""

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


def _fork(main: Callable[[], None], *, channel: int, output: int, order: int) -> "_Process":
    """Forks a process that runs `main`, inside the sandbox, once it can read from `order` with what."""
    pid = os.fork()
    if pid:
        return _Forked(pid)
    code = 1
    try:
        _leave_the_judge(output=output, kept=(channel, order))
        die_with_parent()
        sandbox = _take_order(order)
        if sandbox is not None:
            enter(sandbox, Path.cwd(), channel=channel)
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


def _leave_the_judge(*, output: int, kept: Sequence[int]) -> None:
    """Replaces what belongs to the judge: session, descriptors but for those `kept`, signal handlers, environment."""
    os.setsid()
    with contextlib.suppress(OSError):  # if memory runs out, the kernel ends a run before its judge
        Path("/proc/self/oom_score_adj").write_text("1000")
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for first, last in pairwise([2, *sorted(kept), 65536]):
        os.closerange(first + 1, last)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    _wipe_first_environment()
    sys.argv = ["train.py"]
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115


def _take_order(order: int) -> Sandbox | None:
    """Waits until the judge says where this process works, in which environment and sandbox. Ends it if the judge is gone."""
    with os.fdopen(order, "rb") as words:
        try:
            folder, environment, sandbox = pickle.load(words)
        except EOFError:
            raise SystemExit(0) from None
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None
    return cast("Sandbox | None", sandbox)


def _wipe_first_environment() -> None:
    """Overwrites the environment that the judge itself was started with, which /proc/self/environ shows."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end; 0 if this process may not see them
    ctypes.memset(start, 0, end - start)


def _spawn(main: Callable[[], None], folder: Path, environment: Mapping[str, str], *, channel: int, output: int) -> _Process:
    """Starts the module of `main` as a new Python process."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", main.__module__],
        cwd=folder,
        env=dict(environment),
        pass_fds=[channel],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class Children:
    """The three children of a run. They stand by once this is made."""

    def __init__(self) -> None:
        self.trainer = Child(trainer.main, name=TRAINER)
        self.scorers = (Child(scorer.main, name=SCORERS[0]), Child(scorer.main, name=SCORERS[1]))
        self._all = (self.trainer, *self.scorers)
        self._alive = list(self._all)

    def pids(self) -> list[int]:
        """The ids of the processes that there are."""
        return [child.pid for child in self._all if child.exists]

    @property
    def have_begun(self) -> bool:
        """Whether any of them, alive or ended, has begun with train.py."""
        return any(child.has_begun for child in self._all)

    def end(self, *children: Child) -> None:
        """Kills these children and every process that any of them started, in whatever session; the other children live on.

        Raises RuntimeError if a process could not be killed.
        """
        ending = [child for child in children if child in self._alive]
        self._alive = [child for child in self._alive if child not in ending]
        for child in ending:
            child.kill()
        left = kill_descendants(spare=[child.pid for child in self._alive if child.exists])
        for child in ending:
            child.close()
        if left:
            raise RuntimeError(f"processes {left} could not be killed")

    def end_all(self) -> None:
        """Kills every child and all that they started. Raises RuntimeError if a process could not be killed."""
        self.end(*self._alive)
