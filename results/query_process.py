"""Queries of others, in a process of their own: one that needs too much memory or time ends that process, and nothing else.

DuckDB's memory limit binds neither all that a query can allocate nor the time of a single function call.
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import threading
import time
from pathlib import Path

from research.errors import FarmEnded, UserError
from research.formatting import one_line
from research.start_apart import start_apart
from results.query import Table
from results.tables import Audience

log = logging.getLogger(__name__)

SERVER = "results.query_server"
"""The module that runs in the process."""

START_SECONDS = 120.0
"""How long the process may take to start and read the journal: a long one is indexed and its database copied, at most."""

TURN_SECONDS = 20.0
"""How long a query waits for those before it."""

END_SECONDS = 1.0
"""How long the process may take to remove its file once nobody asks any more."""

SPARE_SECONDS = 3.0
"""How long a query that is stopped may take to say so before its process is ended."""

MAX_ANSWER_BYTES = 2**25
"""The largest answer: more would be this process's memory."""

TOO_MUCH = "The query needed more memory than queries may use: ask for less."

OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "OutOfMemory")
"""Words of a process on standard error that ended for want of memory."""


class QueryProcess:
    """The process that answers queries over one home; it starts with the first query. Any thread may ask, one after another."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def table(self, sql: str, *, audience: Audience = "agent", max_rows: int = 1000, timeout_s: float = 10.0) -> Table:
        """The result of one SELECT, with values as JSON has them.

        Raises UserError, one line: FarmEnded once this is closed. The traceback of a fault is logged.
        """
        answer = self._ask(sql, audience=audience, form="json", max_rows=max_rows, timeout_s=timeout_s)
        found = json.loads(answer)
        return Table(columns=tuple(found["columns"]), rows=tuple(map(tuple, found["rows"])), truncated=found["truncated"])

    def text(self, sql: str, *, max_rows: int = 1000, timeout_s: float = 10.0) -> str:
        """The result of an agent's SELECT as aligned text. Raises what `table` does."""
        return self._ask(sql, audience="agent", form="text", max_rows=max_rows, timeout_s=timeout_s)

    def close(self) -> None:
        """Ends the process. A second call does nothing."""
        self._is_closed = True
        if self._process is not None:  # not under the lock: a query that is under way ends, too
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            self._process.kill()
            self._process.wait()

    def _ask(self, sql: str, **request: object) -> str:
        timeout_s = float(str(request["timeout_s"]))
        if not self._lock.acquire(timeout=TURN_SECONDS):
            raise UserError("Other queries are under way: try again.")
        try:
            deadline = time.monotonic() + timeout_s + SPARE_SECONDS
            process = self._process
            if process is None or process.poll() is not None:
                if self._is_closed:
                    raise FarmEnded()
                process = self._process = self._started()
                deadline += START_SECONDS
            line = _exchange(process, {"sql": sql, **request}, deadline=deadline)
            if not line:
                raise self._failure(process, f"The query was stopped after {timeout_s:g} s: ask for less.")
        finally:
            self._lock.release()
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(str(answer["error"]))
        return str(answer["answer"])

    def _failure(self, process: "subprocess.Popen[bytes]", too_slow: str) -> UserError:
        """Why a process, which has ended or is ended now, gave no answer."""
        has_ended = _ends_soon(process)
        process.kill()
        process.wait()
        if self._is_closed:
            return FarmEnded()
        if not has_ended:
            return UserError(too_slow)
        assert process.stderr is not None
        said = process.stderr.read().decode(errors="replace").strip()
        log.error("the process that answers queries ended with status %d:\n%s", process.returncode, said)
        if process.returncode < 0 or any(words in said for words in OUT_OF_MEMORY):
            return UserError(TOO_MUCH)
        return UserError(f"The query met a fault of the farm ({one_line(said[-200:])}), whose log has more.")

    def _started(self) -> "subprocess.Popen[bytes]":
        """A new process, which ends with its standard input."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return start_apart(SERVER, str(self._home), stderr=subprocess.PIPE, environment=environment)


def _exchange(process: "subprocess.Popen[bytes]", request: dict[str, object], *, deadline: float) -> bytes:
    """The line that the process answers; empty if it ends or says nothing in time. Raises UserError for too long a one."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    parts: list[bytes] = []
    while not (parts and parts[-1].endswith(b"\n")):
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return b""
        part = os.read(process.stdout.fileno(), 2**20)
        if not part:
            return b""
        parts.append(part)
        if sum(map(len, parts)) > MAX_ANSWER_BYTES:
            process.kill()
            process.wait()
            raise UserError("The result is too large: select fewer columns or rows, or parts of long texts.")
    return b"".join(parts)


def _ends_soon(process: "subprocess.Popen[bytes]") -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)
    return process.poll() is not None
