"""The contest with real runs on the CPU profile: `search` under the farm's policy against random search, by `contest --real`.

Both have equal runs, each tag in a home of its own, which baselines, merges and controls count to. Random search keeps its best
score (`--rule greedy`), from points drawn as in the simulated contest. Then each head and its baseline
run under fresh seeds. All is in a folder, with a clone of this checkout as it is committed: after an end of any kind the same
command goes on. Several entries run side by side on equal shares of the cores, if asked for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

from agent.search.knobs import Constants, knobs_of, settle
from benchmarks.response_surface import AXES
from benchmarks.rivals import SAMPLED_REACH
from benchmarks.search import interval
from research.files import write_atomically
from research.profiles import PROFILES
from research.recipes import Constant
from research.starting_hyperparameters import starting_hyperparameters
from results.confirmation import Difference, confirmation_of
from results.experiment import IDEAS
from results.history import BranchHistory, read_history

NAMES = ("search", "random")

PROFILE = "cpu"

AXES_DEPTH = 8
"""The depth around which the reach of DEPTH is given in layers."""


@dataclass(frozen=True, kw_only=True)
class RealContest:
    """A contest in a folder."""

    folder: Path
    runs: int
    tags: int
    seeds: int
    budget: float | None
    """Seconds of training per run; None: the profile's."""

    def run(self, processes: int = 1) -> dict[str, Any]:
        """Runs what is still to be run, so many entries at a time, each on its share of the cores. Returns the report.

        Raises SystemExit with one line if there are fewer cores than processes.
        """
        self.clone()
        entries = [Entry(contest=self, name=name, number=number) for number in range(self.tags) for name in NAMES]
        cores = shares_of_cores(min(processes, len(entries)))
        context = get_context("spawn")
        shares = context.Queue()
        for share in cores:
            shares.put(share)
        with ProcessPoolExecutor(len(cores), mp_context=context, initializer=keep_to_a_share, initargs=(shares,)) as pool:
            for _ in pool.map(Entry.run, entries):
                pass
        return self.report(entries)

    def clone(self) -> None:
        """Clones this checkout into the folder, unless that is done."""
        if self.checkout.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "clone"
        subprocess.run(["rm", "-rf", str(part)], check=True)
        source = Path(__file__).parent.parent
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(source), str(part)], check=True)
        part.rename(self.checkout)

    def report(self, entries: Sequence["Entry"]) -> dict[str, Any]:
        """The gain of each head over its baseline by fresh seeds, in bpb; that of a head that is the baseline is 0."""
        gains = {name: [entry.gain() for entry in entries if entry.name == name] for name in NAMES}
        differences = [ours - theirs for ours, theirs in zip(gains["search"], gains["random"], strict=True)]
        return {
            "runs": {name: [entry.runs() for entry in entries if entry.name == name] for name in NAMES},
            "tags": self.tags,
            "seeds": self.seeds,
            "gains": gains,
            "mean": {name: interval(values) for name, values in gains.items()},
            "search_minus_random": interval(differences),
        }

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One researcher on one tag, in a home of its own."""

    contest: RealContest
    name: str
    number: int

    def run(self) -> None:
        """Runs what is still to be run: the research, then the fresh seeds."""
        self.research()
        self.confirm()

    def research(self) -> None:
        """Lets the researcher go on until it has had its runs; they are asked for in parts, since merges are runs too."""
        while (left := self.contest.runs - self.runs()) > 0:
            ideas, before = self.ideas(), self.runs()
            asked = ideas + max(1, left // 2 if ideas else left - 4)
            researcher = ["--researcher", "search"] if self.name == "search" else self.random_options()
            budget = [] if self.contest.budget is None else ["--budget", f"{self.contest.budget:g}"]
            self.farm("run", "--tag", self.tag, "--profile", PROFILE, "--devices", "cpu", *budget, *researcher,
                      "--experiments", str(asked))  # fmt: skip
            if self.runs() == before:
                raise SystemExit(f"{self.tag} makes no runs: `farm status` says what is the matter.")

    def confirm(self) -> None:
        """Runs the head and its baseline under fresh seeds, unless that is done or the head is the baseline."""
        history = self.history()
        if history is not None and has_moved(history) and self.confirmed() is None:
            self.farm("confirm", f"autoresearch/{self.tag}", "--seeds", str(self.contest.seeds))

    def gain(self) -> float:
        """The gain of the head by fresh seeds, in bpb."""
        found = self.confirmed()
        return 0.0 if found is None else found.gain

    def confirmed(self) -> Difference | None:
        """What fresh seeds say of the head; None if nothing was run."""
        history = self.history()
        head = None if history is None else history.group.head
        found = None if history is None or head is None else confirmation_of(history.group, head.commit)
        return None if found is None else found.found

    def runs(self) -> int:
        """How many runs the tag has had, without those under fresh seeds."""
        history = self.history()
        records = [] if history is None else history.records
        return sum(run.status != "lost" for record in records if record.experiment.kind != "confirm" for run in record.runs)

    def ideas(self) -> int:
        """How many ideas the tag has tried."""
        history = self.history()
        return 0 if history is None else sum(record.experiment.kind in IDEAS for record in history.records)

    def history(self) -> BranchHistory | None:
        """The branch of the tag; None before it has begun."""
        journal = self.home / "journal.jsonl"
        return next(iter(read_history(journal)), None) if journal.exists() else None

    def random_options(self) -> Sequence[str]:
        """The options of random search, whose points are drawn once."""
        script = self.contest.folder / f"{self.tag}.json"
        if not script.exists():
            write_atomically(script, json.dumps(random_points(self.number, self.contest.runs)).encode())
        return ["--researcher", f"scripted:{script}", "--rule", "greedy"]

    def farm(self, *arguments: str) -> None:
        """Runs a command of the farm in the clone. Raises SystemExit if it fails."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "FARM_"))}
        command = [sys.executable, "-m", "cluster.cli", *arguments, "--home", str(self.home)]
        done = subprocess.run(command, cwd=self.contest.checkout, env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)

    @property
    def tag(self) -> str:
        return f"{self.name}{self.number}"

    @property
    def home(self) -> Path:
        return self.contest.folder / self.tag


def shares_of_cores(processes: int) -> list[frozenset[int]]:
    """Equal, disjoint shares of the cores that this process may use. Raises SystemExit if there is not one for each process."""
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // max(processes, 1)
    if size < 1:
        raise SystemExit(f"{processes} entries at a time need as many cores, but there are {len(cores)}: lower --processes.")
    return [frozenset(cores[number * size : (number + 1) * size]) for number in range(processes)]


def keep_to_a_share(shares: "Queue[frozenset[int]]") -> None:
    """Keeps this process, and those that it starts, to the next of the shares of cores."""
    os.sched_setaffinity(0, shares.get())


def has_moved(history: BranchHistory) -> bool:
    """Whether the head is another commit than the baseline."""
    head = history.group.head
    return head is not None and head.commit != history.branch.baseline_commit


def random_points(seed: int, count: int) -> list[dict[str, Any]]:
    """So many points around the profile's constants, as the steps of a script, in the share of the reach that serves best."""
    rng = np.random.default_rng(seed)
    constants = starting_hyperparameters(PROFILE)
    steps: list[dict[str, Any]] = []
    while len(steps) < count:
        changes = settle(constants, _drawn(constants, rng), max_seq_len=PROFILES[PROFILE].contract.MAX_SEQ_LEN)
        if changes is not None:
            steps.append({"title": f"random point {len(steps) + 1}", "constants": dict(changes)})
    return steps


def _drawn(constants: Constants, rng: np.random.Generator) -> dict[str, Constant]:
    """A change of every constant of the contest that the profile has."""
    knobs = {knob.name: knob for knob in knobs_of(constants)}
    changes: dict[str, Constant] = {}
    for axis in AXES:
        start = knobs[axis.name].read(constants[axis.name]) if axis.name in knobs else None
        if start is None:
            continue
        reach = axis.reach * start / AXES_DEPTH if axis.name == "DEPTH" else axis.reach
        position = start + SAMPLED_REACH * reach * float(rng.uniform(-1, 1))
        if axis.name == "TOTAL_BATCH_SIZE":
            position = float(round(position))  # whole numbers of rows
        moved = knobs[axis.name].write(constants[axis.name], position)
        if moved is not None:
            changes[axis.name] = moved
    return changes


def table(report: dict[str, Any]) -> str:
    """The report for people, in thousandths of a bpb."""
    lines = [f"{report['tags']} tags, heads by {report['seeds']} fresh seeds: gain (mbpb), and of each tag"]
    for name, (mean, low, high) in report["mean"].items():
        tags = zip(report["gains"][name], report["runs"][name], strict=True)
        each = ", ".join(f"{1e3 * gain:.2f} by {runs} runs" for gain, runs in tags)
        lines.append(f"{name:8} {1e3 * mean:6.2f} [{1e3 * low:.2f}, {1e3 * high:.2f}]   {each}")
    mean, low, high = (1e3 * figure for figure in report["search_minus_random"])
    return "\n".join([*lines, f"search gains {mean:+.2f} [{low:+.2f}, {high:+.2f}] more than random search"])
