"""Commands of the farm in processes forked off one that has imported it, torch and Ray: a new Python takes seconds for that.

The judge that such a farm starts is forked off the farm, or off a process that the test has. Evaluation has an eighth of the
`cpu` profile's rows, a baseline has one run, a training that hangs is given up after 0.5 s instead of 5, the machine's load
is measured for a moment, and progress.png isn't drawn, unless the test says so. What runs leave in the page cache stays,
since erasing it takes a second a run, and the layers of the sandbox are probed once for all commands and runs, which takes
each a fifth of a second. A test of what follows from results may have them from quick_judge.py. What is started as a user
does it, and takes those seconds, is in test_farm.py and ray_cluster/test_jobs.py.
"""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from research.sandbox.layers import Layers
from tests.cluster import quick_judge
from tests.cluster import warm_python as warm
from tests.research.judged import CONTEXT, layers_here, wait_for
from tests.results.new_home import copy_tables, empty_database

CONTEXT.set_forkserver_preload(
    [
        *("research.run", "ray", "tiktoken", "matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.patheffects"),
        *("pandas", "pyarrow.pandas_compat", "scipy.special"),  # Arrow imports pandas where it is installed
        *("cluster.cli", "cluster.driver", "cluster.commands.look", "cluster.commands.research", "cluster.by_hand"),
        *("cluster.doctor", "cluster.engine_choice", "cluster.researcher_choice", "cluster.dashboard.serving"),
        *("results.store", "results.query_server", "agent.researchers.scripted", "tests.cluster.farm_samples"),
        "tests.research.huge_pages",
    ]
)
EVAL_TOKENS = 2**13
WARM = frozenset({"results.query_server", "agent.text_reader", "cluster.dashboard.serving", "cluster.trackers.sender"})
"""The modules that run in processes of their own beside a farm, which warm_python.py starts in a tenth of the time."""
QUICK_JUDGE = (sys.executable, "-S", "-E", quick_judge.__file__)
SERVES = ("-m", "research.run", "--serve")


@dataclass(frozen=True, kw_only=True)
class Cheaper:
    """What a forked farm does otherwise than a user's, to take less time."""

    baseline_runs: int = 1
    draws: bool = False
    """Whether progress.png is drawn, which takes half a second of computing."""
    has_quick_judge: bool = False
    """Whether runs are judged by quick_judge.py, which trains nothing."""
    judge_seconds: float | None = None
    """How long that judge takes for a run at most, whatever its time budget is; None: the budget."""
    ray_judge: tuple[str, ...] | None = None
    """The command of the judges that its workers on Ray start; None: the one that ships."""


CHEAPER = Cheaper()


def farm_command(arguments: list[str]) -> int:
    """What `farm` with these arguments does in its process."""
    from cluster import cli

    return cli.main(arguments)


class ForkedFarm:
    """What the tests use of a Popen of `python -m cluster.cli`. It leads a process group of its own."""

    def __init__(self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: Path,
                 cheaper: Cheaper = CHEAPER, umask: int = 0o022,
                 program: Callable[[list[str]], int] = farm_command) -> None:  # fmt: skip
        """Both streams go to the file `output`. `program` is a module's function."""
        self._output = output
        given = (list(arguments), str(folder), dict(environment), str(output))
        started = (*given, cheaper, umask, program, layers_here(), warm_python(), empty_database())
        self._process = CONTEXT.Process(target=_farm, args=started)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def printed(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it printed, once it has ended. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("farm", timeout or 0.0)
        return self._output.read_text(), None


def _farm(arguments: list[str], folder: str, environment: dict[str, str], output: str, cheaper: Cheaper, umask: int,
          program: Callable[[list[str]], int], layers: Layers, python: tuple[str, ...], tables: bytes) -> None:  # fmt: skip
    """Runs in a process of its own."""
    os.setsid()
    os.umask(umask)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become(folder, environment, *(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for path in (os.devnull, output)))
    from cluster import doctor, machine_load
    from cluster.farm_options import FarmOptions
    from research import profiles
    from research.judge.clock import Caps

    for_run = Caps.for_run
    Caps.for_run = lambda spec, device: replace(for_run(spec, device), late=0.5)  # type: ignore[method-assign]

    cpu = profiles.PROFILES["cpu"]
    profiles.PROFILES["cpu"] = replace(cpu, contract=replace(cpu.contract, EVAL_TOKENS=EVAL_TOKENS))
    FarmOptions.__init__.__kwdefaults__["baseline_runs"] = cheaper.baseline_runs
    machine_load.measure_cpu_use.__defaults__ = (0.05,)
    make_judges_cheaper(layers)
    doctor.probe = lambda view: layers  # type: ignore[attr-defined]
    if not cheaper.draws:
        from cluster import history_export

        history_export.HistoryExport._draw_changed = lambda self, draw, *, until: None  # type: ignore[method-assign]
    if cheaper.ray_judge is not None:
        from cluster.ray_cluster import engine

        engine.RayEngine = partial(engine.RayEngine, judge_command=cheaper.ray_judge)  # type: ignore[assignment, misc]
    if cheaper.has_quick_judge:
        from cluster.engine import LocalEngine

        assert LocalEngine.__init__.__kwdefaults__ is not None
        seconds = () if cheaper.judge_seconds is None else (str(cheaper.judge_seconds),)
        LocalEngine.__init__.__kwdefaults__["judge_command"] = (*QUICK_JUDGE, *seconds)
    copy_tables(pytest.MonkeyPatch(), tables)
    _JudgeForking.python = python
    subprocess.Popen = _JudgeForking  # type: ignore[misc]
    sys.exit(program(arguments))


def make_judges_cheaper(layers: Layers) -> None:
    """Lets the judges of this process, and of those forked off it, erase nothing and take these layers of the sandbox."""
    from research.judge import confinement
    from research.judge.traces import Traces

    Traces.erase = lambda self: None  # type: ignore[method-assign]
    confinement.probe = lambda view: layers  # type: ignore[assignment, attr-defined]


def become(folder: str, environment: Mapping[str, str], stdin: int, stdout: int, stderr: int | None = None) -> None:
    """Takes over a working directory, an environment and standard streams, as a new process would."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, descriptor in enumerate((stdin, stdout, stdout if stderr is None else stderr)):
        os.dup2(descriptor, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115


@cache
def warm_python() -> tuple[str, ...]:
    """A command like `python`, of which `-m MODULE ARGUMENTS` need not import what the farm's modules need."""
    folder = tempfile.TemporaryDirectory()  # short: paths of sockets are limited
    atexit.register(folder.cleanup)
    path = f"{folder.name}/forks"
    CONTEXT.Process(target=warm.serve, args=(path, layers_here()), daemon=True).start()
    wait_for(Path(path).exists, seconds=120)
    return (sys.executable, "-S", "-E", warm.__file__, path)


def warm_command(args: Any, python: Callable[[], tuple[str, ...]]) -> Any:
    """A command by warm_python.py if it is that of a module in WARM; else as it is."""
    words = tuple(args) if isinstance(args, list | tuple) else ()
    return [*python(), *words[1:]] if words[1:2] == ("-m",) and words[2:3] and words[2] in WARM else args


class WarmPopen(subprocess.Popen):  # type: ignore[type-arg]
    """Starts the modules in WARM by warm_python.py."""

    def __init__(self, args: Any, **named: Any) -> None:
        super().__init__(warm_command(args, warm_python), **named)


class _JudgeForking(subprocess.Popen):  # type: ignore[type-arg]
    """Forks this process where the command is the judge's, which torch need not be imported for again."""

    python: tuple[str, ...] = ()
    """The command that starts the modules in WARM."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any,
                       startupinfo: Any, creationflags: Any, shell: Any, *rest: Any) -> None:  # fmt: skip
        given = (executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *rest)
        if tuple(args)[1:] != SERVES:
            super()._execute_child(warm_command(args, lambda: self.python), *given)  # type: ignore[misc]
            return
        streams = rest[:6]
        self.pid = os.fork()
        if self.pid == 0:
            stdin, _, _, stdout, _, stderr = streams
            _judge(str(cwd), env, stdin, stdout, stderr)
        self._child_created = True
        self._close_pipe_fds(*streams)  # type: ignore[attr-defined]


def _judge(folder: str, environment: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> None:
    """Runs in a process of its own, and never returns."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        become(folder, environment, stdin, stdout, stderr)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        from research.run import main

        code = main(["--serve"])
        sys.stdout.flush()
    finally:
        os._exit(code)
