"""Measures the overhead of a run beyond its time budget: cold, warm, and for edits, back to back as in a farm.

    uv run python benchmarks/overhead.py [--budget 60]

The first run starts with an empty compile cache except for the attention kernels, which `farm prepare` measures once (timed
separately here); the second run finds the code that the first one compiled. Five edits follow, two of which require another
compilation. They are judged as in a farm: a run that would be kept (the first one, and each that beats it by more than the
profile's noise) gets all checks; with --kept every run gets them. With --start-ahead, the processes of an edit are started
speculatively while the run before it is scored, as `farm run` does on a GPU: `start s` is then the remaining startup time.
Prints a table, the share of time spent in training, and the runs per hour at the profile's own budget; then the same as JSON.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.terms import Terms, add_terms, engine_for, terms_of, variant_text
from cluster.engine import LocalEngine
from cluster.hardware import platform_identity
from cluster.judge_process import Progress, judge_environment
from research.data.prepared import PreparedData
from research.errors import UserError
from research.kernels import attention_choice, compile_cache
from research.profiles import profile_named
from research.result import RunSpec

EDITS = ("MATRIX_LR=0.05", "MLP_RATIO=3", "EMBEDDING_LR=0.5", "SOFTCAP=20.0", "WARMDOWN_RATIO=0.6")


@contextmanager
def without_compiled_code(data: PreparedData) -> Iterator[PreparedData]:
    """The data, hard-linked into a temporary cache that holds nothing else."""
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=data.folder.parents[1]) as cache:
        folder = Path(cache) / "prepared" / data.folder.name
        folder.mkdir(parents=True)
        for path in data.folder.iterdir():
            os.link(path, folder / path.name)
        Path(cache).chmod(0o755)
        yield PreparedData.load(folder)


def choose_attention(terms: Terms, data: PreparedData) -> float:
    """Finds the fastest attention kernel; prints its name, and returns the seconds that this took."""
    began = time.monotonic()
    device = terms.device.torch_device
    shared = compile_cache.shared_folder(data.folder.parents[1], device)
    kernel = attention_choice.choose(terms.contract, device, shared, environment=judge_environment(terms.device))
    seconds = time.monotonic() - began
    if kernel is not None:
        print(f"fastest attention kernel: {kernel}, measured in {seconds:.1f} s")
    return seconds


async def measure(texts: Mapping[str, str], terms: Terms, *, ahead: bool, kept: bool) -> list[dict[str, float | str]]:
    """Runs each of the texts, one after the other, on one engine; prints a line for each."""
    print(f"{'wall s':>8}{'start s':>9}{'train s':>9}{'score s':>9}{'outside s':>11}  run")
    found: list[dict[str, float | str]] = []
    bar: float | None = None
    sigma = profile_named(terms.profile).sigma

    def spec_of(name: str) -> RunSpec:
        return RunSpec(run_id=name, contract=terms.contract, seed=1, keep_below=bar)

    def start_next(engine: LocalEngine, following: list[str], progress: Progress) -> None:
        if ahead and progress.get("phase") == "scoring" and bar is not None and following:
            name = following.pop()
            engine.start_speculatively(terms.device, texts[name], spec_of(name))

    async with engine_for(terms) as engine:
        for index, name in enumerate(texts):
            began = time.monotonic()
            following = list(texts)[index + 1 : index + 2]
            result = await engine.execute(terms.device, texts[name], spec_of(name), partial(start_next, engine, following))
            wall = time.monotonic() - began
            if result.status != "ok":
                raise SystemExit(f"{name}: {result.status}, {result.reason}")
            bar = None if kept else (result.val_bpb or 0.0) - sigma if bar is None else bar
            start, train, score = result.startup_seconds or 0.0, result.training_seconds or 0.0, result.scoring_seconds or 0.0
            outside = wall - terms.contract.TIME_BUDGET
            print(f"{wall:>8.1f}{start:>9.1f}{train:>9.1f}{score:>9.1f}{outside:>11.1f}  {name}", flush=True)
            found.append({"run": name, "wall": wall, "startup": start, "training": train, "scoring": score, "outside": outside})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the overhead of a run beyond its time budget.")
    add_terms(parser)
    parser.add_argument("--start-ahead", action="store_true", help="start each edit's processes while another run is scored")
    parser.add_argument("--kept", action="store_true", help="check every run as one that may be kept")
    options = parser.parse_args()
    if options.kept and options.start_ahead:
        raise SystemExit("--start-ahead starts runs by a bar, and --kept has none: choose one.")
    try:
        terms = terms_of(options)
    except UserError as error:
        raise SystemExit(str(error)) from None
    base, budget = terms.train_py, terms.contract.TIME_BUDGET
    texts = {"as it is, nothing compiled": base, "as it is": base} | {edit: variant_text(edit, terms) for edit in EDITS}
    print(terms.title())
    with without_compiled_code(terms.data) as alone:
        attention = choose_attention(terms, alone)
        found = asyncio.run(measure(texts, replace(terms, data=alone), ahead=options.start_ahead, kept=options.kept))
    walls = [float(run["wall"]) for run in found[2:]]
    share, outside = len(walls) * budget / sum(walls), sum(walls) / len(walls) - budget
    full = profile_named(terms.profile).contract.TIME_BUDGET
    hourly = 3600 / (full + outside)
    print(f"five edits: {share:.1%} of the time in training; at {full:g} s {hourly:.2f} runs per hour (of {3600 / full:.0f})")
    print(json.dumps({"platform": platform_identity(terms.device), "profile": terms.profile, "budget": budget,
                      "start_ahead": options.start_ahead, "attention_seconds": attention,
                      "training_share": share, "runs_an_hour": hourly, "runs": found}))  # fmt: skip


if __name__ == "__main__":
    main()
