"""The benchmark of a step, on a CPU."""

import contextlib
import io
import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.step import CHECKOUT, main, parse_arguments, run_measured, sides_of
from tests.research.judged import in_a_fork

TERMS = ["--profile", "cpu", "--steps", "1", "--warmup", "0", "--rounds", "1"]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def forked_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script is run in a fork that has imported torch."""

    def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        assert command[1] == str(CHECKOUT / "benchmarks" / "step.py")
        return subprocess.CompletedProcess(command, 0, in_a_fork(partial(printed, command[2:])))

    monkeypatch.setattr("benchmarks.step.subprocess.run", run)


def printed(arguments: list[str]) -> str:
    """What the script prints, without a GPU. Runs in a process of its own."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(arguments)
    return output.getvalue()


def test_it_compares_constants(no_gpu: None, forked_steps: None, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TERMS, "TOTAL_BATCH_SIZE=4096"])
    said = capsys.readouterr().out
    assert "this checkout" in said
    found = json.loads(said.splitlines()[-1])
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
