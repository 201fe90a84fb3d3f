"""The ends of runs' logs. A run wrote them, and may have left anything in its folder."""

import os
import stat
from pathlib import Path

from research.formatting import plain_lines

TAIL_BYTES = 16_384
"""Bytes of the end of a log that are shown."""


def log_tail(folder: Path) -> str | None:
    """The end of the log in a run's folder, as text; None for anything but a regular file, since a run may have left a link."""
    try:
        descriptor = os.open(folder / "run.log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        data = os.pread(descriptor, TAIL_BYTES, max(0, found.st_size - TAIL_BYTES))
    finally:
        os.close(descriptor)
    return plain_lines(data.decode("utf-8", errors="replace"), TAIL_BYTES)
