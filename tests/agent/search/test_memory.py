"""What search learns of memory from the runs before."""

import asyncio
from dataclasses import replace

import pytest

from agent.search.knobs import Constants
from agent.search.memory import MemoryModel, learned, limit_of
from agent.search.search import SearchResearcher
from agent.search.tried import Tried
from research.hyperparameters import read_constants
from research.recipes import Constant
from research.result import RunResult
from results.experiment import ExperimentRecord
from tests.agent.samples import make_context, make_record

TEXT = "DEPTH = 8\nASPECT_RATIO = 64\nDEVICE_BATCH_SIZE = 32\nMATRIX_LR = 0.04\n"
HEAD: dict[str, Constant] = {"DEPTH": 8, "ASPECT_RATIO": 64, "DEVICE_BATCH_SIZE": 32, "MATRIX_LR": 0.04}
PLATFORM = "NVIDIA H100 80GB HBM3, 80 GB, 700 W"


def tried_with(number: int, peak_mb: float | None, **changes: int) -> ExperimentRecord:
    """An experiment with these constants that took so much memory; None: it ran out of it."""
    record = make_record(number, val_bpb=None if peak_mb is None else 1.5, decision="crash" if peak_mb is None else "discard")
    run = RunResult(run_id=f"r{number}", status="oom" if peak_mb is None else "ok", reason="", seed=1, device="cuda:0",
                    peak_memory_mb=peak_mb)  # fmt: skip
    diff = "".join(f"@@ -1 +1 @@\n-{name} = {HEAD[name]}\n+{name} = {new}\n" for name, new in changes.items())
    experiment = replace(record.experiment, changes={name: (HEAD[name], new) for name, new in changes.items()}, diff=diff)
    return replace(record, experiment=experiment, runs=(run,))


def model_of(
    *records: ExperimentRecord, head_mb: float | None = 30_000.0, platform: str = PLATFORM, cap: float | None = None
) -> MemoryModel:
    context = make_context(records, TEXT, memory_cap_mb=cap)
    branch, head = replace(context.branch, platform=platform), replace(context.head, peak_memory_mb=head_mb)
    return learned(replace(context, branch=branch, head=head), records, Tried(TEXT, head.commit, records))


def test_what_is_predicted_beyond_the_device_is_refused() -> None:
    model = model_of(tried_with(1, 58_000.0, DEVICE_BATCH_SIZE=64), tried_with(2, 34_000.0, DEPTH=9))
    assert model.predicted_mb({**HEAD, "DEVICE_BATCH_SIZE": 64}) == pytest.approx(58_000, rel=0.05)
    assert model.refuses({**HEAD, "DEVICE_BATCH_SIZE": 128}) and model.refuses({**HEAD, "DEVICE_BATCH_SIZE": 64, "DEPTH": 14})
    assert not model.refuses({**HEAD, "DEVICE_BATCH_SIZE": 64, "DEPTH": 9}) and not model.refuses({**HEAD, "MATRIX_LR": 9.0})
    assert not model.refuses({**HEAD, "ASPECT_RATIO": 512})  # nothing was learned of it


def test_what_ran_out_of_memory_teaches_too() -> None:
    model = model_of(tried_with(1, None, DEPTH=16))
    assert model.refuses({**HEAD, "DEPTH": 16, "MATRIX_LR": 0.1}) and model.refuses({**HEAD, "DEPTH": 17})
    assert not model.refuses({**HEAD, "DEPTH": 9})
    both = model_of(tried_with(1, None, DEPTH=16), tried_with(2, 58_000.0, DEVICE_BATCH_SIZE=64))
    assert both.refuses({**HEAD, "DEPTH": 12, "DEVICE_BATCH_SIZE": 64})  # neither of which was run
    unmeasured = model_of(tried_with(1, None, DEPTH=16), head_mb=None, platform="a CPU")
    assert unmeasured.refuses({**HEAD, "DEPTH": 17}) and not unmeasured.refuses({**HEAD, "DEPTH": 15})


def test_the_limit_is_the_devices_or_the_users() -> None:
    context = make_context()
    assert limit_of(context) is None
    gpu = replace(context, branch=replace(context.branch, platform=PLATFORM))
    assert limit_of(gpu) == 80 * 1024 and limit_of(replace(gpu, memory_cap_mb=40_000.0)) == 40_000.0
    assert model_of(tried_with(1, 58_000.0, DEVICE_BATCH_SIZE=64), cap=50_000.0).refuses({**HEAD, "DEVICE_BATCH_SIZE": 64})


def test_search_proposes_nothing_that_will_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would without what it has learned."""
    records = (tried_with(1, 58_000.0, DEPTH=12), tried_with(2, None, ASPECT_RATIO=96))
    model, context = model_of(*records), make_context(records, TEXT)
    head = replace(context.head, peak_memory_mb=30_000.0)
    context = replace(context, head=head, branch=replace(context.branch, platform=PLATFORM))

    def proposed() -> list[Constants]:
        proposals = [asyncio.run(SearchResearcher(seed).propose(context)) for seed in range(30)]
        return [read_constants(proposal.train_py) for proposal in proposals]

    assert not any(map(model.refuses, proposed()))
    with monkeypatch.context() as patch:
        patch.setattr(MemoryModel, "refuses", lambda model, constants: False)
        heedless = proposed()
    assert any(map(model.refuses, heedless))
