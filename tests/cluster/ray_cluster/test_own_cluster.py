"""A farm's own Ray cluster, which `farm run` starts on a machine with several GPUs, lives as long as the farm."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from research.files import research_folder

STARTED_IN_A_THREAD_THAT_ENDS = """
import sys, threading, time
from pathlib import Path
from cluster.ray_cluster.engine import alive_nodes, join_cluster

thread = threading.Thread(target=join_cluster, args=(None, None, Path(sys.argv[1])))
thread.start()
thread.join()
time.sleep(1.0)
import ray
print("nodes", len(alive_nodes()), "stored", ray.get(ray.put(7)))
ray.shutdown()
"""


def test_it_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    """Ray's servers ask Linux to kill them with their parent, which is the thread that has started them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:  # names of sockets are short
        done = subprocess.run(
            [sys.executable, "-c", STARTED_IN_A_THREAD_THAT_ENDS, str(tmp_path)],
            cwd=research_folder().parent,
            env={**environment, "RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stdout.splitlines()[-1:] == ["nodes 1 stored 7"], done.stdout + done.stderr[-2000:]
