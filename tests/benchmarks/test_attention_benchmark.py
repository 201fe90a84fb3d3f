"""The attention benchmark on a CPU, and what it counts."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.attention import Shape, Timing, main, table_line
from research.kernels.attention import KERNELS


def test_operations_are_those_of_the_pairs_that_the_window_has() -> None:
    for tokens, window in ((7, 7), (7, 3), (7, 1), (1, 1)):
        pairs = sum(1 for query in range(tokens) for key in range(tokens) if 0 <= query - key < window)
        shape = Shape(batch=2, tokens=tokens, heads=3, kv_heads=1, head_dim=8, window=window)
        assert shape.flops(products=1) == 2 * 8 * pairs * 3 * 2


def test_what_failed_has_a_line_too() -> None:
    shape = Shape(batch=1, tokens=8, heads=4, kv_heads=2, head_dim=8, window=8)
    line = table_line(Timing(shape=shape, kernel="flex", note="RuntimeError: no"))
    assert line.split() == ["4/2", "8", "flex", *"------", "RuntimeError:", "no"]


def test_it_measures_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "attention.json"
    shape = ["--batch", "2", "--tokens", "33", "--heads", "2", "4", "--kv-heads", "2", "--head-dim", "16"]
    main([*shape, "--windows", "99", "33", "1", "--json", str(out)])
    timings = json.loads(out.read_text())["timings"]
    assert [(t["shape"]["heads"], t["shape"]["window"], t["kernel"]) for t in timings] == [
        (heads, window, "sdpa") for heads in (2, 4) for window in (33, 1)
    ]
    for timing in timings:
        assert timing["note"] == "" and timing["both_ms"] > 0 and timing["forward_tflops"] > 0
        assert timing["error"] < 1e-2 and timing["gradient_error"] < 1e-2
    assert capsys.readouterr().out.splitlines()[-1] == out.read_text().strip()


def test_a_kernel_that_does_not_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "flex" in KERNELS
    with pytest.raises(SystemExit, match="sdpa"):
        main(["--kernels", "flex"])
