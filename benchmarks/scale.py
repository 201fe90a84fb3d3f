"""What the driver of a farm costs as devices are added: 8 to 1,024 of them, simulated, under the real driver.

    uv run python -m benchmarks.scale --devices 8 64 256 1024 --json scale.json

The driver, the queue, the verdicts, git, journal and store are the real ones. Devices sleep instead of training: a run takes as
long as so many devices need to end RATE experiments a second, at most the budget, and ends with a score by chance. Each loop's
researcher changes one constant of the shipped train.py. Each number of devices gets a process of its own.

What is measured begins when each device has had its baseline and got its first idea, and ends when so many runs have ended as
each device is to have on average; then the farm is stopped, as by Ctrl-C. Figures:

`runs` that were measured; for each of them `cpu ms` of the driver, and `apart ms` of the processes that it starts: git, the
reading of texts, pictures; the event loop's delay in seconds from the first moment on, its 99th percentile and the longest;
`peak MiB` of the driver; the percentage of the time that devices were `idle`, and what that is for runs of the budget; the
seconds until all loops have `begun`, and until all have their first `ideas`; and those that the farm takes to `end`.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from agent.researcher import Context
from cluster import driver
from cluster.display import PlainDisplay
from cluster.engine import ALIVE, ALIVE_SECONDS, Change
from cluster.farm_options import FarmOptions
from cluster.hardware import Device
from cluster.home import Home
from cluster.judge_process import Progress
from cluster.stop_request import interrupt_this_process
from research.contract import Contract
from research.files import research_folder
from research.result import RunResult, RunSpec
from results.experiment import Proposal

BUDGET_S = 300.0
RATE = 4.0
"""How many experiments a second end at most, on all devices together."""

SIGMA = 0.0007
"""Standard deviation of the scores, in bpb."""

LOOK_S = 2.0
"""How often CPU time is read until the measurement begins."""

TICK_S = 0.02
"""How often the event loop's delay is measured."""


def main() -> None:
    """Measures the numbers of devices that the command line names, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256, 1024], metavar="N")
    parser.add_argument("--runs", type=float, default=4.0, metavar="N", help="runs of each device, on average (default: 4)")
    parser.add_argument("--rate", type=float, default=RATE, metavar="N", help=f"experiments a second (default: {RATE:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    for devices in options.devices:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[devices] = pool.apply(measure, (devices, options.runs, options.rate))
        if devices == options.devices[0]:
            print("  ".join(f"{name:>9}" for name in ("devices", *found[devices])))
        print("  ".join([f"{devices:>9,}", *(f"{value:>9,.2f}" for value in found[devices].values())]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(devices: int, runs: float, rate: float) -> dict[str, float]:
    """The figures of one farm, which runs in this process."""
    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as folder:
        return Simulation(Path(folder), devices, runs, rate).run()


class Simulation:
    """A farm with simulated devices and researchers in a folder."""

    def __init__(self, folder: Path, devices: int, runs: float, rate: float) -> None:
        self._run_s = min(BUDGET_S, devices / rate)
        self._devices = tuple(simulated_device(number) for number in range(devices))
        self._engine = SimulatedEngine(self._devices, self._run_s)
        self._watch = Watch(self._engine, until=round(devices * runs))
        home, repo = Home(folder / "home"), folder / "repo"
        start_repository(repo)
        self._options = FarmOptions(repo=repo, home=home, cache=folder / "cache", tag="scale", researcher="search",
                                    devices=self._devices, budget=BUDGET_S,
                                    start_ahead=False)  # fmt: skip

    def run(self) -> dict[str, float]:
        """The figures of this farm from its first loop to its last."""
        with (
            patch.object(driver, "make_engine", lambda *_: self._engine),
            patch("agent.researchers.fallback.make_researcher", lambda *_, seed, **__: SimulatedResearcher(seed)),
            patch("cluster.loop_plans.prepared_data", lambda *_, **__: SimulatedData()),
        ):
            began = time.monotonic()
            asyncio.run(self._run_farm())
            ended = time.monotonic()
        return self._figures(began, ended)

    async def _run_farm(self) -> None:
        watching = asyncio.create_task(self._watch.follow())
        await driver.run_farm(self._options, PlainDisplay(write=lambda _: None))
        watching.cancel()

    def _figures(self, began: float, ended: float) -> dict[str, float]:
        watch, engine = self._watch, self._engine
        first, last = watch.before, watch.after
        delays = sorted(watch.delays)
        idle = 1 - engine.busy_s(first.at, last.at) / (len(self._devices) * (last.at - first.at))
        done = last.done - first.done
        return {
            "runs": done,
            "cpu ms": 1000 * (last.own - first.own) / done,
            "apart ms": 1000 * (last.others - first.others) / done,
            "lag p99": delays[int(0.99 * (len(delays) - 1))],
            "lag max": delays[-1],
            "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "idle %": 100 * idle,
            "of 300 s": 100 * idle * self._run_s / (idle * self._run_s + (1 - idle) * BUDGET_S),
            "begun s": (engine.all_begun[0] or ended) - began,
            "ideas s": (engine.all_begun[1] or ended) - began,
            "end s": ended - last.at,
        }


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What this process and those that it started have used so far."""

    at: float
    """Monotonic seconds."""
    own: float
    """CPU seconds of this process."""
    others: float
    """Those of the processes that it started."""
    done: int
    """How many runs have ended."""


class SimulatedEngine:
    """Devices that sleep through a run and score by chance."""

    def __init__(self, devices: tuple[Device, ...], run_s: float) -> None:
        self._devices, self._run_s = devices, run_s
        self._spans: dict[str, list[tuple[float, float]]] = {device.key: [] for device in devices}
        self._running: dict[str, float] = {}
        self.done = 0
        self._got: Counter[str] = Counter()
        self.all_begun: list[float | None] = [None, None]
        """When the last device got its first run, and its second one."""

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        yield tuple(Change(kind="joined", name=device.key, device=device) for device in self._devices)

    async def execute(self, device: Device, train_py: str, spec: RunSpec, on_progress: Callable[[Progress], None]) -> RunResult:
        began = self._running[device.key] = time.monotonic()
        self._got[device.key] += 1
        for index, moment in enumerate(self.all_begun):
            if moment is None and len(self._got) == len(self._devices) and min(self._got.values()) > index:
                self.all_begun[index] = began
        draw = random.Random(f"{train_py} {spec.seed}")
        end = began + self._run_s * draw.uniform(0.97, 1.03)
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, ALIVE_SECONDS))
            on_progress(ALIVE)
        self._spans[device.key].append((began, time.monotonic()))
        del self._running[device.key]
        self.done += 1
        return RunResult(run_id=spec.run_id, status="ok", reason="", seed=spec.seed, device=device.key,
                         val_bpb=0.95 + draw.gauss(0, SIGMA), training_seconds=BUDGET_S, startup_seconds=20.0,
                         answer_seconds=8.0, total_seconds=340.0, peak_memory_mb=45_000.0, num_params=50_000_000,
                         reported_steps=1000, software={"torch": "2"}, log_tail="step | loss\n" * 30,
                         reported_curve=tuple((float(x), x, 9.0) for x in range(60)))  # fmt: skip

    def start_speculatively(self, device: Device, train_py: str, spec: RunSpec) -> None:
        """Does nothing: what is simulated has no start."""

    async def close(self) -> None:
        """Does nothing: there are no processes."""

    def busy_s(self, begin: float, end: float) -> float:
        """The seconds that all devices together have run something between two moments."""
        spans = [span for of_device in self._spans.values() for span in of_device]
        spans += [(since, end) for since in self._running.values()]
        return sum(max(0.0, min(end, until) - max(begin, since)) for since, until in spans)


class Watch:
    """Measures the event loop's delay and CPU time, and stops the farm when enough runs have ended."""

    def __init__(self, engine: SimulatedEngine, *, until: int) -> None:
        self._engine, self._until = engine, until
        self.delays: list[float] = [0.0]
        self.before = self.after = self._now()

    async def follow(self) -> None:
        """Measures until enough runs have ended."""
        while self._engine.all_begun[1] is None or self._engine.done < self._until:
            asked = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.delays.append(time.monotonic() - asked - TICK_S)
            if self._engine.all_begun[1] is None and asked > self.before.at + LOOK_S:
                self.before = self._now()
        self.after = self._now()
        interrupt_this_process()

    def _now(self) -> Moment:
        return Moment(at=time.monotonic(), own=time.process_time(), others=cpu_of_others(), done=self._engine.done)


def cpu_of_others() -> float:
    """CPU seconds of the processes that this one started, those that live included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(map(cpu_of, children()))


def children() -> list[str]:
    """The ids of the processes that this one has started and that have not ended."""
    return [id for task in Path("/proc/self/task").iterdir() for id in (task / "children").read_text().split()]


def cpu_of(process: str) -> float:
    """CPU seconds of a process; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


CONSTANT = re.compile(r"^([A-Z_]+) = (\d+\.\d+)", re.MULTILINE)
"""A constant of train.py, and its value. Reading them this way takes no time of the process that is measured."""


class SimulatedResearcher:
    """Proposes another value of one constant each time."""

    name = "simulated"

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    async def propose(self, context: Context) -> Proposal:
        found = self._draw.choice(list(CONSTANT.finditer(context.train_py)))
        name, value = found[1], float(f"{float(found[2]) * self._draw.uniform(0.5, 2):.6g}")
        text = f"{context.train_py[: found.start(2)]}{value!r}{context.train_py[found.end(2) :]}"
        return Proposal(title=f"{name} = {value:g}", hypothesis="It may be better.", researcher=self.name, train_py=text)

    async def close(self) -> None:
        """Does nothing."""


@dataclass(frozen=True, kw_only=True)
class SimulatedData:
    """Prepared data that nobody reads."""

    folder: Path = Path("/nonexistent")
    hidden_paths: tuple[str, ...] = ()
    data_fingerprint: str = "simulated"
    fingerprints: dict[str, str] = field(default_factory=dict)

    def score_fingerprint(self, contract: Contract) -> str:
        """A name for the scores of this benchmark."""
        return f"simulated {contract.profile}"


def simulated_device(number: int) -> Device:
    """A GPU that there isn't."""
    return Device(kind="cuda", index=number, name="Simulated GPU", memory_bytes=80 * 2**30, free_bytes=80 * 10**9, threads=16,
                  power_limit_watts=700.0, capability=(9, 0), uuid=f"GPU-{number}")  # fmt: skip


def start_repository(repo: Path) -> None:
    """A repository with the shipped train.py committed."""
    (repo / "research").mkdir(parents=True)
    (repo / "research" / "train.py").write_text((research_folder() / "train.py").read_text())
    for command in (("init", "--quiet", "--initial-branch", "main"), ("add", "."),
                    ("-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "--quiet", "-m", "start")):  # fmt: skip
        subprocess.run(["git", *command], cwd=repo, check=True)


if __name__ == "__main__":
    main()
