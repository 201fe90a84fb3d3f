"""The process that answers queries over a home: `python -m results.query_server HOME`, one JSON line per query and answer.

It has a database of its own, which works while a farm writes there: in memory, or a copy of a long history's.
"""

import contextlib
import json
import os
import queue
import resource
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from research.errors import UserError
from results.database import bring_up_to_date
from results.database_copy import MOST_IN_MEMORY, QueryDatabase
from results.journal import DamagedLine, JournalReader
from results.query import Table, is_damage
from results.saved_states import SavedStates
from results.tables import Audience, Tables

MEMORY_BYTES = 4 * 2**30
"""Address space that queries may add to what the process has before the first: DuckDB's limit, and what it doesn't count.

What libraries reserve grows with the cores: 3 GB on two cores, more than 6 GB on sixteen.
"""

T = TypeVar("T")


class JournalTables:
    """A journal's records as a database, brought up to date at each query."""

    def __init__(self, path: Path, *, most_in_memory: int = MOST_IN_MEMORY) -> None:
        """A journal of more than `most_in_memory` bytes has its database in a file."""
        self._path, self._most_in_memory = path, most_in_memory
        self._begin()

    def answer(self, request: dict[str, Any]) -> str:
        """The answer to one query, as text or JSON. Raises UserError."""
        table = self.table(
            str(request["sql"]),
            max_rows=int(request["max_rows"]),
            timeout_s=float(request["timeout_s"]),
            audience=request["audience"],
        )
        return table.to_text() if request["form"] == "text" else table.to_json()

    def table(self, sql: str, *, max_rows: int, timeout_s: float, audience: Audience) -> Table:
        """The result of one SELECT. Raises UserError."""

        def ask() -> Table:
            self._follow()
            return self._tables.query(sql, max_rows=max_rows, timeout_s=timeout_s, audience=audience)

        try:
            return ask()
        except duckdb.Error as error:
            if not is_damage(error):
                raise
        self._database.close()
        self._begin(copies=False)
        return ask()

    def close(self) -> None:
        """Removes the database's file at once, even if a query is under way."""
        self._without_file()

    @property
    def damaged(self) -> list[DamagedLine]:
        """The lines of the journal that can't be read, and are missing."""
        return self._reader.damaged

    def _begin(self, *, copies: bool = True) -> None:
        self._reader = JournalReader(self._path)
        self._database = QueryDatabase(self._reader, most_in_memory=self._most_in_memory, copies=copies)
        self._without_file = weakref.finalize(self, self._database.remove_file)
        saved = SavedStates(self._path.parent, self._reader.checksum, writes=False)
        self._tables = Tables(self._read, self._reader, saved=saved)

    def _read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        with self._database.connection.cursor() as cursor:
            return work(cursor)

    def _follow(self) -> None:
        """Takes what was recorded since the last query; a journal that is another one by now is read from its beginning."""
        if not self._reader.is_same_file():
            self._database.close()
            return self._begin()
        new = self._reader.read_on()
        if new:
            bring_up_to_date(self._database.connection, self._reader)
            first = len(self._reader) - len(new) + 1
            for position, record in enumerate(new, start=first):
                self._tables.note(record, position)


def main() -> None:
    """Answers the queries on standard input until that ends, which ends this process at once, whatever it is doing."""
    with contextlib.suppress(OSError):  # if memory runs out, the kernel ends a query before anything else
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):
        os.nice(10)
    requests: queue.Queue[bytes] = queue.Queue()
    made: list[JournalTables] = []
    threading.Thread(target=_listen, args=(requests, made), daemon=True).start()
    tables = JournalTables(Path(sys.argv[1]) / "journal.jsonl")
    made.append(tables)
    with contextlib.suppress(OSError, ValueError):
        most = address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    while True:
        answer = _answer(tables, json.loads(requests.get()))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def address_space() -> int:
    """The address space of this process, in bytes (proc_pid_statm(5)). Raises OSError where there is no /proc."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _answer(tables: JournalTables, request: dict[str, Any]) -> dict[str, str]:
    try:
        return {"answer": tables.answer(request)}
    except UserError as error:
        return {"error": str(error)}
    except (duckdb.Error, OSError) as error:
        return {"error": f"The query failed ({' '.join(str(error).split())[:300]}): try again."}


def _listen(requests: "queue.Queue[bytes]", made: Sequence[JournalTables]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    for tables in made:
        tables.close()
    os._exit(0)


if __name__ == "__main__":
    main()
