"""Which kernel is chosen: by what was measured, and what is done where nothing could be."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from research.kernels.attention import KERNELS, kernel_name
from research.kernels.attention_choice import FALLBACK_KERNEL, choose, is_worth_measuring
from research.profiles import PROFILES

CONTRACT = PROFILES["small"].contract


def stored(shared: Path) -> Path:
    return shared / f"attention-{CONTRACT.MAX_SEQ_LEN}.json"


def test_there_is_nothing_to_choose_on_a_cpu(tmp_path: Path) -> None:
    assert choose(CONTRACT, "cpu", tmp_path) is None
    assert not stored(tmp_path).exists()


def test_the_fastest_is_chosen_and_measured_once(tmp_path: Path) -> None:
    measured = {"milliseconds": {"torch-flash": 5.9, "flex": 4.9}, "failed": {"flash-attn-4": "ImportError"}}
    stored(tmp_path).write_text(json.dumps(measured))
    assert choose(CONTRACT, "cuda:0", tmp_path) == "flex"
    assert json.loads(stored(tmp_path).read_text()) == measured


@pytest.mark.parametrize("text", ["{", "{}", '{"milliseconds": {}, "failed": {"flex": "Error"}}'])
def test_without_a_measurement_a_kernel_of_torch_is_chosen(tmp_path: Path, text: str) -> None:
    stored(tmp_path).write_text(text)
    assert choose(CONTRACT, "cuda:0", tmp_path) == FALLBACK_KERNEL
    assert FALLBACK_KERNEL in KERNELS


@pytest.mark.parametrize(
    ("name", "measured", "expected"),
    [
        ("flash-attn-4", {}, True),
        ("torch-flash", {"flash-attn-4": 2.0}, True),
        ("flex", {"torch-flash": 3.0}, True),
        ("flex", {"torch-flash": 3.0, "flash-attn-4": 2.0}, False),
        ("flex", {"flash-attn-3": 2.0}, False),
        ("sdpa", {}, False),
    ],
)
def test_what_cannot_win_is_not_measured(name: str, measured: dict[str, float], expected: bool) -> None:
    assert is_worth_measuring(name, measured) is expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is visible")
def test_measuring_without_a_gpu_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(CONTRACT, "cuda:0", tmp_path / "new") == FALLBACK_KERNEL
    log = stored(tmp_path / "new").with_suffix(".log")
    assert "Error" in log.read_text()
    log.write_text("not tried again at once")
    assert choose(CONTRACT, "cuda:0", tmp_path / "new") == FALLBACK_KERNEL
    assert log.read_text() == "not tried again at once"
    os.utime(log, (0, 0))
    monkeypatch.setattr(sys, "executable", "/bin/false")  # fails like the measurement, without importing torch
    assert choose(CONTRACT, "cuda:0", tmp_path / "new") == FALLBACK_KERNEL
    assert log.read_text() == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_what_is_chosen_on_a_gpu_can_serve_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(CONTRACT, "cuda:0", tmp_path)
    assert chosen in json.loads(stored(tmp_path).read_text())["milliseconds"]
    monkeypatch.setenv("AUTORESEARCH_ATTENTION", str(chosen))
    assert kernel_name(torch.device("cuda:0"), torch.bfloat16) == chosen
