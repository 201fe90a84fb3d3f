"""Devices, runs and a judge for tests."""

import json
import random
import sys
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from cluster.hardware import Device
from research.profiles import contract_for
from research.result import RunResult, RunSpec
from results.experiment import Branch, Decision, Experiment, ExperimentKind, Usage, Verdict
from results.group_entries import GAIN
from results.head_gain import ExpectedGain, gain_event
from results.store import Store
from tests.results.new_home import with_tables

FAKE_JUDGE = (sys.executable, str(Path(__file__).with_name("fake_judge.py")))

CPU = Device(kind="cpu", index=0, name="Some CPU", memory_bytes=8 * 2**30, free_bytes=4 * 2**30, threads=2)


def gpu(index: int = 0, **changes: object) -> Device:
    values = {
        "kind": "cuda",
        "index": index,
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 81559 * 2**20,
        "free_bytes": 80 * 10**9,
        "power_limit_watts": 700.0,
        "capability": (9, 0),
        "threads": 16,
        "uuid": f"GPU-{index}abc",
    }
    return Device(**{**values, **changes})  # type: ignore[arg-type]


def make_spec(folder: Path, run_id: str = "run1") -> RunSpec:
    """A run whose folder is made in `folder`."""
    (folder / run_id).mkdir(exist_ok=True)
    return RunSpec(run_id=run_id, contract=contract_for("cpu"), seed=7)


def make_history(home: Path, *, commits: tuple[str, str, str] = ("a" * 40, "b" * 40, "c" * 40),
                 audit_bpb: float | None = None, **changes: str) -> None:  # fmt: skip
    """A new home with one branch: a baseline, a keep and a discard, of these commits; `changes` are of the branch."""
    home.mkdir(parents=True, exist_ok=True)
    for name, data in _history(commits, audit_bpb, tuple(changes.items())).items():
        (home / name).write_bytes(data)


@lru_cache(maxsize=8)
def _history(commits: tuple[str, str, str], audit_bpb: float | None, changes: tuple[tuple[str, str], ...]) -> dict[str, bytes]:
    """The files of such a home: hundreds of tests begin with the same, and recording it takes each a tenth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        _record_history(Path(folder), commits, audit_bpb, dict(changes))
        return {name: Path(folder, name).read_bytes() for name in ("journal.jsonl", "farm.duckdb")}


def _record_history(home: Path, commits: tuple[str, str, str], audit_bpb: float | None, changes: dict[str, str]) -> None:
    branch = Branch(
        name="autoresearch/mar8",
        tag="mar8",
        loop=0,
        profile="cpu",
        contract_json=contract_for("cpu").to_json(),
        score_fingerprint="5c0e",
        data_fingerprint="da7a",
        platform="Some CPU, 2 threads",
        baseline_commit=commits[0],
        created="2026-03-08T20:00:00Z",
    )
    branch = replace(branch, **changes)  # type: ignore[arg-type]
    outcomes: list[tuple[ExperimentKind, Decision, float]] = [
        ("baseline", "keep", 3.0),
        ("explore", "keep", 2.5),
        ("explore", "discard", 2.75),
    ]
    with Store.open(with_tables(home)) as store:
        store.add_branch(branch)
        for number, (kind, decision, val_bpb) in enumerate(outcomes):
            experiment = Experiment(
                id=f"mar8-{number:04d}",
                branch=branch.name,
                number=number,
                kind=kind,
                commit=commits[number],
                parent_commit=commits[0],
                title=f"idea {number}",
                hypothesis="it should learn faster",
                researcher="search",
                usage=Usage(model="m", cost_usd=0.25),
                created=f"2026-03-08T20:{number:02d}:00Z",
            )
            store.add_experiment(experiment)
            run = RunResult(
                run_id=f"mar8-{number:04d}-1",
                status="ok",
                reason="ran",
                seed=1,
                device="cpu",
                val_bpb=val_bpb,
                audit_bpb=audit_bpb,
                training_seconds=15.0,
                total_seconds=25.0,
            )
            store.add_run(experiment.id, run)
            store.add_verdict(experiment.id, Verdict(decision=decision, reason=f"it was a {decision}"))
        gain = ExpectedGain(baseline=2.99, gain=0.48, low=0.44, high=0.52, sigma=0.02)  # recorded, as a loop does
        store.add_event(GAIN, gain_event(branch.name, commits[1], 1 + len(outcomes), gain))


def write_text(folder: Path, *, documents: int = 1200, seed: str = "text") -> Path:
    """A new folder with short documents of words by chance, enough for some evaluation rows."""
    random_words = random.Random(seed)
    folder.mkdir()
    with (folder / "documents.jsonl").open("w") as file:
        for _ in range(documents):
            text = " ".join("".join(random_words.choices("abcdefghij", k=random_words.randint(2, 7))) for _ in range(60))
            file.write(json.dumps({"text": text}) + "\n")
    return folder
