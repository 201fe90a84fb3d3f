"""What lies around a run: secrets that it must not read, files that it must not change, processes, ears for what it sends."""

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from string import Template

import psutil

from tests.research.judged import Run

CANARY = os.environ.setdefault(
    "FARM_CANARY", f"canary-{secrets.token_hex(12)}"
)  # before a fork server starts: the judges begin with it

VICTIM = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
for number in (signal.SIGURG, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT):
    signal.signal(number, lambda number, frame: print("signal", number, flush=True))
secret = os.environ["VICTIM_SECRET"].encode() * 3
print("ready", flush=True)
while True:
    time.sleep(1000)
"""

SEGMENTS = 0x41747461
"""Keys of System V memory that attacks use: this one and the next."""


class Surroundings:
    """One folder of victims for all attacks. `restore()` makes good what the last one has changed."""

    def __init__(self, folder: Path, data_folder: Path) -> None:
        self.folder, self.data_folder = folder, data_folder
        self.home = folder / "home"
        self.earlier_run = folder / "runs" / "earlier"
        self.compile_cache = folder / "compile-cache"
        self._received: list[str] = []
        self._copy = folder.with_name(folder.name + "-copy")
        self._write_files()
        shutil.copytree(data_folder, self._copy / "data")
        shutil.copytree(folder, self._copy / "folder", symlinks=True)
        self._listen()
        self._start_victim()
        self.marker = ""
        self.restore()

    def _write_files(self) -> None:
        texts = {
            "secret.txt": CANARY,
            "private.txt": CANARY,
            "home/.ssh/id_ed25519": CANARY,
            "home/.netrc": CANARY,
            "home/.cache/torch/kernels/x": "",
            "farm/journal.jsonl": '{"id": 1}\n',
            "farm/history.parquet": "rows",
            "repository/.git/refs/heads/main": "0" * 40 + "\n",
            "repository/.git/hooks/post-commit": "#!/bin/sh\n",
            "repository/.git/config": "[core]\n",
            "worktree/research/train.py": "DEPTH = 8\n",
            "runs/earlier/model.safetensors": CANARY,
            "runs/earlier/run.log": CANARY,
            "compile-cache/aa/kernel.py": "",
        }
        for name, text in texts.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in ("private.txt", "home/.ssh/id_ed25519", "home/.netrc"):
            (self.folder / name).chmod(0o600)

    def _start_victim(self) -> None:
        environment = {"PATH": os.environ["PATH"], "VICTIM_SECRET": CANARY}
        self.victim = subprocess.Popen([sys.executable, "-c", VICTIM], env=environment,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        assert self.victim.stdout is not None and self.victim.stdout.readline() == b"ready\n"
        os.set_blocking(self.victim.stdout.fileno(), False)
        self._signals = b""
        self._state = self._victim_state()

    def _victim_state(self) -> tuple[object, ...]:
        process = psutil.Process(self.victim.pid)
        return (process.nice(), tuple(process.cpu_affinity() or ()), process.rlimit(psutil.RLIMIT_NOFILE))

    def _listen(self) -> None:
        self.unix_path = self.folder / "listener.sock"
        self.abstract = f"attacks-{secrets.token_hex(6)}"
        self._sockets = {
            "TCP": socket.create_server(("127.0.0.1", 0)),
            "UDP": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "a Unix socket": socket.socket(socket.AF_UNIX),
            "an abstract Unix socket": socket.socket(socket.AF_UNIX),
        }
        self._sockets["UDP"].bind(("127.0.0.1", 0))
        self._sockets["a Unix socket"].bind(str(self.unix_path))
        self._sockets["an abstract Unix socket"].bind(f"\0{self.abstract}")
        for name, end in self._sockets.items():
            if end.type == socket.SOCK_STREAM:
                end.listen()
            threading.Thread(target=self._hear, args=(name, end), daemon=True).start()

    def _hear(self, name: str, end: socket.socket) -> None:
        while True:
            try:
                if end.type == socket.SOCK_DGRAM:
                    end.recv(1000)
                else:
                    end.accept()[0].close()
            except OSError:
                return
            self._received.append(name)

    @property
    def targets(self) -> dict[str, str]:
        """What `$name` in an attack's text stands for."""
        return {
            "secret_file": str(self.folder / "secret.txt"),
            "private_file": str(self.folder / "private.txt"),
            "outside": str(self.folder),
            "data_folder": str(self.data_folder),
            "earlier_run": str(self.earlier_run),
            "victim_pid": str(self.victim.pid),
            "tcp_port": str(self._sockets["TCP"].getsockname()[1]),
            "udp_port": str(self._sockets["UDP"].getsockname()[1]),
            "unix_path": str(self.unix_path),
            "abstract": self.abstract,
            "marker": self.marker,
            "segments": str(SEGMENTS),
        }

    @property
    def environment(self) -> dict[str, str]:
        """What the judge's process gets."""
        ours = {"HOME": str(self.home), "TORCHINDUCTOR_CACHE_DIR": str(self.compile_cache)}
        # the judge's own CUDA and Triton would leave files in its home
        return {**ours, "CUDA_CACHE_DISABLE": "1", "TRITON_HOME": str(self._copy)}

    def fill(self, text: str) -> str:
        return Template(text).safe_substitute(self.targets)

    def changes(self) -> list[str]:
        """What is not as it was."""
        found = [f"it sent something by {name}" for name in sorted(set(self._received))]
        found += [f"{name} was changed" for name in self._changed_files()]
        if self.victim.poll() is not None:
            return [*found, "another process was killed"]
        assert self.victim.stdout is not None
        with contextlib.suppress(BlockingIOError):
            self._signals += os.read(self.victim.stdout.fileno(), 1000)
        if self._signals:
            found.append(f"another process got a signal: {self._signals.split()[1].decode()}")
        if psutil.Process(self.victim.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            found.append("another process was stopped")
        if self._victim_state() != self._state:
            found.append("another process's priority, affinity or limits were changed")
        return found

    def check_untouched(self) -> None:
        assert self.changes() == []

    def leaks(self, run: Run) -> list[str]:
        """What of the secrets got into the result, the log or any file of the run."""
        found = [line for line in run.log.splitlines() if line.startswith("LEAK")]
        texts = {"the result": run.result.to_json().encode()}
        texts |= {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
        forms = (CANARY.encode(), CANARY[::-1].encode(), CANARY.encode().hex().encode())
        return found + [f"a secret is in {name}" for name, text in texts.items() if any(form in text for form in forms)]

    def restore(self) -> None:
        """Makes good what was changed, takes away what was planted, and chooses a new marker."""
        if self._changed_files():
            for copy, folder in ((self._copy / "folder", self.folder), (self._copy / "data", self.data_folder)):
                _replace_contents(folder, copy)
        if self.marker:
            for folder in (Path("/dev/shm"), Path("/tmp"), Path("/var/tmp")):
                for path in folder.glob(f"*{self.marker}*"):
                    path.unlink()
        for key in (SEGMENTS, SEGMENTS + 1):
            subprocess.run(["ipcrm", "-M", str(key)], capture_output=True)
        if self.victim.poll() is not None or self.changes():
            self._end_victim()
            self._start_victim()
        self._received.clear()
        self.marker = f"planted-{secrets.token_hex(6)}"

    def close(self) -> None:
        self._end_victim()
        for end in self._sockets.values():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.unix_path.unlink(missing_ok=True)

    def _end_victim(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.victim.send_signal(signal.SIGKILL)
        self.victim.wait()

    def _changed_files(self) -> list[str]:
        changed = []
        for copy, folder in ((self._copy / "folder", self.folder), (self._copy / "data", self.data_folder)):
            before, now = _state_of(copy), _state_of(folder)
            names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            changed += [f"{folder.name}/{name}" for name in names]
        return changed


def _state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Mode and contents of everything in a folder; sockets are left out."""
    state = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not stat.S_ISSOCK(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
            state[str(path.relative_to(folder))] = (status.st_mode, content)
    return state


def _replace_contents(folder: Path, copy: Path) -> None:
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        else:
            shutil.rmtree(path)
    shutil.copytree(copy, folder, symlinks=True, dirs_exist_ok=True)
