"""Our train.py against a reference: karpathy/autoresearch's own train.py and prepare.py, executed from a folder.

    uv run python benchmarks/training.py --reference FOLDER --mode speed [--pairs 2] [--budget 60]
    uv run python benchmarks/training.py --reference FOLDER --mode score [--seeds 1 2] [--budget 120]

Both sides train on the same documents under the same tokenizer, with the same attention kernel (ours: the reference's has to be
fetched), on the same device in turn. Of the reference a copy runs that has another seed and time budget, and the sizes of a
smaller profile where that is asked for. `speed` has both train the same architecture in the same batches, and compares tokens a
second, memory, and what a run takes beside its training (ours is judged as an experiment that is not kept). `score` compares
three recipes by the reference's own evaluator: the reference as it is, with what its published night changed, and ours as
shipped.

Each side packs documents by its own code, and the reference crops them, so that its evaluator and our judge score different
rows: with short rows they are far apart. The reference's budget starts after 11 steps, which it has for nothing. On a CPU,
which the reference doesn't know, an edited copy runs: a smoke test, not a measurement.

Prints a line for each run as it ends, then the differences; `--json` has all figures after each run. Where that file is there
already the benchmark goes on: what has gone well is not run again. Two of these at once need a GPU each (CUDA_VISIBLE_DEVICES),
and a `--work` folder and a `--json` file each. They can share the work: `--only` has one run some variants alone, and `--add`
takes what the other has run into table and differences.

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

from reference_figures import HEADING, NIGHT, OURS, UNTIMED_STEPS, UNTOUCHED, VARIANTS, Figures, Head, Record
from reference_home import write_home, write_stand_ins
from reference_run import NIGHT_EDITS, Reference, edited, run_logged, tail, with_constants
from terms import Terms, add_terms, engine_for, run_once, terms_of

from cluster.engine import LocalEngine
from cluster.hardware import platform_identity
from cluster.judge_process import judge_environment
from research.contract import cache_folder
from research.errors import UserError
from research.hyperparameters import fit_to_profile, read_constants
from research.kernels import attention_choice, compile_cache
from research.profiles import SIZES, STANDARD, Constant, profile_named
from research.result import RunResult
from research.settings import ChildSettings

BUDGETS = {"speed": 60.0, "score": 120.0}
"""Seconds of training in a run, by mode."""

EVALUATION_SECONDS = 900.0


# --- one run of ours --------------------------------------------------------------------------------------------------


async def run_ours(engine: LocalEngine, train_py: str, terms: Terms, *, seed: int, keep_in: Path | None = None) -> Figures:
    """One judged run; where its folder is kept it is checked as one that is kept."""
    began = time.monotonic()
    keep_below = None if keep_in else 0.0
    result = await run_once(engine, train_py, terms, seed=seed, keep_below=keep_below, keep_in=keep_in)
    return our_figures(result, train_py, wall=time.monotonic() - began)


def our_figures(result: RunResult, train_py: str, *, wall: float) -> Figures:
    """What the judge found, and what train.py reported of its speed."""
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
    """Tokens a second between neighbouring points of a loss curve (seconds, step, loss)."""
    points = [(seconds, step) for seconds, step, _ in curve if step >= UNTIMED_STEPS]
    speeds = [batch * (step - step0) / (now - then) for (then, step0), (now, step) in pairwise(points) if now > then]
    return statistics.median(speeds) if speeds else None


def score_by_reference(reference: Reference, run_folder: Path, terms: Terms) -> float:
    """Bits per byte of a kept run's model by the reference's evaluator, in a fresh process. Raises UserError."""
    folder = run_folder / "reference"
    reference.lay_out(folder, reference.train_py())
    script = Path(__file__).with_name("reference_evaluator.py")
    command = [sys.executable, str(script), "--reference", str(folder), "--train", str(run_folder / "train.py"), "--model",
               str(run_folder / "model.safetensors"), "--device", terms.device.torch_device]  # fmt: skip
    log = folder / "evaluation.log"
    environment = reference.environment() | ChildSettings(contract=terms.contract).environment()
    code = run_logged(command, folder=folder, environment=environment, log=log, seconds=EVALUATION_SECONDS)
    text = log.read_text(errors="replace")
    if code:
        raise UserError(f"The reference's evaluator failed with exit status {code}:\n{tail(text)}")
    answer = next(line for line in reversed(text.splitlines()) if line.startswith('{"bpb"'))  # warnings may come after it
    return float(json.loads(answer)["bpb"])


# --- the two modes ----------------------------------------------------------------------------------------------------


def sizes_for(terms: Terms, train_py: str) -> dict[str, Constant]:
    """What the reference must take from our `train_py` to fit this hardware: nothing but the device batch on a large GPU."""
    names = {*profile_named(terms.profile).sizes, "DEVICE_BATCH_SIZE"}
    return {name: value for name, value in read_constants(train_py).items() if name in names}


def night_text(untouched: str, sizes: dict[str, Constant]) -> str:
    """The reference under the hyperparameters of its published night."""
    constants = read_constants(untouched)
    values = {name: value for name, value in STANDARD.items() if name in constants}
    return with_constants(edited(untouched, NIGHT_EDITS), values | sizes)


def speed_texts(terms: Terms, reference: Reference) -> dict[str, str]:
    """Each side's train.py, on the same architecture and batches."""
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
    """A run of ours, its model scored by the reference's evaluator, too."""
    folder = reference.work / "runs" / f"score-ours-{seed}"
    found = await run_ours(engine, train_py, terms, seed=seed, keep_in=folder)
    if found.status != "ok":
        return found
    try:
        return replace(found, reference_bpb=await asyncio.to_thread(score_by_reference, reference, folder, terms))
    except UserError as error:
        return replace(found, reason=str(error))


async def compare(terms: Terms, reference: Reference, options: argparse.Namespace, record: Record) -> None:
    """Makes the runs that the record lacks, in turn, seed by seed."""
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
    parser.add_argument("--reference", type=Path, required=True, metavar="FOLDER", help="its train.py and prepare.py")
    parser.add_argument("--mode", choices=list(BUDGETS), required=True)
    parser.add_argument("--pairs", type=int, default=2, help="of runs, in mode speed (default: 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="in mode score (default: 1 2)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the reference's home, logs and models here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, and go on with what is here")
    parser.add_argument("--only", choices=VARIANTS, default=VARIANTS, nargs="+", metavar="VARIANT",
                        help=f"run no others than these, of {', '.join(map(repr, VARIANTS))}")  # fmt: skip
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="FILE", help="count the runs in these, too")
    add_terms(parser)
    options = parser.parse_args()
    options.budget = options.budget or BUDGETS[options.mode]
    return options


def find_reference(options: argparse.Namespace, terms: Terms, work: Path) -> Reference:
    """The reference that is asked for, to run below `work`. Raises UserError."""
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
    return 0 if all(run.whole for run in record.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
