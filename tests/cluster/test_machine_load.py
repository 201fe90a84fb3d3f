"""What is told about a busy machine before runs start."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster import hardware, machine_load
from cluster.machine_load import CpuUse, busy_lines, cpu_lines, gpu_lines, measure_cpu_use
from tests.cluster.farm_samples import CPU, gpu

SPIN = "print(flush=True)\nwhile True: pass"


def test_a_busy_cpu_is_a_short_warning_that_names_who_uses_it() -> None:
    line, then = cpu_lines(CpuUse(cores=2, others=1.3, names=("python (4711)",)), [CPU])
    assert "1.3 of 2 CPU cores" in line and "python (4711)" in line and line.startswith("warning")
    long = cpu_lines(CpuUse(cores=2, others=1.3, names=("a-process-with-a-long-name (4711)",) * 3), [CPU])
    assert all(len(line) <= 100 for line in (*long, then))
    assert cpu_lines(CpuUse(cores=2, others=0.15), [CPU]) == []


def test_only_what_runs_want_counts() -> None:
    """Threads of a quota on a large machine, one core that feeds each GPU."""
    assert cpu_lines(CpuUse(cores=64, others=40.0), [CPU]) == []
    assert cpu_lines(CpuUse(cores=64, others=63.5), [CPU])
    two = [gpu(0), gpu(1)]
    assert cpu_lines(CpuUse(cores=16, others=13.9), two) == []
    assert cpu_lines(CpuUse(cores=16, others=15.0), two)


def test_a_process_that_computes_is_seen() -> None:
    detached = ["sh", "-c", '"$0" -c "$1" > /dev/null & echo $!', sys.executable, SPIN]
    pid = int(subprocess.run(detached, stdout=subprocess.PIPE, text=True, check=True).stdout)
    try:
        use = measure_cpu_use(0.3)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert 0.1 < use.others <= use.cores
    assert use.names and all("(" in name for name in use.names)


def test_what_the_farm_has_started_itself_is_no_other() -> None:
    """Its judge, say, which imports torch while `farm try` measures."""
    spinning = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    try:
        assert spinning.stdout is not None
        spinning.stdout.readline()
        use = measure_cpu_use(0.3)
    finally:
        spinning.kill()
        spinning.communicate()
    assert not any(f"({spinning.pid})" in name for name in use.names)


@pytest.mark.parametrize(("percent", "lines"), [(0, 0), (97, 1), (None, 0)])
def test_a_gpu_that_others_use_from_another_container_is_told(monkeypatch, percent, lines) -> None:
    """The driver names no processes of other containers, but its utilisation counts them. MIG devices have none."""

    class Error(Exception):
        pass

    def rates(handle):
        if percent is None:
            raise Error
        return SimpleNamespace(gpu=percent)

    @contextmanager
    def nvml():
        yield SimpleNamespace(
            NVMLError=Error,
            nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
            nvmlDeviceGetComputeRunningProcesses=lambda handle: [],
            nvmlDeviceGetUtilizationRates=rates,
        )

    monkeypatch.setattr(hardware, "nvml_if_present", nvml)
    told = gpu_lines(gpu())
    assert len(told) == lines and all("97%" in line for line in told)


def test_an_idle_machine_says_nothing(monkeypatch) -> None:
    monkeypatch.setattr(machine_load, "measure_cpu_use", lambda: CpuUse(cores=2, others=0.05))
    assert busy_lines([CPU]) == [] == busy_lines([replace(CPU, kind="mps")])
