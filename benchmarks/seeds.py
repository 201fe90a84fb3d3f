"""Measures what a seed does to a score: losses of the first steps, the spread between seeds, and of differences under one seed.

    uv run python benchmarks/seeds.py --budget 60 --seeds 4 --repeats 3 "MATRIX_LR=0.046" "X0_LR=0.5"

Trains the shipped train.py, and variants of it, in this process on the profile's prepared data, as the judge does but without
one: no start-up, compiled once, and scored on --rows validation rows in order. All variants run with one seed before the next
begins. With --steps the schedule follows the steps instead of the clock, so that a busy machine changes nothing. Prints each
run, then for each variant the mean and the standard deviation over seeds, and of its difference to the first variant under the
same seeds, with their correlation; then the same as JSON.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.step import module_of
from benchmarks.terms import Terms, add_terms, constants_of, terms_of
from research.child_settings import ChildSettings
from research.contract import Contract
from research.data.prepared import PreparedData
from research.errors import UserError
from research.feed import RowFeed, inputs_and_targets, to_device
from research.hyperparameters import write_constants
from research.sandbox.linux import keep_freed_memory

SHOWN_STEPS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Steps, from 0, whose training loss is reported."""

AS_IT_IS = "as it is"


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One training run."""

    seed: int
    steps: int
    bpb: float
    """Validation bits per byte."""
    losses: Mapping[int, float]
    """Training loss in nats per token of the SHOWN_STEPS."""


class Variant:
    """A train.py that is built and compiled once, and trained from scratch again and again."""

    def __init__(self, name: str, train_py: str, contract: Contract, data: PreparedData) -> None:
        """`name` must be unique in this process."""
        os.environ.update(ChildSettings(contract=contract).environment())
        self._train: Any = module_of(train_py, name)
        self._model = self._train.build_model()
        self._device = next(self._model.parameters()).device
        self._optimizer = self._train.Optimizer(self._model)
        on_gpu = self._device.type == "cuda"
        self._forward = torch.compile(self._model, dynamic=False) if on_gpu else self._model
        self._data, self._token_bytes = data, torch.from_numpy(data.token_bytes()).long().to(self._device)
        self._rows = data.load_rows("train")

    def run(self, seed: int, *, budget: float, steps: int | None, eval_rows: int) -> SeedRun:
        """Trains for `budget` seconds, or for `steps` steps if they are given, and scores the model."""
        torch.manual_seed(seed)
        self._model.init_weights()
        self._optimizer.reset()
        feed = RowFeed(self._rows, self._device, seed)
        losses: list[torch.Tensor] = []
        began = time.perf_counter()
        while (progress := len(losses) / steps if steps else (time.perf_counter() - began) / budget) < 1:
            losses.append(self._step(feed, len(losses), progress))
            if steps is None and self._device.type == "cuda":
                torch.cuda.synchronize()  # else steps are enqueued long before they run
        shown = {step: losses[step].item() for step in SHOWN_STEPS if step < len(losses)}
        return SeedRun(seed=seed, steps=len(losses), bpb=self._score(eval_rows), losses=shown)

    def _step(self, feed: RowFeed, step: int, progress: float) -> torch.Tensor:
        batch = self._train.DEVICE_BATCH_SIZE
        count = self._train.TOTAL_BATCH_SIZE // (batch * self._train.MAX_SEQ_LEN)
        for _ in range(count):
            loss = self._forward(*feed.take(batch))
            (loss / count).backward()
        self._optimizer.step(step, progress)
        self._model.zero_grad(set_to_none=True)
        return loss.detach()  # type: ignore[no-any-return]

    @torch.no_grad()
    def _score(self, rows: int) -> float:
        """Bits per byte over the first `rows` validation rows, whole batches of them."""
        batch, val = self._train.DEVICE_BATCH_SIZE, self._data.load_rows("val")
        nats, size = 0.0, 0
        for start in range(0, min(rows, len(val)) // batch * batch, batch):
            x, y = inputs_and_targets(to_device(val[start : start + batch].copy(), self._device))
            nats += self._forward(x, y).item() * y.numel()
            size += int(self._token_bytes[y].sum())
        return nats / size / math.log(2)


def measure(texts: Mapping[str, str], terms: Terms, options: argparse.Namespace) -> dict[str, list[SeedRun]]:
    """Runs all variants with each seed, and the first with the first seed --repeats more times; prints each run."""
    variants = {
        name: Variant(f"train_{number}", text, terms.contract, terms.data) for number, (name, text) in enumerate(texts.items())
    }
    length = {"budget": terms.contract.TIME_BUDGET, "steps": options.steps, "eval_rows": options.rows}
    for variant in variants.values():
        variant.run(0, **{**length, "steps": 2})  # compiles
    runs: dict[str, list[SeedRun]] = {name: [] for name in texts}
    print(f"{'seed':>5} {'steps':>6} {'val_bpb':>8}  " + "".join(f"{f'step {step}':>9}" for step in SHOWN_STEPS) + "  variant")
    seeds = [*range(options.first_seed, options.first_seed + options.seeds)]
    jobs = [(name, seed) for seed in seeds for name in variants] + [(AS_IT_IS, seeds[0])] * options.repeats
    for name, seed in jobs:
        run = variants[name].run(seed, **length)
        runs[name].append(run)
        print(f"{seed:>5} {run.steps:>6} {run.bpb:>8.4f}  " + "".join(f"{x:>9.3f}" for x in run.losses.values()), "", name,
              flush=True)  # fmt: skip
    return runs


def summary(runs: Mapping[str, Sequence[SeedRun]]) -> str:
    """The table over seeds, with one line per variant, and one for the repeats of one seed."""
    first = {run.seed: run.bpb for run in reversed(runs[AS_IT_IS])}
    lines = [f"{'val_bpb':>8} {'sd':>8} {'change':>9} {'sd':>8} {'correlation':>12}  variant"]
    for name, found in runs.items():
        scores = {run.seed: run.bpb for run in reversed(found)}
        line = f"{statistics.fmean(scores.values()):>8.4f} {_sd(scores.values()):>8}"
        if name != AS_IT_IS:
            changes = [scores[seed] - first[seed] for seed in first]
            pairs = list(first.values()), list(scores.values())
            together = f"{statistics.correlation(*pairs):.3f}" if len(changes) > 2 else "-"
            line += f" {statistics.fmean(changes):>+9.4f} {_sd(changes):>8} {together:>12}"
        lines.append(f"{line:<49}  {name}")
    repeats = [run.bpb for run in runs[AS_IT_IS] if run.seed == runs[AS_IT_IS][0].seed]
    if len(repeats) > 1:
        lines.append(
            f"{statistics.fmean(repeats):>8.4f} {_sd(repeats):>8}{'':>32}  {AS_IT_IS}, seed {runs[AS_IT_IS][0].seed} alone"
        )
    return "\n".join(lines)


def _sd(values: Any) -> str:
    found = list(values)
    return f"{statistics.stdev(found):.4f}" if len(found) > 1 else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("variants", nargs="*", help="NAME=value [NAME=value ...]")
    add_terms(parser)
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds (default: 4)")
    parser.add_argument("--first-seed", type=int, default=1, help="first seed (default: 1)")
    parser.add_argument("--repeats", type=int, default=0, help="more runs of the first variant with the first seed")
    parser.add_argument("--steps", type=int, help="train for this many steps instead of a time")
    parser.add_argument("--rows", type=int, default=2560, help="validation rows to score on (default: 2560)")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_float32_matmul_precision("high")
    try:
        terms = terms_of(options)
        texts = {AS_IT_IS: terms.train_py}
        texts |= {variant: write_constants(terms.train_py, constants_of(variant)) for variant in options.variants}
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(terms.title())
    runs = measure(texts, terms, options)
    print(summary(runs))
    print(json.dumps({name: [asdict(run) for run in found] for name, found in runs.items()}))


if __name__ == "__main__":
    main()
