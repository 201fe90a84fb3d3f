"""A contest over constants: `search` under the farm's policy against random search, TPE and CMA-ES, with equal runs.

    uv run --group contest python -m benchmarks.contest --runs 100 --repeats 50 --processes 2
    uv run python -m benchmarks.contest --real FOLDER    # real runs on the CPU (benchmarks/real_contest.py)

Each repeat is another surface (`benchmarks/response_surface.py`). Prints what each one's final recommendation truly gains over
the original recipe, without noise, as the mean over the repeats with its 95% interval: of `search` the head, of random and TPE
the best score, of CMA-ES the mean of its distribution. A recommendation that doesn't fit into memory gains nothing.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agent.search.search import SearchResearcher
from benchmarks import real_contest, rivals
from benchmarks.response_surface import BASELINE, ResponseSurface
from benchmarks.search import interval
from benchmarks.simulated_researcher import SimulatedResearcher
from research.recipes import Constant

Optimizer = Callable[[ResponseSurface, np.random.Generator, int], Mapping[str, Constant]]


def search(surface: ResponseSurface, rng: np.random.Generator, runs: int) -> Mapping[str, Constant]:
    """The constants of the head that `search` leaves."""
    return SimulatedResearcher(surface, SearchResearcher(surface.repeat), rng).run(runs)


OPTIMIZERS: Mapping[str, Optimizer] = {
    "search": search,
    "random": rivals.random_search,
    "tpe": rivals.tpe,
    "cma-es": rivals.cma_es,
}


def one_repeat(names: Sequence[str], runs: int, lopsided: bool, repeat: int) -> list[float]:
    """The true gain of each one's recommendation on one surface, then that of the best constants there are."""
    surface = ResponseSurface(repeat, lopsided=lopsided)
    gains = []
    for name in names:
        rng = np.random.default_rng([repeat, list(OPTIMIZERS).index(name)])
        value = surface.value(OPTIMIZERS[name](surface, rng, runs))
        gains.append(0.0 if value is None else BASELINE - value)
    return [*gains, BASELINE - surface.optimum]


def contest(names: Sequence[str], *, runs: int, repeats: int, lopsided: bool = False, processes: int = 1) -> dict[str, Any]:
    """The mean true gain of each optimizer and of the optimum, with its 95% interval, in bpb."""
    once = partial(one_repeat, names, runs, lopsided)
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            found = list(pool.map(once, range(repeats)))
    else:
        found = [once(repeat) for repeat in range(repeats)]
    columns = dict(zip([*names, "optimum"], zip(*found, strict=True), strict=True))
    return {
        "runs": runs,
        "repeats": repeats,
        "lopsided": lopsided,
        "true_gain": {name: interval(gains) for name, gains in columns.items()},
        "search_minus": {
            name: interval([ours - theirs for ours, theirs in zip(columns["search"], gains, strict=True)])
            for name, gains in columns.items()
            if "search" in columns and name != "search"
        },
    }


def table(report: dict[str, Any]) -> str:
    """The report for people, in thousandths of a bpb."""
    lines = [f"{report['runs']} runs, {report['repeats']} repeats: true gain (mbpb), and how much more search gains"]
    for name, gain in report["true_gain"].items():
        ahead = report["search_minus"].get(name)
        lines.append(f"{name:8} {_in_words(gain)}" + (f"   {_in_words(ahead, sign='+')}" if ahead else ""))
    return "\n".join(lines)


def _in_words(figures: Sequence[float], sign: str = "") -> str:
    mean, low, high = (1e3 * figure for figure in figures)
    return f"{mean:{sign}6.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="A contest of optimizers over the constants of train.py, on simulated surfaces."
    )
    parser.add_argument("--runs", type=int, help="runs of each (default: 100, with --real 30)")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--lopsided", action="store_true", help="surfaces that are steeper on one side of the best value")
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS), help="these optimizers alone")
    parser.add_argument("--processes", type=int, default=1, help="how much runs at a time (default: 1); with --real, each on "
                        "an equal share of the cores")  # fmt: skip
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="search against random search by real runs on this "
                        "CPU, with all that belongs to it in this folder; the same command goes on with it")  # fmt: skip
    parser.add_argument("--tags", type=int, default=3, help="with --real: how often (default: 3)")
    parser.add_argument("--seeds", type=int, default=5, help="with --real: fresh seeds that score each head (default: 5)")
    parser.add_argument("--budget", type=float, help="with --real: seconds of training per run (default: the profile's)")
    parser.add_argument("--json", action="store_true", help="one JSON object rather than a table")
    args = parser.parse_args()
    if args.real is not None:
        real = real_contest.RealContest(folder=args.real.resolve(), runs=args.runs or 30, tags=args.tags, seeds=args.seeds,
                                        budget=args.budget).run(args.processes)  # fmt: skip
        print(json.dumps(real) if args.json else real_contest.table(real))
        return 0
    sizes = {"runs": args.runs or 100, "repeats": args.repeats, "lopsided": args.lopsided}
    report = contest(args.only, **sizes, processes=args.processes)
    print(json.dumps(report) if args.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
