"""The contest with real runs on the CPU profile: `search` under the farm's policy against random search, by `contest --real`.

Both have equal runs on tags of their own, in turn, which baselines, merges and controls count to. Random search keeps its best
score (`--rule greedy`), from points drawn as in the simulated contest. Then each head and its baseline
run under fresh seeds. All is in a folder, with a clone of this checkout as it is committed: after an end of any kind the same
command goes on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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

    def run(self) -> dict[str, Any]:
        """Runs what is still to be run. Returns the report."""
        if not self.checkout.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / "clone"
            subprocess.run(["rm", "-rf", str(part)], check=True)
            source = Path(__file__).parent.parent
            subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(source), str(part)], check=True)
            part.rename(self.checkout)
        for number in range(self.tags):
            for name in NAMES:
                self.research(name, number)
                self.confirm(name, number)
        return self.report()

    def research(self, name: str, number: int) -> None:
        """Lets a researcher go on until it has had its runs. What it lacks is asked for in parts, since merges are runs too."""
        while (left := self.runs - self.runs_of(name, number)) > 0:
            ideas = self.ideas_of(name, number)
            before = self.runs_of(name, number)
            asked = ideas + max(1, left // 2 if ideas else left - 4)
            researcher = ["--researcher", "search"] if name == "search" else self.random_options(number)
            budget = [] if self.budget is None else ["--budget", f"{self.budget:g}"]
            self.farm("run", "--tag", tag_of(name, number), "--profile", PROFILE, "--devices", "cpu", *budget, *researcher,
                      "--experiments", str(asked), *self.places)  # fmt: skip
            if self.runs_of(name, number) == before:
                raise SystemExit(f"{tag_of(name, number)} makes no runs: `farm status` says what is the matter.")

    def confirm(self, name: str, number: int) -> None:
        """Runs a head and its baseline under fresh seeds, unless that is done or the head is the baseline."""
        history = self.history_of(name, number)
        if history is not None and has_moved(history) and self.confirmed(name, number) is None:
            self.farm("confirm", f"autoresearch/{tag_of(name, number)}", "--seeds", str(self.seeds), *self.places)

    def report(self) -> dict[str, Any]:
        """The gain of each head over its baseline by fresh seeds, in bpb; that of a head that is the baseline is 0."""
        gains = {name: [self.gain_of(name, number) for number in range(self.tags)] for name in NAMES}
        differences = [ours - theirs for ours, theirs in zip(gains["search"], gains["random"], strict=True)]
        runs = {name: [self.runs_of(name, number) for number in range(self.tags)] for name in NAMES}
        return {
            "runs": runs,
            "tags": self.tags,
            "seeds": self.seeds,
            "gains": gains,
            "mean": {name: interval(values) for name, values in gains.items()},
            "search_minus_random": interval(differences),
        }

    def gain_of(self, name: str, number: int) -> float:
        """The gain of a head by fresh seeds."""
        found = self.confirmed(name, number)
        return 0.0 if found is None else found.gain

    def confirmed(self, name: str, number: int) -> Difference | None:
        """What fresh seeds say of a head; None if nothing was run."""
        history = self.history_of(name, number)
        head = None if history is None else history.group.head
        found = None if history is None or head is None else confirmation_of(history.group, head.commit)
        return None if found is None else found.found

    def runs_of(self, name: str, number: int) -> int:
        """How many runs a tag has had, without those under fresh seeds."""
        history = self.history_of(name, number)
        records = [] if history is None else history.records
        return sum(run.status != "lost" for record in records if record.experiment.kind != "confirm" for run in record.runs)

    def ideas_of(self, name: str, number: int) -> int:
        """How many ideas a tag has tried."""
        history = self.history_of(name, number)
        return 0 if history is None else sum(record.experiment.kind in IDEAS for record in history.records)

    def history_of(self, name: str, number: int) -> BranchHistory | None:
        """The branch of a tag; None before it has begun."""
        journal = self.home / "journal.jsonl"
        histories = read_history(journal) if journal.exists() else []
        return next((one for one in histories if one.branch.tag == tag_of(name, number)), None)

    def random_options(self, number: int) -> Sequence[str]:
        """The options of random search, whose points are drawn once."""
        script = self.folder / f"random{number}.json"
        if not script.exists():
            write_atomically(script, json.dumps(random_points(number, self.runs)).encode())
        return ["--researcher", f"scripted:{script}", "--rule", "greedy"]

    def farm(self, *arguments: str) -> None:
        """Runs a command of the farm in the clone. Raises SystemExit if it fails."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "FARM_"))}
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments], cwd=self.checkout, env=environment, check=False
        )
        if done.returncode:
            raise SystemExit(done.returncode)

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def places(self) -> Sequence[str]:
        return ["--home", str(self.home)]


def tag_of(name: str, number: int) -> str:
    """The tag of a researcher's turn."""
    return f"{name}{number}"


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
