import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.hardware import Device
from research.contract import contract_for
from research.result import RunSpec

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
        "threads": 16,
        "uuid": f"GPU-{index}abc",
    }
    return Device(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], RunSpec]:
    def make(run_id: str = "run1") -> RunSpec:
        folder = tmp_path / run_id
        folder.mkdir(exist_ok=True)
        return RunSpec(
            run_id=run_id,
            contract=contract_for("cpu"),
            seed=7,
            device="cpu",
            data_folder=str(tmp_path),
            run_folder=str(folder),
        )

    return make
