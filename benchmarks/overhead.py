"""Seconds around training: what a run takes beside its time budget, cold, warm, and for edits, back to back as in a farm.

    uv run python benchmarks/overhead.py [--budget 60]

The first run finds no compiled code at all, the second that of the first; then come five edits, two of which change what has
to be compiled. Prints a table, what share of the time was spent on training, and how many runs an hour that makes at the
profile's own budget; then the same as JSON.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ablations import TRAIN_PY, variant_text

from cluster.engine import LocalEngine
from cluster.hardware import Device, choose_devices, platform_identity
from research.contract import Contract, cache_folder, choose_profile, contract_for, profile_named
from research.hyperparameters import fit_to_profile
from research.prepare import prepare
from research.result import RunSpec
from research.rows import PreparedData

EDITS = ("MATRIX_LR=0.05", "MLP_RATIO=3", "EMBEDDING_LR=0.5", "SOFTCAP=20.0", "WARMDOWN_RATIO=0.6")


@contextmanager
def without_compiled_code(data: PreparedData) -> Iterator[PreparedData]:
    """The same data in a cache that holds nothing else, by hard links."""
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=data.folder.parents[1]) as cache:
        folder = Path(cache) / "prepared" / data.folder.name
        folder.mkdir(parents=True)
        for path in data.folder.iterdir():
            os.link(path, folder / path.name)
        Path(cache).chmod(0o755)
        yield PreparedData.load(folder)


async def measure(
    texts: Mapping[str, str], *, device: Device, contract: Contract, data: PreparedData
) -> list[dict[str, object]]:
    """One run of each, in turn, on one engine; prints a line for each."""
    print(f"{'wall s':>8}{'start s':>9}{'train s':>9}{'score s':>9}{'outside s':>11}  run")
    found: list[dict[str, object]] = []
    engine = LocalEngine([device])
    try:
        for name, text in texts.items():
            with tempfile.TemporaryDirectory(prefix="autoresearch-overhead-") as folder:
                spec = RunSpec(run_id="overhead", contract=contract, seed=1, device=device.torch_device,
                               data_folder=str(data.folder), run_folder=str(Path(folder) / "run"))  # fmt: skip
                began = time.monotonic()
                result = await engine.execute(device, text, spec, lambda _: None)
                wall = time.monotonic() - began
            if result.status != "ok":
                raise SystemExit(f"{name}: {result.status}, {result.reason}")
            start, train, score = result.startup_seconds or 0.0, result.training_seconds or 0.0, result.scoring_seconds or 0.0
            outside = wall - contract.TIME_BUDGET
            print(f"{wall:>8.1f}{start:>9.1f}{train:>9.1f}{score:>9.1f}{outside:>11.1f}  {name}", flush=True)
            found.append({"run": name, "wall": wall, "startup": start, "training": train, "scoring": score, "outside": outside})
    finally:
        await engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a run takes beside its time budget.")
    parser.add_argument("--profile", help="default: what the hardware suggests")
    parser.add_argument("--budget", type=float, help="seconds of training in a run")
    parser.add_argument("--source", help="of the text")
    parser.add_argument("--devices", help="one device: 0 or cpu or mps (default: the best that is there)")
    parser.add_argument("--cache", help="of prepared data")
    options = parser.parse_args()
    device = choose_devices(options.devices)[0]
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    data = prepare(contract, cache=cache_folder(options.cache), say=print)
    base, _ = fit_to_profile(TRAIN_PY.read_text(), profile, device.free_bytes if device.kind == "cuda" else None)
    texts = {"as it is, nothing compiled": base, "as it is": base} | {edit: variant_text(edit, base) for edit in EDITS}
    print(f"{platform_identity(device)}, profile {profile}, {contract.TIME_BUDGET:g} s")
    with without_compiled_code(data) as alone:
        found = asyncio.run(measure(texts, device=device, contract=contract, data=alone))
    edits = [float(str(run["wall"])) for run in found[2:]]
    share = len(edits) * contract.TIME_BUDGET / sum(edits)
    outside = sum(edits) / len(edits) - contract.TIME_BUDGET
    full = profile_named(profile).contract.TIME_BUDGET
    hourly = 3600 / (full + outside)
    print(f"five edits: {share:.1%} of the time was training; {hourly:.2f} runs an hour at {full:g} s (of {3600 / full:.0f})")
    print(json.dumps({"platform": platform_identity(device), "profile": profile, "budget": contract.TIME_BUDGET,
                      "training_share": share, "runs_an_hour": hourly, "runs": found}))  # fmt: skip


if __name__ == "__main__":
    main()
