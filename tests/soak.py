"""Runs a real farm for a while, does something to it every few seconds, and proves that nothing was lost or doubled.

    uv run python tests/soak.py --minutes 30 --every 20 --seed 1

The farm is a process of its own, as a user starts it, with the real judge on the CPU profile and two loops that share a head.
A farm that a fault has ended is started again by the same command. The last line that is printed has the counts.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.journal import read_journal
from tests.cluster.tiny_checkout import hear_ctrl_c, make_checkout
from tests.killed_farm import MARK
from tests.left_by_a_farm import faults_of_git, faults_of_records, faults_of_tables, left_over

TERMS = ("--tag", "soak", "--devices", "cpu", "--budget", "1", "--loops", "2", "--researcher", "search")
END_SECONDS = 10.0
"""How long a farm may take to end when it is asked to."""

BEGIN_SECONDS = 120.0
"""How long a farm may take to begin a run: its train.py is rehearsed, and its data prepared."""

ENDLESS = "SELECT count(*) FROM range(1000000000000) a, range(1000000000) b"


class Soak:
    """A farm in a folder, and what has been done to it."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        checkout = make_checkout(folder / "repo", folder / "cache")
        self.folder, self.repo, self.home, self.chance = folder, checkout.folder, folder / "home", random.Random(seed)
        ours = {"AUTORESEARCH_CACHE": str(checkout.cache), "CUDA_VISIBLE_DEVICES": "", "RAY_TMPDIR": str(folder)}
        self._environment = {**os.environ, **ours, "XDG_STATE_HOME": str(folder / "state"), MARK: str(folder)}
        self._output = folder / "printed"
        self.farm: subprocess.Popen[bytes] | None = None
        self.recorded: set[str] = set()
        """The ids of all records that have been seen in the journal."""
        self.violations: list[str] = []
        self.done: Counter[str] = Counter()

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cluster.cli", *words, "--home", str(self.home)]

    def ask(self, *words: str) -> str:
        """What another command prints; a traceback is a violation."""
        told = subprocess.run(self.command(*words), cwd=self.repo, env=self._environment, capture_output=True, text=True)
        output = told.stdout + told.stderr
        self._check_words(output, " ".join(words))
        return output

    def start(self, *more: str) -> None:
        """Starts the farm; the same command each time."""
        with self._output.open("wb") as output:
            self.farm = subprocess.Popen(
                self.command("run", *TERMS, *more),
                cwd=self.repo,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=hear_ctrl_c,
            )

    def wait_for_work(self, *, within_s: float) -> None:
        """Waits until the farm that was started has begun a run, or has ended."""
        assert self.farm is not None
        until = time.monotonic() + within_s
        while self.farm.poll() is None and "run 1:" not in self._output.read_text(errors="replace"):
            if time.monotonic() > until:
                return self.violations.append(f"the farm began no run within {within_s:g} s")
            time.sleep(0.2)

    def end(self, number: int, *, within_s: float, allowed: tuple[int, ...]) -> None:
        """Sends the farm a signal, 0 for none, and waits for its end. What it printed may hold no traceback."""
        assert self.farm is not None
        if number:
            self.farm.send_signal(number)
        try:
            status = self.farm.wait(within_s)
        except subprocess.TimeoutExpired:
            self.violations.append(f"the farm did not end within {within_s:g} s of signal {number}")
            self.farm.kill()
            status = self.farm.wait()
        printed = self._output.read_text(errors="replace")
        if status not in allowed:
            self.violations.append(f"the farm ended with status {status} after signal {number}: {printed[-600:]}")
        self._check_words(printed, "run")
        self.farm = None

    def note_records(self) -> None:
        """Remembers what is on record: none of it may ever be gone."""
        self.recorded |= {record.id for record in read_journal(self.home / "journal.jsonl", on_damage=lambda _: None)}

    def processes(self, word: str) -> list[psutil.Process]:
        """The processes below the farm whose command line has this word."""
        assert self.farm is not None
        found = []
        for process in psutil.Process(self.farm.pid).children(recursive=True):
            try:
                found += [process] if any(word in part for part in process.cmdline()) else []
            except psutil.Error:
                continue
        return found

    def _check_words(self, printed: str, what: str) -> None:
        if "Traceback" in printed:
            self.violations.append(f"{what}: {printed[printed.index('Traceback') :][:1500]}")


# --- faults: what is done to a farm -----------------------------------------------------------------------------------


def killed(soak: Soak) -> None:
    soak.end(signal.SIGKILL, within_s=END_SECONDS, allowed=(-signal.SIGKILL,))


def interrupted(soak: Soak) -> None:
    number = soak.chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    soak.end(number, within_s=END_SECONDS, allowed=(0, 128 + number))


def stopped_by_command(soak: Soak) -> None:
    soak.ask("stop")
    soak.end(0, within_s=END_SECONDS, allowed=(0, 130, 143))


def judge_killed(soak: Soak) -> None:
    for judge in soak.processes("--serve")[:1]:
        judge.kill()


def paused(soak: Soak) -> None:
    assert soak.farm is not None
    soak.farm.send_signal(signal.SIGSTOP)
    time.sleep(soak.chance.uniform(1, 6))
    soak.farm.send_signal(signal.SIGCONT)


def asked_for_much(soak: Soak) -> None:
    soak.ask("sql", ENDLESS)


def looked_at(soak: Soak) -> None:
    for words in (("status",), ("report",), ("sql", "SELECT count(*) FROM runs"), ("audit",)):
        soak.ask(*words)


def person_asked(soak: Soak) -> None:
    soak.ask(*soak.chance.choice((("combine",), ("baseline", "--again"))))


def worktree_deleted(soak: Soak) -> None:
    folders = sorted((soak.home / "worktrees").glob("*"))
    if folders:
        shutil.rmtree(soak.chance.choice(folders), ignore_errors=True)


def branch_deleted(soak: Soak) -> None:
    names = git(soak, "for-each-ref", "--format=%(refname)", "refs/heads/autoresearch").split()
    if names:
        git(soak, "update-ref", "-d", soak.chance.choice(names))


def database_damaged(soak: Soak) -> None:
    killed(soak)
    path = soak.home / "farm.duckdb"
    if path.exists():
        with path.open("r+b") as file:
            file.seek(soak.chance.randrange(max(1, path.stat().st_size)))
            file.write(soak.chance.randbytes(4096))


def line_torn(soak: Soak) -> None:
    killed(soak)
    with (soak.home / "journal.jsonl").open("ab") as file:
        file.write(b'{"id": "run:torn", "kind": "run", "time"')


def table_replaced(soak: Soak) -> None:
    for table in sorted((soak.home / "worktrees").glob("*/results.tsv"))[:1]:
        table.unlink(missing_ok=True)
        table.mkdir(exist_ok=True)


FAULTS: tuple[Callable[[Soak], None], ...] = (
    killed,
    interrupted,
    stopped_by_command,
    judge_killed,
    paused,
    asked_for_much,
    looked_at,
    person_asked,
    worktree_deleted,
    branch_deleted,
    database_damaged,
    line_torn,
    table_replaced,
)


def git(soak: Soak, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=soak.repo, capture_output=True, text=True).stdout


# --- the whole of it --------------------------------------------------------------------------------------------------


def main() -> int:
    """Soaks a farm as the command line says. The exit status is 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, metavar="S", help="seconds from one fault to the next")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        told = soaked(Soak(Path(folder), seed=options.seed), seconds=60 * options.minutes, every_s=options.every)
    print(json.dumps(told))
    return 1 if told["violations"] else 0


def soaked(soak: Soak, *, seconds: float, every_s: float) -> dict[str, object]:
    """Runs a farm for so long with a fault every so often, lets it finish, and returns the counts."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if soak.farm is None:
            soak.start()
            soak.wait_for_work(within_s=BEGIN_SECONDS)
        time.sleep(every_s)
        assert soak.farm is not None
        if soak.farm.poll() is not None:
            soak.end(0, within_s=1.0, allowed=())
            continue
        soak.note_records()
        fault = soak.chance.choice(FAULTS)
        soak.done[fault.__name__] += 1
        print(f"{until - time.monotonic():5.0f} s left: {fault.__name__}", flush=True)
        fault(soak)
    finish(soak)
    runs = sum(id.startswith("run:") for id in soak.recorded)
    return {"faults": sum(soak.done.values()), "kinds": len(soak.done), "runs": runs, "violations": len(soak.violations),
            "first": soak.violations[:5]}  # fmt: skip


def finish(soak: Soak) -> None:
    """Ends the farm, lets the same command finish what was cut off, and looks at what is left."""
    if soak.farm is not None:
        soak.end(signal.SIGINT, within_s=END_SECONDS, allowed=(0, 130))
    soak.start("--experiments", "1")
    soak.end(0, within_s=300.0, allowed=(0,))
    before = set(soak.recorded)
    soak.note_records()
    soak.violations += [f"{id} was on record and is gone" for id in before if id not in soak.recorded]
    soak.violations += [*faults_of_records(soak.folder, []), *faults_of_git(soak.folder), *faults_of_tables(soak.folder)]
    soak.violations += left_over(soak.folder)


if __name__ == "__main__":
    sys.exit(main())
