"""The log of a child: bounded, of visible characters only, and without a line that could pass for the judge's summary."""

import re
import threading
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import IO

from research.printable import visible

MAX_LOG_BYTES = 8 * 2**20

MAX_LINE_BYTES = 2**16

MAX_TAIL_LINES = 80

MAX_TAIL_LINE = 1000
"""Characters per line of the tail, at most."""

MAX_TAIL_BYTES = 2**14
"""Bytes of the tail, which stands in a result and so in the farm's journal; its last lines are kept."""

_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
"""What moves a terminal's cursor, colours its text, or sets its title."""

_LOOKS_LIKE_SUMMARY = re.compile(
    r"^(---|(val_bpb|training_seconds|total_seconds|peak_vram_mb|mfu_percent|total_tokens_M|num_steps|num_params_M|depth)\s*:)"
)


class Log:
    """A text log, in a file or (with `path` None) in memory only; `echo` is called with everything that the file gets."""

    def __init__(self, path: Path | None, *, echo: Callable[[str], None] | None = None) -> None:
        self._file = path.open("w", encoding="utf-8") if path else None
        self._echo = echo
        self._tail: list[str] = []
        self._bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def copy_from(self, pipe: IO[bytes]) -> None:
        """Copies a pipe line by line until it ends; a line longer than MAX_LINE_BYTES is split."""
        while raw := pipe.readline(MAX_LINE_BYTES):
            for line in re.split(r"\r\n|\r|\n", raw.decode("utf-8", "replace").rstrip("\r\n")):
                self.write(_harmless(line) + "\n")

    def write(self, text: str) -> None:
        """Appends text, unless the log is closed or full."""
        with self._lock:
            if self._closed:
                return
            kept = text if len(text) <= MAX_TAIL_LINE else f"{text[:MAX_TAIL_LINE]}...\n"
            self._tail = [*self._tail[-MAX_TAIL_LINES + 1 :], kept]
            if self._bytes > MAX_LOG_BYTES:
                return
            self._bytes += len(text.encode())
            if self._bytes > MAX_LOG_BYTES:
                text = "[the log is cut here: it reached its limit]\n"
            if self._file is not None:
                self._file.write(text)
                self._file.flush()
                if self._echo:
                    self._echo(text)

    @property
    def closed(self) -> bool:
        return self._closed

    def tail(self, lines: int = 50) -> str:
        """The last `lines` lines, MAX_TAIL_LINES and MAX_TAIL_BYTES at most."""
        with self._lock:
            last = self._tail[-lines:]
        sizes = accumulate(len(line.encode()) for line in reversed(last))
        fitting = sum(size <= MAX_TAIL_BYTES for size in sizes)
        return "".join(last[len(last) - fitting :])

    def close(self) -> None:
        """Closes the log: nothing that the child prints from now on is kept."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


def _harmless(line: str) -> str:
    """The line with what a reader can see, tabs as spaces, and marked if it looks like the summary."""
    clean = visible(_ESCAPES.sub("", line)).rstrip()
    return f"| {clean}" if _LOOKS_LIKE_SUMMARY.match(clean) else clean
