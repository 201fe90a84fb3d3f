"""The doctor looks at the real machine."""

import subprocess

from farm_samples import CPU, gpu

from cluster import doctor
from cluster.doctor import check_lines, examine
from cluster.home import Home


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
