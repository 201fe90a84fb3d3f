"""The environment and the end of a run's processes."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from research.judge.processes import child_environment
from research.sandbox.limits import MemoryMonitor


def test_a_run_gets_no_variable_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "HF_TOKEN", "SSH_AUTH_SOCK", "LD_PRELOAD", "AUTORESEARCH_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = child_environment(threads=3)
    assert "hidden" not in environment.values()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("1", "3")
    assert str(Path(__file__).parents[3]) in environment["PYTHONPATH"].split(os.pathsep)


KILL = """
import os, signal, subprocess, sys, time
from research.sandbox.linux import become_subreaper
from research.judge.processes import kill_descendants
become_subreaper()
spared = subprocess.Popen(["sleep", "1000"])
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        os.write(write, b"%d\\n" % os.getpid())
        time.sleep(1000)
    os._exit(0)
hidden = os.read(read, 100).decode().strip()
left = kill_descendants(spare=[spared.pid])
print(hidden, spared.pid, spared.poll(), left)
spared.kill()
"""


def test_a_hidden_grandchild_is_ended_and_what_is_spared_lives() -> None:
    done = subprocess.run([sys.executable, "-c", KILL], capture_output=True, text=True, timeout=60)
    hidden, _, alive, left = done.stdout.split()
    assert not psutil.pid_exists(int(hidden)), done.stderr
    assert (alive, left) == ("None", "[]")


BOMB = """
import os, time
from research.sandbox.linux import become_subreaper
from research.judge.processes import kill_descendants
become_subreaper()
pids = []
for _ in range(500):
    if (pid := os.fork()) == 0:
        os.setsid()
        time.sleep(1000)
        os._exit(0)
    pids.append(pid)
print(kill_descendants())
for pid in pids:
    try:
        print(os.waitpid(pid, os.WNOHANG))
    except ChildProcessError:
        pass
"""


def test_as_many_processes_as_a_fork_bomb_makes_are_ended() -> None:
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr  # all ended, all collected


def test_memory_is_measured_from_outside() -> None:
    text = "import sys; block = bytearray(80_000_000); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monitor = MemoryMonitor(process.pid, gpu=False)
        while not monitor._peak_bytes:
            assert process.poll() is None
        process.communicate()
        peak = monitor.stop()
    assert peak is not None and 76 < peak < 300


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is told so on Linux alone")
def test_freed_memory_is_kept_in_forked_processes_too() -> None:
    program = """
import ctypes, os, resource
from research.sandbox.linux import keep_freed_memory

PR_SET_THP_DISABLE = 41  # one fault for a huge page would stand for 512
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

import numpy as np
{keep}
np.ones(2**22)
if os.fork():
    os._exit(os.waitpid(-1, 0)[1])
np.ones(2**22)
before = faults()
for _ in range(8):
    np.ones(2**22)
print(faults() - before)
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program.replace("{keep}", keep)], check=True, capture_output=True).stdout)
        for keep in ("keep_freed_memory()", "")
    )
    assert kept < 1000 < given_back
