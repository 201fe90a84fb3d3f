"""A farm's own Ray cluster, which `farm run` starts on a machine with several GPUs, lives as long as the farm."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest

from cluster.ray_cluster.own_cluster import start_own_cluster
from research.errors import UserError
from research.files import research_folder
from tests.cluster.ray_samples import living, text_of, wait_for

STARTED_AND_SIGNALLED = """
import os, signal, sys, threading, time
from pathlib import Path
from cluster.ray_cluster.engine import alive_nodes, join_cluster

joined = []
thread = threading.Thread(target=lambda: joined.append(join_cluster(None, None, Path(sys.argv[1]))))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGHUP, lambda *_: None)
os.killpg(0, signal.SIGTERM)
os.killpg(0, signal.SIGHUP)
time.sleep(1.0)
import ray
print("nodes", len(alive_nodes()), "stored", ray.get(ray.put(7)))
ray.shutdown()
joined[0].end()
"""


def test_it_outlives_its_thread_and_signals_to_the_farms_process_group(tmp_path: Path) -> None:
    """Ray's servers ask Linux to kill them with their parent, which is the thread that has started them; and `timeout` or a
    terminal that closes signals a whole group, while the farm still has to end its runs.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:  # names of sockets are short
        done = subprocess.run(
            [sys.executable, "-c", STARTED_AND_SIGNALLED, str(tmp_path)],
            cwd=research_folder().parent,
            env={**environment, "RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=180,
            start_new_session=True,
        )
        left = [
            process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if short in str(process.info["cmdline"])
        ]
    assert done.stdout.splitlines()[-1:] == ["nodes 1 stored 7"], done.stdout + done.stderr[-2000:]
    assert left == []


TIMED_OUT = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


def keeper(tmp_path: Path, body: str) -> tuple[str, ...]:
    """The command of a keeper that is played: it notes its id and that of a server, which outlives it, and runs `body`."""
    script = tmp_path / "keeper.py"
    pids = tmp_path / "pids"
    begin = f"""\
        import json, os, subprocess, sys, time
        from pathlib import Path
        server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open({str(pids)!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{server.pid}}\\n")
        starts = len(Path({str(pids)!r}).read_text().splitlines())
    """
    script.write_text(textwrap.dedent(begin) + textwrap.dedent(body))
    return (sys.executable, str(script))


def pids_of(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in text_of(tmp_path / "pids").split()]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a cluster changes what this process's Ray would do."""
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, os.environ.get(name, "0" if "CLUSTER" in name else "token"))


def test_a_start_that_timed_out_is_tried_once_more_and_leaves_nothing(tmp_path: Path) -> None:
    said = f"""
        answer = {{"problem": {TIMED_OUT!r}}} if starts == 1 else {{"address": "127.0.0.1:1"}}
        print(json.dumps(answer), flush=True)
        sys.stdin.read() if starts == 2 else None
    """
    cluster = start_own_cluster(command=keeper(tmp_path, said))
    first, second = pids_of(tmp_path)[:2], pids_of(tmp_path)[2:]
    wait_for("the first one's end", lambda: not living(first))
    assert cluster.address == "127.0.0.1:1" and living(second) == second
    cluster.end()
    wait_for("the second one's end", lambda: not living(second))


@pytest.mark.parametrize(
    ("body", "seconds", "words"),
    [
        (f"print(json.dumps({{'problem': {TIMED_OUT!r}}}), flush=True)", 60.0, ["did not start within", "2 tries", "local"]),
        ("time.sleep(600)", 1.0, ["did not start within", "timed out after 1 s", "try again", "--engine local"]),
        ("print(json.dumps({'problem': 'no space left'}), flush=True)", 60.0, ["no space left", "--engine local"]),
        ("sys.exit('gcs_server: cannot bind')", 60.0, ["cannot bind", "--engine local"]),
    ],
)
def test_a_start_that_failed_is_one_line_and_leaves_nothing(
    tmp_path: Path, body: str, seconds: float, words: list[str]
) -> None:
    with pytest.raises(UserError) as failed:
        start_own_cluster(command=keeper(tmp_path, body), seconds=seconds)
    assert "\n" not in str(failed.value) and all(word in str(failed.value) for word in words), failed.value
    wait_for("their ends", lambda: not living(pids_of(tmp_path)))


def test_a_farm_that_is_killed_takes_it_along(tmp_path: Path) -> None:
    """Ending its standard input is all that tells a keeper of that."""
    said = """
        print(json.dumps({"address": "127.0.0.1:1"}), flush=True)
        sys.stdin.read()
        server.kill()
    """
    command = keeper(tmp_path, said)
    starting = "from cluster.ray_cluster.own_cluster import start_own_cluster as start"
    code = f"{starting}\nstart(command={command!r})\nprint(1, flush=True)\ninput()"
    farm = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=research_folder().parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert farm.stdout is not None and farm.stdout.readline() == b"1\n"
    farm.send_signal(signal.SIGKILL)
    farm.communicate()
    wait_for("the keeper's end", lambda: not living(pids_of(tmp_path)))
