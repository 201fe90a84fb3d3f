"""Measures how changes to train.py affect the score: each variant against the unchanged file, over several seeds, interleaved.

    uv run python benchmarks/ablations.py --seeds 4 "MATRIX_LR=0.06" "DEPTH=3 ASPECT_RATIO=32" other_train.py

A variant is a list of constants to change, separated by spaces, or the path of another train.py. The judge runs all of them
under the profile's contract. All variants run with one seed before the next seed begins, so that a machine that slows down
affects all variants; differences are computed per seed. Prints the table after each seed, and finally the same as JSON.
"""

import argparse
import asyncio
import json
import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.terms import Terms, add_terms, engine_for, run_once, terms_of, variant_text
from cluster.hardware import platform_identity
from research.errors import UserError
from research.hyperparameters import literal_text, read_constants
from research.result import RunResult

BASELINE = "as it is"


def difference(scores: Mapping[int, float], base: Mapping[int, float]) -> tuple[float, float | None]:
    """Mean over seeds of a variant's val_bpb minus the baseline's, and its standard error (None for a single seed)."""
    pairs = [scores[seed] - base[seed] for seed in scores.keys() & base.keys()]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return statistics.fmean(pairs), error


def table(results: Mapping[str, Sequence[RunResult]]) -> str:
    """The table, with one line per variant."""
    scores = {name: {r.seed: r.val_bpb for r in runs if r.val_bpb is not None} for name, runs in results.items()}
    base = scores[BASELINE]
    lines = [f"{'val_bpb':>9} {'change':>9} {'+-':>7} {'M tokens':>9} {'start s':>8} {'score s':>8} {'MiB':>7}  variant"]
    for name, runs in results.items():
        good = [run for run in runs if run.val_bpb is not None]
        if not scores[name].keys() & base.keys():
            lines.append(f"{runs[-1].status:>9}{'':61}{name}: {runs[-1].reason}")
            continue
        change, error = difference(scores[name], base)
        lines.append(
            f"{statistics.fmean(scores[name].values()):>9.5f} {change:>+9.5f} {'' if error is None else f'{error:.5f}':>7} "
            f"{_mean(run.reported_tokens for run in good) / 1e6:>9.2f} {_mean(run.startup_seconds for run in good):>8.1f} "
            f"{_mean(run.scoring_seconds for run in good):>8.1f} {_mean(run.peak_memory_mb for run in good):>7.0f}  {name}"
        )
    return "\n".join(lines)


def _mean(values: object) -> float:
    known = [float(value) for value in values if value is not None]  # type: ignore[attr-defined]
    return statistics.fmean(known) if known else math.nan


async def measure(texts: Mapping[str, str], terms: Terms, *, seeds: Sequence[int]) -> dict[str, list[RunResult]]:
    """Runs all variants with each seed; returns the results by variant."""
    results: dict[str, list[RunResult]] = {name: [] for name in texts}
    async with engine_for(terms) as engine:
        for seed in seeds:
            for name, text in texts.items():
                results[name].append(await run_once(engine, text, terms, seed=seed))
            print(f"after seed {seed}:\n{table(results)}\n", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how changes to train.py affect the score, over several seeds.")
    parser.add_argument("variants", nargs="*", help="NAME=value [NAME=value ...], or the path of a train.py")
    add_terms(parser)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="first seed (default: 1)")
    options = parser.parse_args()
    try:
        terms = terms_of(options)
        texts = {BASELINE: terms.train_py} | {name: variant_text(name, terms) for name in options.variants}
    except UserError as error:
        raise SystemExit(str(error)) from None
    constants = ", ".join(f"{name}={literal_text(value)}" for name, value in read_constants(terms.train_py).items())
    print(f"{terms.title()}\n{constants}\n")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = asyncio.run(measure(texts, terms, seeds=seeds))
    figures = {name: [{"seed": run.seed, "status": run.status, "val_bpb": run.val_bpb, "tokens": run.reported_tokens}
                      for run in runs] for name, runs in results.items()}  # fmt: skip
    print(json.dumps({"platform": platform_identity(terms.device), "profile": terms.profile,
                      "budget": terms.contract.TIME_BUDGET, "runs": figures}))  # fmt: skip


if __name__ == "__main__":
    main()
