"""Reads one home for the pages: its journal as records and by SQL, and the farm that runs on it.

It never opens the home's database, which belongs to the farm: queries go to a process with its own copy of the records
(`results/query_process.py`), as a running farm's own do.
"""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.home import Home, home_option
from cluster.local_api import connect, silent_farm
from research.errors import FarmEnded, UserError
from research.formatting import counted
from results.history import BranchHistory, HistoryFollower
from results.journal_damage import repair_hint
from results.query import Table
from results.query_process import QueryProcess
from results.tables import Audience
from results.told import MOST_KEPT

MOST_ROWS = 20_000
"""Rows of one query for a page."""

STATUS_SECONDS = 1.0
"""How long an answer of the running farm holds: many pages ask it once."""

FIRST_WAIT_SECONDS = 1.5
"""How long a page waits for estimates before it says that they are being computed."""

NEXT_WAIT_SECONDS = 0.2
"""How long a page waits for newer estimates than those that are known."""

ESTIMATING_SECONDS = 600.0
"""Limit of the time in which estimates are computed."""

MOST_ESTIMATES = 2_000
"""Estimates that pages know: of all ideas in heads, and of the likeliest near-misses."""

SHOWN = "SELECT * FROM estimates WHERE in_head OR is_near_miss ORDER BY in_head DESC, helps DESC"
NEAR_MISSES = "SELECT count(*) FROM estimates WHERE is_near_miss"

Row = dict[str, Any]
"""A row of a query: column -> value."""


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What all runs say of ideas; the columns are those of the table `estimates`."""

    of: Mapping[str, Row] = field(default_factory=dict)
    """Those of the ideas in heads and of the likeliest near-misses, by the ids of experiments."""
    is_known: bool = False
    """Whether they have been computed at all yet."""
    is_current: bool = False
    """Whether nothing has been recorded since."""
    near_misses: int = 0
    """How many near-misses there are, of which the likeliest are in `of`."""


class HomeReader:
    """What the pages read of one home. Any thread may ask."""

    def __init__(self, home: Home, *, most_kept: int = MOST_KEPT) -> None:
        """The records of a journal of more than `most_kept` bytes are read when they are looked at."""
        self.home = home
        self._follower = HistoryFollower(home.journal, most_kept=most_kept)
        self._queries = QueryProcess(home.folder)
        self._estimating = EstimatesInBackground(home)
        self._asking = threading.Lock()
        self._status: dict[str, Any] | None = None
        self._asked, self._holds = float("-inf"), STATUS_SECONDS

    def close(self) -> None:
        """Ends the processes that answer queries."""
        self._queries.close()
        self._estimating.close()

    def histories(self) -> list[BranchHistory]:
        """All branches by now, the one with the newest experiment last; the same list as before if nothing is new."""
        return self._follower.histories()

    def table(self, sql: str, *, max_rows: int = MOST_ROWS, timeout_s: float = 10.0, audience: Audience = "person") -> Table:
        """The result of one SELECT. Raises UserError."""
        return self._queries.table(sql, audience=audience, max_rows=max_rows, timeout_s=timeout_s)

    def rows(self, sql: str) -> list[Row]:
        """The rows of one SELECT. Raises UserError."""
        table = self.table(sql)
        return [dict(zip(table.columns, row, strict=True)) for row in table.rows]

    def estimates(self, *, wait_s: float = FIRST_WAIT_SECONDS) -> Estimates:
        """What all runs say of ideas, as far as it has been computed by now or is after `wait_s` seconds at most."""
        return self._estimating.latest(self.version(), wait_s)

    def estimate_of(self, id: str, *, wait_s: float) -> Row | None:
        """What all runs say of one experiment's idea; None if there is nothing, or it isn't computed yet."""
        return self._estimating.of_one(id, self.version(), wait_s)

    def version(self) -> tuple[int, int]:
        """A value that changes whenever the journal does."""
        try:
            found = self.home.journal.stat()
        except OSError:
            return (0, 0)
        return (found.st_ino, found.st_size)

    def running(self) -> dict[str, Any] | None:
        """What the running farm says of itself; None if none runs, or it doesn't answer."""
        with self._asking:
            began = time.monotonic()
            if began - self._asked > self._holds:
                client = connect(self.home)
                try:
                    self._status = None if client is None else client.status()
                except (UserError, FarmEnded):
                    self._status = None
                self._asked = time.monotonic()
                self._holds = max(STATUS_SECONDS, self._asked - began)  # one that hangs is not waited for by every page
            return self._status

    def warnings(self) -> list[str]:
        """What is wrong with the home, one line each."""
        lines = []
        if self._follower.damaged:
            lines.append(f"{counted(self._follower.damaged, 'line')} of the journal can't be read and are missing here: "
                         f"{repair_hint(home_option(self.home))}")  # fmt: skip
        silent = self.silent()
        return [*lines, silent] if silent else lines

    def is_in_use(self) -> bool:
        """Whether a farm runs on the home, even one that doesn't answer."""
        return self.running() is not None or self.silent() != ""

    def silent(self) -> str:
        """What to say of a farm that runs and doesn't answer; empty if none runs, or it answers."""
        return "" if self.running() is not None else silent_farm(self.home)


class EstimatesInBackground:
    """The table `estimates`, computed by a process of its own when a page asks and something is new: it can take seconds."""

    def __init__(self, home: Home) -> None:
        self._queries = QueryProcess(home.folder)
        self._known: Estimates | None = None
        self._of: tuple[int, int] | None = None
        self._change = threading.Condition()
        self._is_working = False

    def close(self) -> None:
        """Ends the process."""
        self._queries.close()

    def latest(self, version: tuple[int, int], wait_s: float) -> Estimates:
        """The newest ones that there are. `version` is the journal's; those of an older one are computed anew meanwhile."""
        with self._change:
            if self._of != version and not self._is_working:
                self._is_working = True
                threading.Thread(target=self._compute, args=(version,), name="estimates", daemon=True).start()
            self._change.wait_for(
                lambda: not self._is_working, timeout=wait_s if self._known is None else min(wait_s, NEXT_WAIT_SECONDS)
            )
            return Estimates() if self._known is None else replace(self._known, is_current=self._of == version)

    def of_one(self, id: str, version: tuple[int, int], wait_s: float) -> Row | None:
        """The estimate of one experiment's idea; None if there is none, or they are being computed."""
        found = self.latest(version, wait_s)
        if id in found.of or not found.is_current:
            return found.of.get(id)
        with contextlib.suppress(UserError):
            return by_id(self._queries.table(f"SELECT * FROM estimates WHERE id = {quoted(id)}")).get(id)
        return None

    def _compute(self, version: tuple[int, int]) -> None:
        found = None
        try:
            rows = by_id(self._queries.table(SHOWN, max_rows=MOST_ESTIMATES, timeout_s=ESTIMATING_SECONDS))
            ((near_misses,),) = self._queries.table(NEAR_MISSES, timeout_s=ESTIMATING_SECONDS).rows
            found = Estimates(of=rows, is_known=True, near_misses=near_misses)
        except UserError:  # the next page that asks tries again
            pass
        finally:
            with self._change:
                self._is_working = False
                if found is not None:
                    self._known, self._of = found, version
                self._change.notify_all()


def by_id(table: Table) -> dict[str, Row]:
    """The rows of a table by their column `id`."""
    rows = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    return {str(row["id"]): row for row in rows}


def quoted(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def listed(texts: Sequence[str]) -> str:
    """Texts as a list in parentheses of SQL, which matches nothing if there are none."""
    return f"({', '.join(map(quoted, texts)) or 'NULL'})"
