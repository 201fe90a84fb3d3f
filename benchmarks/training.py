"""Compares our train.py with a reference: the train.py and prepare.py of karpathy/autoresearch, run from a folder.

    uv run python benchmarks/training.py --reference FOLDER --mode speed [--pairs 2] [--budget 60]
    uv run python benchmarks/training.py --reference FOLDER --mode score [--seeds 1 2] [--budget 120]

Both sides train on the same documents with the same tokenizer and the same attention kernel (ours, as the reference's has to
be downloaded), alternately on the same device. The reference runs as a copy with another seed and time budget and, if
requested, the sizes of a smaller profile. In mode `speed`, both sides train the same architecture with the same batches, to
compare tokens per second, memory and the overhead beyond training (our runs are judged like an experiment that is not kept). In
mode `score`, the reference's own evaluator scores three recipes: the unchanged reference, the reference with the changes of its
published night, and ours as shipped.

Each side packs documents with its own code, and the reference crops them, so its evaluator and our judge score different rows;
with short rows, the two scores differ widely. The reference's time budget starts only after 11 steps, which it gets for free.
On a CPU, which the reference doesn't support, an edited copy runs: this is a smoke test, not a measurement.

Prints a line for each run as it ends, then the differences; `--json` names a file that gets all figures after each run. If that
file exists, the benchmark resumes from it: only failed and missing runs are made. Two instances at the same time need separate
GPUs (CUDA_VISIBLE_DEVICES), `--work` folders and `--json` files. They can split the work: `--only` selects the variants to run,
and `--add` includes the runs of another instance in the table and the differences.

    ... --mode score --json ours.json --only ours
    ... --mode score --json theirs.json --only reference "reference, its night's changes"
    ... --mode score --json all.json --add ours.json theirs.json
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

from benchmarks.reference_figures import HEADING, NIGHT, OURS, UNTIMED_STEPS, UNTOUCHED, VARIANTS, Figures, Head, Record
from benchmarks.reference_home import write_home, write_stand_ins
from benchmarks.reference_run import NIGHT_EDITS, Reference, edited, run_logged, tail, with_constants
from benchmarks.terms import Terms, add_terms, engine_for, run_once, terms_of
from cluster.engine import LocalEngine
from cluster.hardware import platform_identity
from cluster.judge_process import judge_environment
from research.child_settings import ChildSettings
from research.contract import cache_folder
from research.errors import UserError
from research.hyperparameters import read_constants
from research.kernels import attention_choice, compile_cache
from research.profiles import SIZES, profile_named
from research.recipes import STANDARD, Constant
from research.result import RunResult
from research.starting_hyperparameters import fit_to_profile

BUDGETS = {"speed": 60.0, "score": 120.0}
"""Seconds of training per run, by mode."""

EVALUATION_TIMEOUT_SECONDS = 900.0


# --- one run of ours --------------------------------------------------------------------------------------------------


async def run_ours(engine: LocalEngine, train_py: str, terms: Terms, *, seed: int, keep_in: Path | None = None) -> Figures:
    """Makes one judged run. With `keep_in`, its folder is kept and it gets all checks of a run that would be kept."""
    began = time.monotonic()
    keep_below = None if keep_in else 0.0
    result = await run_once(engine, train_py, terms, seed=seed, keep_below=keep_below, keep_in=keep_in)
    return our_figures(result, train_py, wall=time.monotonic() - began)


def our_figures(result: RunResult, train_py: str, *, wall: float) -> Figures:
    """Figures from the judge's result and from the speed that train.py reported."""
    batch = read_constants(train_py)["TOTAL_BATCH_SIZE"]
    assert isinstance(batch, int)
    tokens, trained = result.reported_tokens, result.training_seconds
    return Figures(
        variant=OURS,
        seed=result.seed,
        status=result.status,
        reason="" if result.status == "ok" else f"{result.reason}\n{result.log_tail}",
        own_bpb=result.val_bpb,
        tokens_per_second=tokens / trained if tokens and trained else None,
        median_tokens_per_second=_median_speed(result.reported_curve, batch),
        mfu_percent=result.reported_mfu_percent,
        steps=result.reported_steps,
        tokens=tokens,
        num_params=result.num_params,
        allocated_mb=result.reported_peak_memory_mb,
        device_mb=result.peak_memory_mb,
        training_seconds=trained,
        outside_seconds=wall - trained if trained else None,
        startup_seconds=result.startup_seconds,
        scoring_seconds=result.scoring_seconds,
        kernel=result.reported_kernel,
    )


def _median_speed(curve: Sequence[tuple[float, int, float]], batch: int) -> float | None:
    """Median tokens per second between adjacent points (seconds, step, loss) of a loss curve, without UNTIMED_STEPS."""
    points = [(seconds, step) for seconds, step, _ in curve if step >= UNTIMED_STEPS]
    speeds = [batch * (step - step0) / (now - then) for (then, step0), (now, step) in pairwise(points) if now > then]
    return statistics.median(speeds) if speeds else None


def score_by_reference(reference: Reference, run_folder: Path, terms: Terms) -> float:
    """Bits per byte of a kept run's model, by the reference's evaluator in a subprocess. Raises UserError if that fails."""
    folder = run_folder / "reference"
    reference.write_run_folder(folder, reference.train_py())
    script = Path(__file__).with_name("reference_evaluator.py")
    command = [sys.executable, str(script), "--reference", str(folder), "--train", str(run_folder / "train.py"), "--model",
               str(run_folder / "model.safetensors"), "--device", terms.device.torch_device]  # fmt: skip
    log = folder / "evaluation.log"
    environment = reference.environment() | ChildSettings(contract=terms.contract).environment()
    code = run_logged(command, folder=folder, environment=environment, log=log, seconds=EVALUATION_TIMEOUT_SECONDS)
    text = log.read_text(errors="replace")
    if code:
        raise UserError(f"The reference's evaluator failed with exit status {code}; its output ended with:\n{tail(text)}")
    answer = next(line for line in reversed(text.splitlines()) if line.startswith('{"bpb"'))  # warnings may follow it
    return float(json.loads(answer)["bpb"])


# --- the two modes ----------------------------------------------------------------------------------------------------


def sizes_for(terms: Terms, train_py: str) -> dict[str, Constant]:
    """Constants of our `train_py` that the reference needs to fit this hardware: on a large GPU only the device batch size."""
    names = {*profile_named(terms.profile).sizes, "DEVICE_BATCH_SIZE"}
    return {name: value for name, value in read_constants(train_py).items() if name in names}


def night_text(untouched: str, sizes: dict[str, Constant]) -> str:
    """The reference's train.py with the changes of its published night."""
    constants = read_constants(untouched)
    values = {name: value for name, value in STANDARD.items() if name in constants}
    return with_constants(edited(untouched, NIGHT_EDITS), values | sizes)


def speed_texts(terms: Terms, reference: Reference) -> dict[str, str]:
    """The train.py of each side, with the same architecture and batches."""
    free = terms.device.free_bytes if terms.device.kind == "cuda" else None
    ours, _ = fit_to_profile(terms.train_py, terms.profile, free, recipe="original")
    sizes = {name: value for name, value in read_constants(ours).items() if name in SIZES}
    return {UNTOUCHED: with_constants(reference.train_py(), sizes), OURS: ours}


def score_texts(terms: Terms, reference: Reference) -> dict[str, str]:
    """The train.py of each of the three recipes."""
    sizes = sizes_for(terms, terms.train_py)
    untouched = reference.train_py()
    return {UNTOUCHED: with_constants(untouched, sizes), NIGHT: night_text(untouched, sizes), OURS: terms.train_py}


async def run_scored(engine: LocalEngine, train_py: str, terms: Terms, reference: Reference, *, seed: int) -> Figures:
    """Makes one of our runs; the reference's evaluator scores its model as well."""
    folder = reference.work / "runs" / f"score-ours-{seed}"
    found = await run_ours(engine, train_py, terms, seed=seed, keep_in=folder)
    if found.status != "ok":
        return found
    try:
        return replace(found, reference_bpb=await asyncio.to_thread(score_by_reference, reference, folder, terms))
    except UserError as error:
        return replace(found, reason=str(error))


async def compare(terms: Terms, reference: Reference, options: argparse.Namespace, record: Record) -> None:
    """Makes the runs that are missing from the record: all variants for one seed, then for the next."""
    speed = options.mode == "speed"
    seeds = range(1, options.pairs + 1) if speed else options.seeds
    texts = speed_texts(terms, reference) if speed else score_texts(terms, reference)
    async with engine_for(terms) as engine:
        for seed, (variant, text) in product(seeds, texts.items()):
            if variant not in options.only or not record.lacks(variant, seed):
                continue
            if variant != OURS:
                name = f"{options.mode}-{VARIANTS.index(variant)}-{seed}"
                found = await asyncio.to_thread(reference.run, name, variant=variant, seed=seed, train_py=text)
            elif speed:
                found = await run_ours(engine, text, terms, seed=seed)
            else:
                found = await run_scored(engine, text, terms, reference, seed=seed)
            record.add(found)


# --- the command ------------------------------------------------------------------------------------------------------


def head_of(terms: Terms, reference: Reference, mode: str) -> Head:
    return Head(
        platform=platform_identity(terms.device),
        profile=terms.profile,
        budget=terms.contract.TIME_BUDGET,
        mode=mode,
        attention=reference.attention or "the first that serves",
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="FOLDER", help="holds its train.py and prepare.py")
    parser.add_argument("--mode", choices=list(BUDGETS), required=True)
    parser.add_argument("--pairs", type=int, default=2, help="pairs of runs in mode speed (default: 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="seeds in mode score (default: 1 2)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the reference's home, logs and models here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here; resume from this file if it exists")
    parser.add_argument("--only", choices=VARIANTS, default=VARIANTS, nargs="+", metavar="VARIANT",
                        help=f"run only these variants, of {', '.join(map(repr, VARIANTS))}")  # fmt: skip
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="FILE", help="include the runs in these files")
    add_terms(parser)
    options = parser.parse_args()
    options.budget = options.budget or BUDGETS[options.mode]
    return options


def find_reference(options: argparse.Namespace, terms: Terms, work: Path) -> Reference:
    """The requested reference, to run below `work`. Raises UserError if files are missing."""
    folder = options.reference.resolve()
    for name in ("train.py", "prepare.py"):
        if not (folder / name).is_file():
            raise UserError(f"There is no {name} in {folder}: name the reference's folder with --reference.")
    visible = judge_environment(terms.device)["CUDA_VISIBLE_DEVICES"]
    device = terms.device.torch_device
    compiled = compile_cache.shared_folder(terms.data.folder.parents[1], device)
    attention = attention_choice.choose(terms.contract, device, compiled)
    return Reference(folder=folder, work=work, contract=terms.contract, visible_device=visible, attention=attention)


def main() -> int:
    options = parse_arguments()
    with ExitStack() as stack:
        scratch = options.work or stack.enter_context(tempfile.TemporaryDirectory(prefix="autoresearch-reference-"))
        work = Path(scratch).resolve()
        try:
            terms = terms_of(options)
            reference = find_reference(options, terms, work)
            record = Record(head_of(terms, reference, options.mode), options.json, added=options.add)
            print("writing the reference's home folder", flush=True)
            write_stand_ins(work / "stand-ins")
            write_home(work / "home", terms.contract, terms.data, cache=cache_folder(options.cache))
            print(f"{terms.title()}\n{HEADING}", flush=True)
            record.begin()
            asyncio.run(compare(terms, reference, options, record))
        except UserError as error:
            raise SystemExit(str(error)) from None
    print(record.summary_text())
    return 0 if all(run.succeeded for run in record.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
