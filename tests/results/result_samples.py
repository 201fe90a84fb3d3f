"""Records to fill a store with."""

from typing import Any

from research.profiles import PROFILES
from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentRecord, Usage, Verdict
from results.store import Store

NAME = "autoresearch/mar8"


def make_branch(name: str = NAME, **changes: Any) -> Branch:
    values: dict[str, Any] = {
        "name": name,
        "tag": name.removeprefix("autoresearch/"),
        "loop": 0,
        "profile": "standard",
        "contract_json": PROFILES["standard"].contract.to_json(),
        "score_fingerprint": "5c0e",
        "data_fingerprint": "da7a",
        "platform": "NVIDIA H100 80GB HBM3, 80 GB, 700 W",
        "baseline_commit": "ba5e11e",
        "created": "2026-03-08T20:00:00Z",
    }
    return Branch(**{**values, **changes})


def make_experiment(number: int, *, branch: str = NAME, **changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "id": f"{branch.rpartition('/')[2]}-{number:04d}",
        "branch": branch,
        "number": number,
        "kind": "explore" if number else "baseline",
        "commit": f"{number:04x}".ljust(40, "c"),
        "parent_commit": "0" * 40,
        "title": f"idea {number}" if number else "baseline",
        "hypothesis": "it should learn faster",
        "researcher": "search",
        "changes": {"DEPTH": (8, 9), "ADAM_BETAS": ((0.8, 0.95), (0.9, 0.95))} if number else {},
        "diff": f"-DEPTH = 8\n+DEPTH = 9  # idea {number}\n",
        "lines_added": 1,
        "lines_removed": 1,
        "usage": Usage(model="m", input_tokens=10, output_tokens=5, cost_usd=0.25, seconds=2.0) if number else Usage(),
        "created": f"2026-03-08T20:{number % 60:02d}:00Z",
    }
    return Experiment(**{**values, **changes})


def make_run(run_id: str, val_bpb: float | None = None, **changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "run_id": run_id,
        "status": "crash" if val_bpb is None else "ok",
        "reason": "",
        "seed": 1,
        "device": "cuda:0",
        "val_bpb": val_bpb,
    }
    if val_bpb is not None:
        values |= {
            "audit_bpb": val_bpb + 0.25,
            "audit_rows": 512,
            "training_seconds": 300.0,
            "total_seconds": 340.0,
            "peak_memory_mb": 45_000.0,
            "sandbox": ("landlock",),
            "reported_curve": ((1.0, 1, 9.0), (2.0, 2, 8.5)),
        }
    return RunResult(**{**values, **changes})


def add(store: Store, number: int, decision: str, val_bpb: float | None, **verdict: Any) -> ExperimentRecord:
    """An experiment with one run and its verdict."""
    experiment = make_experiment(number)
    store.add_experiment(experiment)
    status = {"invalid": "invalid", "lost": "lost"}.get(decision, "crash" if val_bpb is None else "ok")
    store.add_run(experiment.id, make_run(f"{experiment.id}-r0", val_bpb, status=status))
    store.add_verdict(experiment.id, Verdict(decision=decision, reason=f"it was a {decision}", **verdict))  # type: ignore[arg-type]
    return store.record(experiment.id)
