"""The folder of a node's runs: there while its process lives, gone soon after."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.ray_cluster.node_folder import PREFIX, NodeFolder

HOLDER = """
import sys, time
from pathlib import Path
from cluster.ray_cluster.node_folder import NodeFolder

folder = NodeFolder(Path(sys.argv[1]))
(folder.path / "run").mkdir()
print(folder.path, flush=True)
time.sleep(60)
"""


def test_what_a_killed_worker_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        theirs = Path(holder.stdout.readline().strip())
        ours = NodeFolder(tmp_path)
        assert (theirs / "run").is_dir() and ours.path.is_dir() and ours.path != theirs
        os.kill(holder.pid, signal.SIGKILL)
    another = NodeFolder(tmp_path)
    assert set(tmp_path.iterdir()) == {ours.path, another.path}
    ours.remove()
    another.remove()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_workers_stays(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}of-somebody").mkdir()
    NodeFolder(tmp_path).remove()
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}of-somebody"]


def test_workers_that_start_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: NodeFolder(tmp_path), range(200)))
    assert {folder.path for folder in folders} == set(tmp_path.iterdir()) and all((f.path / "lock").exists() for f in folders)
