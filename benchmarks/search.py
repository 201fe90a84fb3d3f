"""Simulates research on a landscape: the farm's policy against independent greedy loops and a noise-free oracle.

    uv run python benchmarks/search.py --landscape benchmarks/landscapes/sparse.json --loops 8 --runs 60 --repeats 200 --json

The farm is the real one in simulated time: `results/policy.py` and `results/effect_estimate.py` decide, `cluster/workqueue.py`
hands out the runs. Prints the true gain, how much more than it is reported, and the share of the final head's ideas that don't
help (each the mean with its 95% interval, in bpb), and how well the farm's probabilities and 90% intervals hold. The files in
benchmarks/landscapes/ were not tuned on; benchmarks/landscape.py describes their fields. With `--combine` it simulates instead
how 11 near-misses are combined in 15 runs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import simulated_search
from benchmarks.combining import combined
from benchmarks.landscape import Landscape, World, read_landscape
from benchmarks.simulated_search import Belief, Found
from research.errors import UserError

POLICIES = ("farm", "greedy", "oracle")
DECILES = 10


def one_repeat(landscape: Landscape, loops: int, runs: int, repeat: int) -> tuple[Found, Found, Found]:
    """What each policy finds on one landscape, in the order of `POLICIES`."""
    world = World(landscape, repeat)
    return (
        simulated_search.farm(world, loops, runs),
        simulated_search.greedy(world, loops, runs),
        simulated_search.oracle(world, loops, runs),
    )


def simulate(landscape: Landscape, *, loops: int, runs: int, repeats: int, processes: int = 1) -> dict[str, Any]:
    """The figures of every policy over all repeats."""
    once = partial(one_repeat, landscape, loops, runs)
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            found = list(pool.map(once, range(repeats), chunksize=max(1, repeats // (8 * processes))))
    else:
        found = [once(repeat) for repeat in range(repeats)]
    by_policy = dict(zip(POLICIES, zip(*found, strict=True), strict=True))
    policies: dict[str, Any] = {name: figures(results) for name, results in by_policy.items()}
    policies["farm"] |= calibration(by_policy["farm"])
    for other in ("greedy", "oracle"):
        policies["farm"][f"times_{other}"] = ratio(by_policy["farm"], by_policy[other])
    return {"loops": loops, "runs": runs, "repeats": repeats, "policies": policies}


def figures(results: Sequence[Found]) -> dict[str, list[float]]:
    """Mean and 95% interval of what one policy's repeats ended with."""
    return {
        "true_gain": interval([found.true_gain for found in results]),
        "overstatement": interval([found.overstatement for found in results]),
        "bad_share": interval([found.bad_share for found in results]),
    }


def interval(values: Sequence[float]) -> list[float]:
    """The mean and the ends of its 95% interval; repeats without a value (NaN) are left out."""
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return [0.0, 0.0, 0.0]
    error = 1.96 * float(known.std(ddof=1)) / np.sqrt(len(known)) if len(known) > 1 else 0.0
    mean = float(known.mean())
    return [mean, mean - error, mean + error]


def ratio(ours: Sequence[Found], others: Sequence[Found]) -> list[float]:
    """The ratio of the mean true gains with its 95% interval (delta method, paired by landscape); empty without a gain."""
    ours_gain, other_gain = (np.array([found.true_gain for found in results]) for results in (ours, others))
    if other_gain.mean() <= 0 or len(ours_gain) < 2:
        return []
    times = float(ours_gain.mean() / other_gain.mean())
    error = 1.96 * float((ours_gain - times * other_gain).std(ddof=1)) / np.sqrt(len(ours_gain)) / float(other_gain.mean())
    return [times, times - error, times + error]


def calibration(results: Sequence[Found]) -> dict[str, Any]:
    """How often ideas help by deciles of P, and how often the 90% intervals hold the truth."""
    first = [belief for found in results for belief in found.first_beliefs]
    last = [belief for found in results for belief in found.last_beliefs]
    return {
        "coverage": share([belief.is_covered for belief in last]),
        "first_coverage": share([belief.is_covered for belief in first]),
        "gain_coverage": share([found.gain_is_covered for found in results if found.gain_is_covered is not None]),
        "calibration": [row for number in range(DECILES) if (row := decile(first, number)) is not None],
        "last_calibration": [row for number in range(DECILES) if (row := decile(last, number)) is not None],
    }


def share(values: Sequence[bool]) -> float | None:
    """The share that is true; None without a value."""
    return sum(values) / len(values) if values else None


def decile(beliefs: Sequence[Belief], number: int) -> list[float] | None:
    """Mean P, the share that helps, and the number of ideas in one decile of P; None if it is empty."""
    inside = [belief for belief in beliefs if min(int(belief.helps * DECILES), DECILES - 1) == number]
    if not inside:
        return None
    return [float(np.mean([b.helps for b in inside])), float(np.mean([b.does_help for b in inside])), len(inside)]


def table(report: dict[str, Any]) -> str:
    """The report for people, in mbpb."""
    lines = [f"{report['landscape']}: {report['loops']} x {report['runs']} runs, {report['repeats']} repeats (mbpb)"]
    for name, found in report["policies"].items():
        gain, over = ([1e3 * value for value in found[key]] for key in ("true_gain", "overstatement"))
        lines.append(
            f"{name:7} true {gain[0]:6.2f} [{gain[1]:.2f}, {gain[2]:.2f}]  over {over[0]:+.2f} [{over[1]:+.2f}, {over[2]:+.2f}]"
            f"  bad {found['bad_share'][0]:.0%}"
        )
    ours = report["policies"]["farm"]
    for other in ("greedy", "oracle"):
        if times := ours[f"times_{other}"]:
            lines.append(f"farm = {times[0]:.2f} [{times[1]:.2f}, {times[2]:.2f}] times {other}")
    if ours["coverage"] is not None:
        lines.append(
            f"90% intervals hold {ours['coverage']:.1%} of effects ({ours['first_coverage']:.1%} right after the first run) "
            f"and {ours['gain_coverage']:.1%} of heads"
        )
        lines.append("P: " + "  ".join(f"{p:.2f}/{helps:.2f} ({count})" for p, helps, count in ours["calibration"]))
    return "\n".join(lines)


def main() -> int:
    """The command line. A user's mistake is one line, status 2."""
    parser = argparse.ArgumentParser(description="Simulates research on a landscape.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--landscape", type=Path, metavar="FILE")
    what.add_argument("--combine", action="store_true", help="combine near-misses: gains in sigmas")
    parser.add_argument("--loops", type=int, default=8)
    parser.add_argument("--runs", type=int, default=60, help="runs of each loop")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object rather than a table")
    args = parser.parse_args()
    if args.combine:
        print(json.dumps(combined(args.repeats)))
        return 0
    try:
        landscape = read_landscape(args.landscape)
    except UserError as mistake:
        print(f"search.py: {mistake}", file=sys.stderr)
        return 2
    sizes = {"loops": args.loops, "runs": args.runs, "repeats": args.repeats}
    report = {"landscape": args.landscape.stem, **simulate(landscape, **sizes, processes=args.processes)}
    print(json.dumps(report) if args.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
