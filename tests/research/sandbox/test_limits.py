"""Limits of a run, polled from outside: through the judge, and alone."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from research.files import remove_tree
from research.judge.failures import over_limit
from research.sandbox.limits import DEEPEST_FOLDER, BrokenLimit, Limits, Supervisor, disk_usage, used_bytes, uses_most
from research.sandbox.oom_kills import oom_kills
from tests.research.judged import Runner, wait_for, with_train
from tests.research.nested import nest

HUNGRY = """
held = []
for _ in range(200):
    held.append(bytearray(os.urandom(1000) * 10_000))
time.sleep(1000)
"""

FORKS = """
import subprocess
for _ in range(600):
    subprocess.Popen(["sleep", "1000"])
time.sleep(1000)
"""


def test_a_run_that_takes_too_much_memory_is_oom(run: Runner) -> None:
    result = run(with_train(HUNGRY), memory_bytes=2 * 2**30).result
    assert result.status == "oom" and "out of memory" in result.reason and "limit 2.0 GiB" in result.reason


def test_a_run_that_starts_too_many_processes_is_invalid(run: Runner) -> None:
    done = run(with_train(FORKS))
    assert done.result.status == "invalid" and "too many processes" in done.result.reason, done.result
    assert done.left_alive == ()


HOLDS = """
import os, sys, time
descriptor = os.memfd_create("unmapped")
for _ in range(int(sys.argv[1])):
    os.write(descriptor, bytes(2**20))
print(flush=True)
time.sleep(1000)
"""


def test_who_uses_most_memory_is_told_whether_it_is_mapped_or_not() -> None:
    """Memory that runs out on the machine is charged to the run that took it, and not to all runs that notice."""
    started = [subprocess.Popen([sys.executable, "-c", HOLDS, size], stdout=subprocess.PIPE) for size in ("300", "20")]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        large, small = (psutil.Process(process.pid) for process in started)
        assert used_bytes(large) > 300 * 2**20 > 100 * 2**20 > used_bytes(small)
        assert not uses_most([small])
        assert uses_most([process for process in psutil.process_iter() if process.pid != small.pid])
    finally:
        for process in started:
            process.kill()
            process.wait()


SENDS = """
import os, socket, sys, time
here, there = socket.socketpair()
descriptor = os.memfd_create("in flight")
os.write(descriptor, bytes(2**20))
socket.send_fds(here, [b"x"], [descriptor])
os.close(descriptor)
if sys.argv[1] == "received":
    received = socket.recv_fds(there, 1, 1)
print(flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(("what", "resource"), [("in flight", "memory"), ("received", "machine")])
def test_memory_that_no_process_has_is_charged_to_the_run_with_files_in_its_sockets(
    what: str, resource: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the machine's memory has run out, and this process uses more of it than the run."""
    monkeypatch.setattr("research.sandbox.limits.LEAST_FREE_MEMORY", 1.0)
    process = subprocess.Popen([sys.executable, "-c", SENDS, what], stdout=subprocess.PIPE)
    supervisor = Supervisor(Limits(memory_bytes=2**40))
    held = bytearray(b"x") * 2**26
    try:
        assert process.stdout is not None and process.stdout.readline()
        supervisor.watch(lambda: [process.pid], [])
        broken = wait_for(lambda: supervisor.broken, 10.0)
        assert broken.resource == resource, (broken, len(held))
    finally:
        supervisor.stop()
        process.kill()
        process.wait()


def test_another_process_that_uses_up_the_machine_is_not_laid_on_the_run() -> None:
    broken = BrokenLimit(resource="machine", reason="the host has 0.1 GiB left")
    assert over_limit(broken, has_seen_rows=False).status == "lost"
    assert over_limit(replace(broken, resource="memory"), has_seen_rows=False).status == "oom"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(Limits(memory_bytes=2**40, disk_bytes=2**20))
    supervisor.watch(tuple, [tmp_path])
    yield supervisor
    supervisor.stop()


def test_a_folder_that_grows_too_large_breaks_a_limit(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "small").write_bytes(bytes(2**10))
    assert supervisor.broken is None
    (tmp_path / "below" / "large").write_bytes(bytes(2**21))
    wait_for(lambda: supervisor.broken, 5.0)
    assert supervisor.broken is not None and supervisor.broken.resource == "disk"


@pytest.mark.parametrize("levels", [DEEPEST_FOLDER + 1, 1500, 5000])
def test_folders_nested_too_deeply_break_a_limit(supervisor: Supervisor, tmp_path: Path, levels: int) -> None:
    nest(tmp_path, levels)
    wait_for(lambda: supervisor.broken, 5.0)
    assert supervisor.broken is not None and supervisor.broken.resource == "disk"
    assert str(DEEPEST_FOLDER) in supervisor.broken.reason
    supervisor.stop()
    for folder in tmp_path.iterdir():
        assert remove_tree(folder)


def test_folders_within_the_limit_are_counted_with_their_links_but_not_what_these_lead_to(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_bytes(bytes(2**20))
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    assert disk_usage(folder)[0] < 2**16
    (folder / "file").write_bytes(bytes(2**18))
    nest(folder, DEEPEST_FOLDER - 1)
    counted, incomplete = disk_usage(folder)
    assert 2**18 <= counted < 2**19 and not incomplete


def test_the_kernels_count_is_that_of_the_processs_own_group(tmp_path: Path) -> None:
    """In either version of cgroups, by its path inside a container or outside; the machine's where there is none."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    files = {
        "vmstat": (proc / "vmstat", "nr_free_pages 5\noom_kill 7\n"),
        "v1": (groups / "memory" / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        "v2": (groups / "a" / "b" / "memory.events", "low 0\noom 4\noom_kill 2\n"),
    }
    assert oom_kills(proc, groups) == 0
    for name, lines, count in (
        ("vmstat", "0::/gone\n", 7),
        ("v1", "4:cpu,memory:/of/the/host\n0::/\n", 3),
        ("v2", "0::/a/b\n", 2),
    ):
        path, text = files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (proc / "self").mkdir(exist_ok=True)
        (proc / "self" / "cgroup").write_text(lines)
        assert oom_kills(proc, groups) == count
    assert oom_kills() >= 0


def test_a_watch_that_fails_is_noticed(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is nothing; but a run is not left unbounded."""
    monkeypatch.setattr("research.sandbox.limits.POLL_SECONDS", 0.01)

    def failing() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(supervisor, "_look", failing)
    broken = wait_for(lambda: supervisor.broken, 5.0)
    assert over_limit(broken, has_seen_rows=False).status == "invalid" and "OSError" in broken.reason
