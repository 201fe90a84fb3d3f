"""The benchmark of a step, on a CPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.step import CHECKOUT, main, parse_arguments, run_measured, sides_of

TERMS = ["--profile", "cpu", "--steps", "1", "--warmup", "0", "--rounds", "1"]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_it_compares_constants_as_a_script(no_gpu: None) -> None:
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "step.py"), *TERMS, "TOTAL_BATCH_SIZE=4096"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "this checkout" in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    (usual,), (larger,) = found["sides"]["this checkout"], found["sides"]["TOTAL_BATCH_SIZE=4096"]
    assert usual["ms"] > 0 and usual["alone_ms"] > 0
    assert found["ratios"] == {"TOTAL_BATCH_SIZE=4096": larger["ms"] / usual["ms"]}
    assert larger["tokens_per_second"] * larger["ms"] == pytest.approx(4096 * 1000)


def test_another_checkouts_own_code_is_measured(no_gpu: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("research", "benchmarks"):
        shutil.copytree(CHECKOUT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    train_py = tmp_path / "research" / "train.py"
    train_py.write_text("raise SystemExit('the other one')\n" + train_py.read_text())
    options = parse_arguments([*TERMS, "--against", str(tmp_path)])
    folder, constants = sides_of(options)["the other checkout"]
    with pytest.raises(SystemExit, match="failed with exit status 1"):
        run_measured(folder, constants, options)
    assert "the other one" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--against", "/"], "no research/train.py"), (["DEPTH"], "NAME=value"), (["DEPHT=3"], "no constant DEPHT")],
)
def test_a_mistake_is_a_line(arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        main([*TERMS, *arguments])
