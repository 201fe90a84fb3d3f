"""Commands of the farm in forked processes that are killed at a chosen place; nothing in the product knows of it."""

import asyncio
import errno
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from research.errors import UserError
from research.streams import refusal
from tests.cluster.forked_farm import CONTEXT

TAG = "one"
WRITES = ("before fsync", "before replace", "before rename", "before link")
"""How the names of the places begin at which a disk can be full."""

HANGS_SECONDS = 60.0
MARK = "AUTORESEARCH_KILLED_FARM"
"""The variable by which processes that a farm has left are found: its judges get it, too."""

GAINS = {"A": 0.05, "B": 0.04, "C": -0.05, "D": 0.03}
TEXT = '"""SCORED"""\n\n' + "".join(f"{name} = 0\n\n\ndef use_{name.lower()}():\n    return {name}\n\n\n" for name in GAINS)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int | None
    """Its exit status, or minus the signal that killed it; None if it hung."""
    output: str
    places: list[str]
    """Those that it came to, in order; the last one is where it was killed."""
    acknowledged: list[str]
    """The runs of which the store has said that they are on record."""
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def hangs(self) -> bool:
        return self.status is None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What the disk answers to a write, instead of a kill."""

    number: int
    """Of errno."""
    for_good: bool = False
    """Whether every later write fails, too."""

    def __str__(self) -> str:
        return f"{errno.errorcode[self.number]}{' for good' * self.for_good}"


def play(scenario: str, folder: Path, *, kill_at: int | None, during: bool = False, failure: Failure | None = None) -> Ended:
    """Plays a scenario's command in a process of its own that is killed at the place with this number, None: not.

    `during`: a git command is killed with it while it runs. `failure`: the next write fails instead, and nothing is killed.
    """
    if not folder.exists():
        prepare(folder)
    began = time.monotonic()
    traces = folder / "traces"
    traces.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_command, args=(scenario, str(folder), kill_at, during, failure))
    process.start()
    process.join(HANGS_SECONDS)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    lines = [json.loads(line) for line in traces.read_text().splitlines()] if traces.exists() else []
    output = (folder / "output").read_text() if (folder / "output").exists() else ""
    return Ended(
        status=status,
        output=output,
        places=[line["place"] for line in lines if "place" in line],
        acknowledged=[line["run"] for line in lines if "run" in line],
        seconds=time.monotonic() - began,
    )


def prepare(folder: Path) -> None:
    """A checkout, and nothing else."""
    from agent.repo.repository import make_repository

    folder.mkdir()
    os.environ.update({"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"})
    make_repository(folder / "repo", {"research/train.py": TEXT, "program.md": "Lower val_bpb.\n",
                                      ".gitignore": "results.tsv\nprogress.png\nrun.log\n"})  # fmt: skip


@dataclass(kw_only=True)
class Places:
    """Counts the places that a process comes to, and kills it at one of them."""

    traces: Path
    kill_at: int | None
    during: bool
    """Whether a git command is killed with the farm while it runs."""
    failure: Failure | None
    """What happens there instead of a kill."""
    has_failed: bool = False
    count: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def note(self, **fields: str) -> None:
        file = os.open(self.traces, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, json.dumps(fields).encode() + b"\n")
        os.close(file)

    def come_to(self, place: str, *, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.note(place=place)
        self.count += 1
        if self.failure is not None:
            self._fail_at(place, self.failure)
        elif self.count - 1 == self.kill_at:
            if process is not None and self.during:
                time.sleep(self.chance.random() * 0.004)
                process.kill()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def _fail_at(self, place: str, failure: Failure) -> None:
        """Raises what the disk answers from the first write after the chosen place on, once or for good."""
        is_due = self.kill_at is not None and self.count > self.kill_at and place.startswith(WRITES)
        if is_due and (failure.for_good or not self.has_failed):
            self.has_failed = True
            raise OSError(failure.number, os.strerror(failure.number))

    def around(self, holder: Any, name: str, place: Callable[..., str]) -> None:
        """Makes the beginning and the end of a function places."""
        function = getattr(holder, name)

        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            where = place(*arguments)
            self.come_to(f"before {where}")
            answer = function(*arguments, **named)
            self.come_to(f"after {where}")
            return answer

        setattr(holder, name, watched)


def watch(places: Places) -> None:
    """Makes places of all that changes something outside of this process."""
    from results import database, table_rows, table_writer
    from results.store import Store

    for name in ("fsync", "rename", "replace", "link"):
        places.around(os, name, lambda *arguments, name=name: f"{name} {_what(arguments[-1])}")
    for holder in (table_rows, table_writer, database):
        places.around(holder, "insert_many", lambda *_: "insertion of many rows")
    begin = subprocess.Popen.__init__

    def begun(self: Any, arguments: Any, *more: Any, **named: Any) -> None:
        where = _program([str(word) for word in ([arguments] if isinstance(arguments, str) else arguments)])
        places.come_to(f"before {where}")
        begin(self, arguments, *more, **named)
        places.come_to(f"during {where}", process=self)

    subprocess.Popen.__init__ = begun  # type: ignore[method-assign]
    add_run = Store.add_run

    def acknowledged(self: Store, experiment_id: str, run: Any) -> bool:
        added = add_run(self, experiment_id, run)
        places.note(run=run.run_id)
        return added

    Store.add_run = acknowledged  # type: ignore[method-assign]


def _program(words: list[str]) -> str:
    """What a command line starts, without what is different each time."""
    words = words[words.index("git") :] if "git" in words else words  # after `env`, which drops variables
    if Path(words[0]).name != "git":
        return f"start of {next(Path(word).name for word in reversed(words) if not word.startswith('-'))}"
    command = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    return f"git {command}"


def _what(target: object) -> str:
    """A file's name without what is different each time."""
    if isinstance(target, int):
        target = Path(f"/proc/self/fd/{target}").readlink()
    return Path(str(target)).name.lstrip(".").partition(".")[0] if "." in str(target) else "a folder"


def _command(scenario: str, folder: str, kill_at: int | None, during: bool, failure: Failure | None) -> None:
    """Runs in a process of its own."""
    os.setsid()
    home = Path(folder)
    output = os.open(home / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False, buffering=1), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.update({MARK: folder, "HOME": folder, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"})
    os.chdir(home / "repo")
    _make_cheap()
    watch(Places(traces=home / "traces", kill_at=kill_at, during=during, failure=failure))
    status = 1
    try:
        SCENARIOS[scenario](home)
        status = 0
    except UserError as error:
        print(f"farm: {error}")
        status = 2
    except OSError as error:  # as cluster/cli.py tells it
        told = refusal(error, checkout=home / "repo")
        if told is None:
            traceback.print_exc()
        else:
            print(f"farm: {told}")
            status = 2
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def _make_cheap() -> None:
    """Replaces what costs time and changes nothing that counts: data, the judge, pictures, pauses."""
    from cluster import history_export, loop_plans, loop_researcher, machine_load
    from cluster.engine import LocalEngine
    from tests.cluster.farm_samples import FAKE_JUDGE

    data = SimpleNamespace(
        folder=Path("/nowhere"), score_fingerprint=lambda contract: "s", data_fingerprint="d", hidden_paths=()
    )
    loop_plans.prepared_data = lambda *arguments, **named: data  # type: ignore[assignment]
    loop_researcher.agent_bounds = lambda *arguments: None  # type: ignore[assignment]
    history_export.HistoryExport._draw_changed = lambda self, draw, *, until: None  # type: ignore[method-assign]
    machine_load.measure_cpu_use.__defaults__ = (0.01,)
    assert LocalEngine.__init__.__kwdefaults__ is not None
    LocalEngine.__init__.__kwdefaults__["judge_command"] = FAKE_JUDGE


def options_of(home: Path, **changes: Any) -> Any:
    from cluster.farm_options import FarmOptions
    from cluster.home import Home
    from tests.cluster.farm_samples import CPU

    values = {"repo": home / "repo", "home": Home(home / "home"), "cache": home / "cache", "tag": TAG, "devices": (CPU,),
              "baseline_runs": 1, "profile": "cpu"}  # fmt: skip
    return FarmOptions(**{**values, **changes})


def run(home: Path, **changes: Any) -> None:
    """`farm run` with a script of ideas."""
    from cluster.display import PlainDisplay
    from cluster.driver import run_farm
    from results.journal import read_journal

    script = home / "script.json"
    script.write_text(json.dumps([{"title": name, "constants": {name: 1}} for name in GAINS]))
    before = list(read_journal(home / "home" / "journal.jsonl"))
    ends = [record for record in before if record.kind == "event" and record.body["kind"] == "the_end"]
    if ends:
        return
    asyncio.run(run_farm(options_of(home, researcher=f"scripted:{script}", **changes), PlainDisplay()))


def merge(home: Path) -> None:
    """`farm run` with two loops, whose ideas are merged into one head."""
    run(home, loops=2)


def attempt(home: Path) -> None:
    """`farm try` of one idea after another, each in the file until its command has ended."""
    from cluster.by_hand import try_once
    from cluster.display import PlainDisplay

    done = home / "done"
    train_py = home / "repo" / "research" / "train.py"
    for name in ("A", "C"):
        began, ended = home / f"began-{name}", home / f"ended-{name}"
        if ended.exists():
            continue
        if not began.exists():
            began.write_text(train_py.read_text().replace(f"{name} = 0", f"{name} = 1"))
            train_py.write_text(began.read_text())
        try:
            record = asyncio.run(try_once(options_of(home, researcher="search"), f"try {name}", PlainDisplay()))
        except UserError as refused:
            if "no edit to try" not in str(refused):
                raise
            print(refused)  # it had left its results when it was killed
        else:
            print(record.experiment.id, record.verdict)
        ended.touch()
    done.touch()


DETERMINISTIC = ("run", "try")
"""The scenarios whose experiments follow from ideas and seeds alone; loops at the same time can come in any order."""

SCENARIOS: dict[str, Callable[[Path], None]] = {"run": run, "merge": merge, "try": attempt}
"""What is killed, by name."""
