"""A real Ray head for tests: on loopback, with a dashboard, token authentication, and folders and ports of its own."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

CAN_TAKE = 60.0


class RayHead:
    """Started by the constructor; ended by `stop`, which leaves every other Ray on the machine alone."""

    def __init__(self, folder: Path, *, gpus: int = 0) -> None:
        """`folder` gets the token and the user's home that the head believes in; `gpus` is how many it has to give."""
        self._gpus = gpus
        self.home, self.token_file = folder / "user", folder / "token"
        self.home.mkdir(parents=True)
        self.token_file.write_text(secrets.token_hex(16))
        self.session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: paths of sockets are limited
        self.address = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "head.log").open("w")
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", "--port=0", f"--temp-dir={self.session}", f"--num-gpus={gpus}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.address.rpartition(':')[2]}"),
            *("--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}", "--object-store-memory=80000000"),
            *("--no-monitor", "--include-log-monitor=false", *([] if gpus else ["--num-cpus=1"])),  # fewer processes
        ]
        environment = self.environment() | {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # or Ray would start its workers by `uv run` where the tests are
        }
        self.process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def environment(self) -> dict[str, str]:
        """What a user of this head has in the shell: where the token lies, but no RAY_AUTH_MODE."""
        strange = ("RAY_", "FARM_", "GIT_", "ANTHROPIC_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        return own | {"RAY_AUTH_TOKEN_PATH": str(self.token_file)} | ({} if self._gpus else {"CUDA_VISIBLE_DEVICES": ""})

    def processes(self) -> list[psutil.Process]:
        """All that this head has started and that is still there."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(str(self.session) in word for word in (*process.cmdline(), *process.environ().values())):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self) -> None:
        """Ends the head and forgets its session folder. A second call does nothing."""
        mine = self.processes()
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in (*mine, *self.processes()):
            if process.is_running():
                process.kill()
        psutil.wait_procs(mine, timeout=5)
        self._log.close()
        shutil.rmtree(self.session, ignore_errors=True)

    def _wait(self) -> None:
        """Until the dashboard takes jobs."""
        deadline = time.monotonic() + CAN_TAKE
        request = urllib.request.Request(f"{self.address}/api/jobs/")
        request.add_header("Authorization", f"Bearer {self.token_file.read_text()}")
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, Path(self._log.name).read_text()
                time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
