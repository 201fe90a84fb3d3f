"""Kills the farm at every place where it changes something, and proves that the same command goes on as if nothing had been.

    uv run python tests/killpoints.py --kills 500 --seed 1 --json
    uv run python tests/killpoints.py --kills 0 --write-failures 100 --seed 1 --json

The driver, the journal, the store and git are the real ones; the judge is tests/cluster/fake_judge.py, whose scores follow
from the text. Each fsync, rename, start of a process, git command and commit of the database is a place, before and after
it; a git command can be killed with the farm while it runs. A scenario is killed once or twice, or its writes fail, once or
for good, because the disk is full or broken; and then it runs to its end. What it leaves must be what it leaves without a
kill, as far as that follows from the ideas alone, and must hold together. A write that fails ends a farm in one line at most.
The last line that is printed has the counts.
"""

import argparse
import errno
import json
import math
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.killed_farm import DETERMINISTIC, SCENARIOS, WRITES, Failure, play
from tests.left_by_a_farm import essence, faults


def main() -> int:
    """Runs the kills that the command line asks for. The exit status is 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--write-failures", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="only this one")
    parser.add_argument("--at", type=int, help="only the kill at this place")
    parser.add_argument("--within", type=float, default=math.inf, metavar="SECONDS",
                        help="begin no scenario after so many seconds, and count those that were played")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="only the last line, as JSON")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="killpoints-") as folder:
        kills = Kills(Path(folder), seed=options.seed, is_quiet=options.json, within_s=options.within)
        counts = kills.run(
            options.kills, failures=options.write_failures, jobs=options.jobs, scenario=options.scenario, at=options.at
        )
    told = {**counts, "seconds": round(time.monotonic() - began)}
    print(json.dumps(told))
    return 1 if told["violations"] or told["hangs"] else 0


class Kills:
    """A series of kills, chosen by chance from all places of all scenarios."""

    def __init__(self, folder: Path, *, seed: int, is_quiet: bool = True, within_s: float = math.inf) -> None:
        """After `within_s` seconds no scenario begins any more."""
        self._folder, self._chance, self._is_quiet = folder, random.Random(seed), is_quiet
        self._until = time.monotonic() + within_s
        self._expected: dict[str, Any] = {}
        self.places: dict[str, list[str]] = {}
        """The places of each scenario, in the order in which it comes to them."""

    def run(self, kills: int, *, failures: int = 0, jobs: int = 1, scenario: str | None = None,
            at: int | None = None) -> dict[str, Any]:  # fmt: skip
        """Kills so many times, lets writes fail in so many more scenarios, and returns the counts."""
        for name in [scenario] if scenario else SCENARIOS:
            if name not in self.places:
                self.measure(name)
        due = [self._choice(number, scenario, at) for number in range(1 if at is not None else kills)]
        due += [self._choice(kills + number, scenario, at, fails=True) for number in range(failures)]
        with ThreadPoolExecutor(jobs) as pool:
            told = [outcome for outcome in pool.map(self._told, due) if outcome is not None]
        violations = [one for outcome in told for one in outcome.violations]
        hit = {place for outcome in told for place in outcome.killed_at}
        return {
            "scenarios": len(told),
            "kills": sum(len(outcome.killed_at) - outcome.failed for outcome in told),
            "write_failures": sum(outcome.failed for outcome in told),
            "places": len(hit),
            "violations": len(violations),
            "hangs": sum(outcome.hangs for outcome in told),
            "first": violations[:20],
        }

    def measure(self, scenario: str) -> None:
        """Plays a scenario without a kill."""
        folder = self._folder / f"{scenario}-whole"
        ended = play(scenario, folder, kill_at=None)
        assert ended.status == 0, f"{scenario} fails without a kill:\n{ended.output}"
        self.places[scenario] = ended.places
        self._expected[scenario] = essence(folder)
        found = faults(folder, ended.acknowledged)
        assert not found, found
        if not self._is_quiet:
            print(f"{scenario}: {len(ended.places)} places in {ended.seconds:.1f} s", flush=True)

    def _choice(self, number: int, scenario: str | None, at: int | None, *, fails: bool = False) -> "Choice":
        name = scenario or self._chance.choice(list(SCENARIOS))
        places = self.places[name]
        writes = [index for index, place in enumerate(places) if place.startswith(WRITES)]
        first = at if at is not None else self._chance.choice(writes if fails else range(len(places)))
        twice = at is None and self._chance.random() < 0.3
        second = [self._chance.randrange(60)] if twice else []
        failure = Failure(number=self._chance.choice((errno.ENOSPC, errno.EIO)), for_good=self._chance.random() < 0.5)
        return Choice(number=number, scenario=name, at=[first, *second], during=self._chance.random() < 0.5,
                      failure=failure if fails else None)  # fmt: skip

    def _one(self, choice: "Choice") -> "Outcome":
        """What became of one scenario that is killed at these places, one after the other, or finds the disk full there."""
        scenario, folder = choice.scenario, self._folder / f"{choice.scenario}-{choice.number}"
        acknowledged: list[str] = []
        outcome = Outcome(killed_at=[], violations=[])
        for kill_at in [*choice.at, None]:
            failure = choice.failure if kill_at == choice.at[0] and not outcome.failed else None
            ended = play(scenario, folder, kill_at=kill_at, during=choice.during, failure=failure)
            acknowledged += ended.acknowledged
            outcome.hangs = outcome.hangs or ended.hangs
            if failure is not None and ended.status in (0, 2) and "Traceback" not in ended.output:
                outcome.failed += 1
                outcome.killed_at.append(f"{scenario}: {failure} from {kill_at} on")
            elif ended.killed:
                outcome.killed_at.append(f"{scenario}: {ended.places[-1]}")
            elif ended.status != 0:
                what = "it hangs" if ended.hangs else f"status {ended.status}"
                outcome.violations.append(f"{choice} {outcome.killed_at}: {what}\n{ended.output[-2000:]}")
                return outcome
        found = faults(folder, acknowledged)
        if scenario in DETERMINISTIC and (left := essence(folder)) != self._expected[scenario]:
            found.append(f"left {differing(left, self._expected[scenario])}")
        outcome.violations += [f"{choice} {outcome.killed_at}: {one}" for one in found]
        shutil.rmtree(folder)
        return outcome

    def _told(self, choice: "Choice") -> "Outcome | None":
        if time.monotonic() > self._until:
            return None
        outcome = self._one(choice)
        if not self._is_quiet:
            print(f"{choice.at} {outcome.killed_at}: {'; '.join(outcome.violations) or 'as without a kill'}", flush=True)
        return outcome


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A scenario, and where it is killed."""

    number: int
    scenario: str
    at: list[int]
    """The numbers of places, one for each time that the command is started."""
    during: bool
    failure: Failure | None
    """What the disk answers at the first of them, instead of a kill."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a scenario that was killed."""

    killed_at: list[str]
    violations: list[str]
    failed: int = 0
    """How many of the commands had writes that failed, and were not killed."""
    hangs: bool = False


def differing(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Where two essences differ."""
    return json.dumps({name: [found.get(name), expected.get(name)] for name in expected if found.get(name) != expected[name]})


if __name__ == "__main__":
    sys.exit(main())
