"""The share of the CPU that training got, from the kernel's account of real threads."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.measured_cpu_share import TrainingShare, share_between, thread_times

needs_schedstat = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no such account")
SPIN = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(flush=True)\nwhile True: pass"


def test_a_share_is_what_ran_of_what_could_have_run() -> None:
    before = {"1/task/1": (100, 50), "1/task/2": (7, 7)}
    after = {"1/task/1": (400, 150), "1/task/3": (300, 100)}
    assert share_between(before, after, busy=1.0) == pytest.approx(600 / 800)
    assert share_between(after, after, busy=1.0) is None and share_between({}, {}, busy=1.0) is None
    assert share_between(before, after, busy=650e-9) == pytest.approx(600 / 650), "threads that waited for each other alone"


def test_processes_without_an_account_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "7/task/8").mkdir(parents=True)
    (tmp_path / "7/task/8/schedstat").write_text("12 34 5\n")
    (tmp_path / "7/task/9").mkdir()
    assert thread_times([7, 4711], proc=tmp_path) == {"7/task/8": (12, 34)}


@needs_schedstat
def test_processes_that_share_one_core_have_less_than_all_of_it() -> None:
    """Three on one core, two of which are not the run's: whatever else the machine does, it has less than two thirds."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) for _ in range(3)]
    events: list[str] = []
    try:
        for process in spinning:
            assert process.stdout is not None
            process.stdout.readline()
        share = TrainingShare(lambda event: events.append(event["phase"]), processes=lambda: [spinning[0].pid])
        for phase in ("startup", "training", "training", "handover", "scoring"):
            share.emit({"event": "progress", "phase": phase})
            time.sleep(0.4 if phase == "training" else 0.0)
    finally:
        for process in spinning:
            process.kill()
            process.communicate()
    assert events == ["startup", "training", "training", "handover", "scoring"]
    assert share.value is not None and 0.01 < share.value < 0.67


def test_a_run_that_never_trained_has_none() -> None:
    share = TrainingShare(lambda event: None, processes=lambda: [os.getpid()])
    for phase in ("startup", "handover"):
        share.emit({"event": "progress", "phase": phase})
    share.emit({"event": "asked"})
    assert share.value is None
