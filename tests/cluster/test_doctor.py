"""The doctor looks at the real machine."""

import importlib.metadata
import subprocess

import pytest

from cluster import doctor
from cluster.doctor import check_lines, examine
from cluster.home import Home
from tests.cluster.farm_samples import CPU, gpu


def test_every_problem_has_a_cure(tmp_path):
    checks = examine(Home(tmp_path / "home"), tmp_path / "cache", [CPU])
    named = {check.name: check for check in checks}
    assert named["torch"].state == "ok"
    assert named["data"].state == "warn"
    assert "farm prepare --profile cpu" in named["data"].cure
    assert all(check.cure for check in checks if check.state != "ok")
    lines = "\n".join(check_lines(checks))
    assert "-> farm prepare --profile cpu" in lines


def test_a_gpu_that_torch_cannot_use_is_missing(monkeypatch):
    answer = '{"version": "2.14", "cuda": null, "available": false, "mps": false}\n'
    monkeypatch.setattr(
        doctor.subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, stdout=answer, stderr="")
    )
    check = doctor._torch([gpu()])
    assert (check.state, "it can't use the GPU" in check.found) == ("missing", True)


def test_a_torch_that_does_not_load_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "TORCH_PROBE", "raise ImportError('libcudart is gone')")
    check = doctor._torch([CPU])
    assert (check.state, "libcudart is gone" in check.found) == ("missing", True)


HOPPER, AMPERE, CONSUMER, UNKNOWN = (gpu(i, capability=c) for i, c in enumerate([(9, 0), (8, 6), (12, 0), None]))


@pytest.mark.parametrize(
    ("devices", "installed", "states"),
    [
        ([CPU], {}, {}),
        ([HOPPER], {}, {"flash-attn-4": "warn"}),
        ([HOPPER], {"flash-attn-4": "4.0"}, {"flash-attn-4": "ok"}),
        ([gpu(capability=(10, 0))], {"flash-attn": "2.8"}, {"flash-attn-4": "warn"}),
        ([AMPERE], {"flash-attn-4": "4.0"}, {"flash-attn": "warn"}),
        ([HOPPER, AMPERE], {"flash-attn": "2.8"}, {"flash-attn-4": "warn", "flash-attn": "ok"}),
        ([CONSUMER, UNKNOWN], {}, {"flash-attn": "warn"}),
    ],
)
def test_the_kernels_that_a_gpu_is_fastest_with_are_looked_for(devices, installed, states, monkeypatch):
    def version(package):
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    checks = doctor._flash_attention(devices)
    assert {check.name: check.state for check in checks} == states
    for check in checks:
        assert f"{check.name} " in check_lines([check])[0]
        assert check.state == "ok" or "uv sync --extra " + {"flash-attn-4": "hopper"}.get(check.name, "flash") in check.cure
