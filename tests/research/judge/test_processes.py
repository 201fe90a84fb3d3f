"""The environment and the end of a run's processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from research.files import research_folder
from research.judge.processes import child_environment
from research.sandbox.descendants import kill_descendants
from research.sandbox.limits import MemoryMonitor
from research.sandbox.linux import become_subreaper
from research.sandbox.visible import UNUSED_PACKAGES
from tests.research.judged import in_a_fork


def test_a_run_gets_no_variable_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "HF_TOKEN", "SSH_AUTH_SOCK", "LD_PRELOAD", "AUTORESEARCH_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = child_environment(threads=3)
    assert "hidden" not in environment.values()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("1", "3")
    assert str(Path(__file__).parents[3]) in environment["PYTHONPATH"].split(os.pathsep)


def test_what_children_are_forked_from_has_nothing_of_the_training_text_in_memory() -> None:
    """In a process of its own: the tests' own fork server may have imported what their farms need."""
    listing = f"import sys, research.run; print([name for name in {UNUSED_PACKAGES!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", listing], cwd=research_folder().parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def end_a_hidden_grandchild() -> tuple[int, bool, list[int]]:
    """The hidden process, whether the spared one lives, and what is left."""
    become_subreaper()
    spared = subprocess.Popen(["sleep", "1000"])
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            os.write(write, b"%d\n" % os.getpid())
            time.sleep(1000)
        os._exit(0)
    hidden = int(os.read(read, 100))
    left = kill_descendants(spare=[spared.pid])
    lives = spared.poll() is None
    spared.kill()
    return hidden, lives, left


def test_a_hidden_grandchild_is_ended_and_what_is_spared_lives() -> None:
    hidden, spared_lives, left = in_a_fork(end_a_hidden_grandchild)
    assert not psutil.pid_exists(hidden)
    assert (spared_lives, left) == (True, [])


def end_a_fork_bomb() -> tuple[int, list[int], list[int]]:
    """How many processes there were, how many the killer left, and which were not collected."""
    become_subreaper()
    script = "for n in $(seq 500); do setsid sleep 1000 & done; echo; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as bomb:
        assert bomb.stdout is not None
        bomb.stdout.readline()
        count = len(psutil.Process().children(recursive=True))
        left = kill_descendants()
        return count, left, [child.pid for child in psutil.Process().children(recursive=True)]


def test_as_many_processes_as_a_fork_bomb_makes_are_ended() -> None:
    count, left, uncollected = in_a_fork(end_a_fork_bomb)
    assert count > 500 and (left, uncollected) == ([], [])


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
