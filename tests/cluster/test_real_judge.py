"""The engine with the judge that ships, on a little text of its own."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import research
from cluster.engine import LocalEngine
from cluster.hardware import DeviceRequest, choose_devices
from research.data.prepare import prepare
from research.hyperparameters import write_constants
from research.profiles import contract_for
from research.result import RunSpec
from research.starting_hyperparameters import fit_to_profile
from tests.cluster.farm_samples import write_text
from tests.in_time import in_time


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Makes a spec by its id; a short contract on little text."""
    folder = tmp_path_factory.mktemp("real")
    text = write_text(folder / "text")
    contract = replace(contract_for("cpu", source=f"files:{text}"), EVAL_TOKENS=256 * 8)
    data = prepare(contract, cache=folder / "cache", say=lambda line: None)

    def make(run_id, budget):
        return RunSpec(
            run_id=run_id,
            contract=replace(contract, TIME_BUDGET=budget),
            seed=1,
        )

    make.data_folder = data.folder
    return make


@pytest.fixture(scope="module")
def train_py():
    """The one that ships, with steps so short that a busy machine does some in the budget."""
    text = Path(research.__file__).with_name("train.py").read_text()
    small = {"DEPTH": 1, "TOTAL_BATCH_SIZE": 512, "DEVICE_BATCH_SIZE": 2}
    return write_constants(fit_to_profile(text, "cpu", None)[0], small)


def test_a_run_and_a_cancelled_one(make_run, train_py, tmp_path, judge_command):
    device = choose_devices(DeviceRequest(kind="cpu"))[0]
    phases = []

    async def both():
        engine = LocalEngine({device: make_run.data_folder}, runs_folder=tmp_path, judge_command=judge_command)
        training = asyncio.Event()

        def note(progress):
            phases.extend([progress["phase"]] if "phase" in progress else [])  # now and then only that the worker lives
            if progress.get("phase") == "training":
                training.set()

        try:
            whole = await engine.execute(device, train_py, make_run("whole", 3.0), note)
            training.clear()
            cut = asyncio.create_task(engine.execute(device, train_py, make_run("cut", 60.0), note))
            await asyncio.wait_for(training.wait(), timeout=60)
            started = time.monotonic()
            cut.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cut
            return whole, in_time(started, 5)
        finally:
            await engine.close()

    whole, is_quick = asyncio.run(both())
    assert (whole.status, whole.run_id) == ("ok", "whole"), whole.reason
    assert 0 < whole.val_bpb < 9
    assert [phase for phase in dict.fromkeys(phases) if phase != "training"] == ["startup", "handover", "scoring"]
    assert is_quick
    assert [child for child in psutil.Process().children(recursive=True) if judge_command[-1] in child.cmdline()] == []
