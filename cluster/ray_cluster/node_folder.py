"""A node worker's folder for its runs, which doesn't outlive it for long: the next worker removes what a killed one left."""

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

PREFIX = "autoresearch-node-"
LOCK = "lock"


class NodeFolder:
    """A new folder, locked while the process lives that made it."""

    def __init__(self, parent: Path | None = None) -> None:
        """Below `parent`, or the system's folder for temporary files. What workers left there that are gone is removed."""
        parent = parent or Path(tempfile.gettempdir())
        for folder in parent.glob(f"{PREFIX}*"):
            _remove_if_left(folder)
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))  # nobody looks for it by that name before it is locked
        self._lock = (made / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = made.rename(parent / made.name.removeprefix("."))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_if_left(folder: Path) -> None:
    """By the lock rather than a process id, which means nothing in another container that shares the folder."""
    try:
        lock: IO[str] = (folder / LOCK).open()
    except OSError:  # another user's, or no worker's
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        shutil.rmtree(folder, ignore_errors=True)
