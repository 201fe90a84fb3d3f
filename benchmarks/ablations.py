"""What changes of train.py are worth: each against the file as it is, over several seeds, interleaved in one sitting.

    uv run python benchmarks/ablations.py --seeds 4 "MATRIX_LR=0.06" "DEPTH=3 ASPECT_RATIO=32" other_train.py

A variant is constants to change, separated by spaces, or the path of another train.py. All runs go through the judge under the
profile's contract. Each seed runs all variants before the next seed begins, so that a machine that slows down slows all; a
difference is taken seed by seed. Prints a table that grows with each seed, then the same as JSON.
"""

import argparse
import asyncio
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.engine import LocalEngine
from cluster.hardware import Device, choose_devices, platform_identity
from research.contract import Contract, UserError, cache_folder, choose_profile, contract_for
from research.hyperparameters import fit_to_profile, literal_text, read_constants, write_constants
from research.prepare import prepare
from research.recipes import Literal
from research.result import RunResult, RunSpec
from research.rows import PreparedData

TRAIN_PY = Path(__file__).parent.parent / "research" / "train.py"
AS_IT_IS = "as it is"


def variant_text(variant: str, base: str) -> str:
    """The train.py of a variant. Raises UserError."""
    if Path(variant).is_file():
        return Path(variant).read_text()
    return write_constants(base, _constants(variant))


def _constants(words: str) -> dict[str, Literal]:
    """Raises UserError for what is no NAME=value."""
    try:
        pairs = [word.split("=", 1) for word in words.split()]
        found = read_constants("\n".join(f"{name} = {value}" for name, value in pairs))
    except (SyntaxError, ValueError):
        found = {}
    if not found or len(found) != len(words.split()):
        raise UserError(f"{words!r} is neither a file nor NAME=value with values that are literals.")
    return found


def difference(scores: Mapping[int, float], base: Mapping[int, float]) -> tuple[float, float | None]:
    """Mean over seeds of a variant's val_bpb less the base's, and its standard error (None for one seed)."""
    pairs = [scores[seed] - base[seed] for seed in scores.keys() & base.keys()]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return statistics.fmean(pairs), error


def table(results: Mapping[str, Sequence[RunResult]]) -> str:
    """A line for each variant."""
    scores = {name: {r.seed: r.val_bpb for r in runs if r.val_bpb is not None} for name, runs in results.items()}
    base = scores[AS_IT_IS]
    lines = [f"{'val_bpb':>9} {'change':>9} {'+-':>7} {'M tokens':>9} {'start s':>8} {'score s':>8} {'MiB':>7}  variant"]
    for name, runs in results.items():
        good = [run for run in runs if run.val_bpb is not None]
        if not good or not base:
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


async def measure(texts: Mapping[str, str], *, seeds: Sequence[int], device: Device, contract: Contract,
                  data: PreparedData) -> dict[str, list[RunResult]]:  # fmt: skip
    """All variants, seed by seed."""
    results: dict[str, list[RunResult]] = {name: [] for name in texts}
    engine = LocalEngine([device])
    try:
        for seed in seeds:
            for name, text in texts.items():
                with tempfile.TemporaryDirectory(prefix="autoresearch-ablation-") as folder:
                    spec = RunSpec(run_id="ablation", contract=contract, seed=seed, device=device.torch_device,
                                   data_folder=str(data.folder), run_folder=str(Path(folder) / "run"))  # fmt: skip
                    results[name].append(await engine.execute(device, text, spec, lambda _: None))
            print(f"after seed {seed}:\n{table(results)}\n", flush=True)
    finally:
        await engine.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="What changes of train.py are worth, over several seeds.")
    parser.add_argument("variants", nargs="*", help="NAME=value [NAME=value ...], or the path of a train.py")
    parser.add_argument("--profile", help="default: what the hardware suggests")
    parser.add_argument("--budget", type=float, help="seconds of training in a run")
    parser.add_argument("--source", help="of the text")
    parser.add_argument("--devices", help="one device: 0 or cpu or mps (default: the best that is there)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--cache", help="of prepared data")
    options = parser.parse_args()
    device = choose_devices(options.devices)[0]
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    data = prepare(contract, cache=cache_folder(options.cache), say=print)
    base, _ = fit_to_profile(TRAIN_PY.read_text(), profile, device.free_bytes if device.kind == "cuda" else None)
    try:
        texts = {AS_IT_IS: base} | {variant: variant_text(variant, base) for variant in options.variants}
    except UserError as error:
        raise SystemExit(str(error)) from None
    sizes = ", ".join(f"{name}={literal_text(value)}" for name, value in read_constants(base).items())
    print(f"{platform_identity(device)}, profile {profile}, {contract.TIME_BUDGET:g} s\n{sizes}\n")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = asyncio.run(measure(texts, seeds=seeds, device=device, contract=contract, data=data))
    figures = {name: [{"seed": run.seed, "status": run.status, "val_bpb": run.val_bpb, "tokens": run.reported_tokens}
                      for run in runs] for name, runs in results.items()}  # fmt: skip
    print(json.dumps({"platform": platform_identity(device), "profile": profile, "budget": contract.TIME_BUDGET,
                      "runs": figures}))  # fmt: skip


if __name__ == "__main__":
    main()
