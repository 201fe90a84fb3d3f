"""A temporary folder of one process. The next process that makes one of its kind removes what a killed one left."""

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

LOCK = "lock"


class LockedFolder:
    """A new folder, locked while the process that created it is alive."""

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        """Creates the folder in `parent` (None: the system's temporary folder), and removes those with this prefix whose
        processes are gone. Raises OSError.
        """
        parent = parent or Path(tempfile.gettempdir())
        for folder in parent.glob(f"{prefix}*"):
            _remove_if_left(folder)
        made = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))  # no process looks for this name
        self._lock = (made / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = made.rename(parent / made.name.removeprefix("."))

    def remove(self) -> None:
        """Removes the folder and releases the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_if_left(folder: Path) -> None:
    """Removes a folder that no process has locked. (A process id would mean nothing in another container.)"""
    try:
        lock: IO[str] = (folder / LOCK).open()
    except OSError:  # another user's, or of no such process
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        shutil.rmtree(folder, ignore_errors=True)
