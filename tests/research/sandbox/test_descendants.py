"""Trees of processes that are paused."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from research.sandbox.descendants import kill_descendants, pause_tree, resume_tree
from research.sandbox.linux import become_subreaper
from research.sandbox.process_tree import trees_of
from tests.research.judged import in_a_fork, is_alive, wait_for

COUNTS_IN_A_GRANDCHILD = """
import os, subprocess, sys, time
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", open(sys.argv[1]).read()], start_new_session=True)
    child.wait()
while True:
    with open("ticks", "a") as ticks:
        ticks.write(".")
    time.sleep(0.005)
"""


@pytest.fixture
def counting(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process whose child, in a session of its own, writes a dot into `ticks` every few milliseconds."""
    (tmp_path / "code.py").write_text(COUNTS_IN_A_GRANDCHILD)
    process = subprocess.Popen([sys.executable, "code.py", "code.py"], cwd=tmp_path)
    while not (tmp_path / "ticks").exists():
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    for started in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        started.kill()
    process.wait()


def test_nothing_of_a_paused_tree_goes_on_until_it_is_resumed(counting: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    paused = pause_tree(counting.pid)
    assert paused is not None
    ticks = (tmp_path / "ticks").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "ticks").stat().st_size == ticks
    assert resume_tree(counting.pid, paused)
    wait_for(lambda: (tmp_path / "ticks").stat().st_size > ticks)


def test_trees_hold_each_process_once_after_its_parent(counting: "subprocess.Popen[bytes]") -> None:
    top = psutil.Process(counting.pid)
    [child] = top.children()
    assert trees_of([top.pid]) == [top, child] == [top, *top.children(recursive=True)]
    assert trees_of([child.pid, top.pid]) == [child, top]
    assert trees_of([top.pid], but_for={child.pid}) == [top] and trees_of([top.pid], but_for={top.pid}) == []


def test_a_process_that_is_woken_up_meanwhile_is_noticed(counting: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """As by a timer of its own, whose signal may be SIGCONT."""
    paused = pause_tree(counting.pid)
    assert paused is not None
    [child] = psutil.Process(counting.pid).children()
    ticks = (tmp_path / "ticks").stat().st_size
    child.resume()
    wait_for(lambda: (tmp_path / "ticks").stat().st_size > ticks)
    assert not resume_tree(counting.pid, paused)


def test_a_process_that_is_gone_counts_as_paused() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert pause_tree(ended.pid) == {} and resume_tree(ended.pid, {}) and trees_of([ended.pid]) == []


def test_what_is_spared_lives_on_with_all_that_it_started() -> None:
    assert in_a_fork(_spare_one_tree) == ([], [True, True], [False, False])


def _spare_one_tree() -> tuple[list[int], list[bool], list[bool]]:
    """Runs in a process of its own. Who is left, and who lives of the tree that was spared, and of the other one."""
    become_subreaper()
    trees = []
    for _ in range(2):
        top = psutil.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
        wait_for(top.children)
        trees.append([top.pid, top.children()[0].pid])
    left = kill_descendants(spare=[trees[0][0]])
    spared, others = ([is_alive(pid) for pid in tree] for tree in trees)
    kill_descendants()
    return left, spared, others
