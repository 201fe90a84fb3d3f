"""A Ray cluster of this machine alone, for one farm: a keeper process starts it in a session of its own, and ends with it.

Ray's servers would otherwise be in the farm's process group, and get every signal that is meant for the farm; and what a start
that failed leaves behind would stay as long as the farm does. The keeper ends when its standard input closes, so that no
cluster outlives its farm, however that ends.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from select import select
from typing import Any

import psutil

from research.errors import UserError
from research.streams import own_output

KEEPER_COMMAND = (sys.executable, "-m", "cluster.ray_cluster.own_cluster")

TRIES = 2
"""Ray gives its node 30 s to start, and on a busy machine one start in a few takes longer."""

START_SECONDS = 120.0
"""How long one start may take in all; Ray's own limits come first."""

END_SECONDS = 10.0
"""How long a keeper may take to end its cluster, before its processes are killed."""

LOCALHOST = "127.0.0.1"


class OwnCluster:
    """A cluster that a keeper process has started for this process."""

    def __init__(self, address: str, keeper: "subprocess.Popen[str]") -> None:
        self.address = address
        self._keeper = keeper

    def is_dead(self) -> bool:
        """Whether its control store is gone, without which nothing of it can go on."""
        host, _, port = self.address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                return False
        except ConnectionRefusedError:
            return True
        except OSError:  # a busy machine
            return False

    def end(self) -> None:
        """Ends all its processes. A second call does nothing."""
        _end(self._keeper, within=END_SECONDS)


def start_own_cluster(
    gpus: tuple[int, ...] | None = None, *, command: Sequence[str] = KEEPER_COMMAND, seconds: float = START_SECONDS
) -> OwnCluster:
    """Starts a cluster that uses these GPUs, or all, and tries once more if it isn't there in time. Raises UserError."""
    began = time.monotonic()
    _use_own_cluster(gpus)
    for _ in range(TRIES):
        found, keeper = _start(command, seconds)
        if "address" in found:
            return OwnCluster(found["address"], keeper)
        _end(keeper, within=0.0)
        if "timed out" not in found["problem"]:
            raise UserError(f"Ray could not be started on this machine ({found['problem']}): mend that, or use --engine local.")
    raise UserError(
        f"Ray did not start within {time.monotonic() - began:.0f} s, in {TRIES} tries ({found['problem']}): try again when "
        "the machine is less busy, or use --engine local."
    )


def _use_own_cluster(gpus: tuple[int, ...] | None) -> None:
    """Prepares this process's environment for a cluster of this machine only, where Ray uses a token by default."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))


def _start(command: Sequence[str], seconds: float) -> "tuple[dict[str, str], subprocess.Popen[str]]":
    """What a new keeper says, an `address` or a `problem`, and the keeper."""
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,
        )
        assert keeper.stdout is not None
        deadline, ready = time.monotonic() + seconds, False
        while not ready and keeper.poll() is None:  # a server may have its standard output, and outlive it
            if time.monotonic() > deadline:
                return {"problem": f"it timed out after {seconds:.0f} s"}, keeper
            ready = bool(select([keeper.stdout], [], [], 0.2)[0])
        if ready or select([keeper.stdout], [], [], 0)[0]:
            line = keeper.stdout.readline()
            if line:
                return json.loads(line), keeper
        complaints.seek(0)
        said = complaints.read().strip().splitlines()
        return {"problem": said[-1][:200] if said else "its first process ended without a word"}, keeper


def _end(keeper: "subprocess.Popen[str]", *, within: float) -> None:
    """Lets a keeper end its cluster, and kills what is left of both after some seconds."""
    started = _tree(keeper.pid)
    if keeper.stdin is not None:
        with contextlib.suppress(OSError):
            keeper.stdin.close()
    if within:
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(timeout=within)
    if keeper.poll() is None:
        started |= _tree(keeper.pid)
        keeper.kill()
        keeper.wait()
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil compares when it began, so that no other process with that id is meant
    if keeper.stdout is not None:
        keeper.stdout.close()


def _tree(pid: int) -> set[psutil.Process]:
    """A process's descendants, and those that are left of its session if it has ended."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != pid and os.getsid(process.pid) == pid:
                found.add(process)
    with contextlib.suppress(psutil.Error):
        found.update(psutil.Process(pid).children(recursive=True))
    return found


def keep() -> int:
    """The keeper: starts the cluster, says in one line of JSON where it is or what went wrong, and ends it once standard input
    closes.
    """
    answers = os.fdopen(own_output(), "w")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    try:
        import ray

        context: Any = ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=LOCALHOST,
        )
    except Exception as error:  # Ray raises a plain one if its node doesn't start in time
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(json.dumps({"problem": first[:200]}), file=answers, flush=True)
        return 1
    print(json.dumps({"address": context.address_info["gcs_address"]}), file=answers, flush=True)
    sys.stdin.read()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(keep())
