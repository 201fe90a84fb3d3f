"""The schedule on which files for people are written: history.parquet, for notebooks, and each branch's progress.png.

They are views of the history. One that can't be written is a warning, and is tried again; a farm never waits for them, and
spends a small share of its time on them.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.background import in_background
from research.errors import UserError
from results.drawing import Drawn, draw_apart, draw_here, reason_of
from results.experiment import ExperimentRecord
from results.group_entries import HEAD
from results.plot import Picture, Point, picture_of
from results.store import Store

EXPORT_SECONDS = 120.0
"""The files are written at least this often."""

LEAST_SECONDS = 5.0
"""Verdicts that follow one another faster than this are written together."""

SHARE = 0.05
"""The share of the time that writing may take: the longer it takes, the more seldom it is done."""

LAST_SECONDS = 5.0
"""How long a farm that ends goes on drawing: many pictures take minutes, and the next one draws those that are left."""

AT_ONCE = 16
"""The most pictures that are drawn by one process: the records of so many branches are in memory meanwhile."""

Draw = Callable[[Sequence[tuple[Path, Picture]]], list[Drawn]]


class HistoryExport:
    """Keeps history.parquet and the pictures of the branches up to date."""

    def __init__(self, store: Store, *, on_aside: Callable[[str, Path], None],
                 on_failure: Callable[[Path, str], None]) -> None:  # fmt: skip
        """`on_aside(branch, file)` is told of a person's picture that was moved out of the way, and `on_failure(file, reason)`
        of a file that can't be written, once for each reason.
        """
        self._store, self._on_aside, self._on_failure = store, on_aside, on_failure
        self._writing = threading.Lock()
        self._is_due = asyncio.Event()
        self._pictures: dict[str, Path] = {}
        self._drawn: dict[str, int] = {}
        """Runs, verdicts (later ones on the same experiment count, too) and heads in the picture of each branch."""
        self._created: dict[str, str] = {}
        """When each experiment that made a head was created."""
        self._told: set[tuple[Path, str]] = set()

    def add_picture(self, branch: str, path: Path) -> None:
        """Draws the branch's progress to `path` from now on."""
        self._pictures[branch] = path

    def write_last(self) -> None:
        """Writes the files as the farm ends: the history, and as many pictures as LAST_SECONDS allow."""
        self.write(draw_here if len(self._pictures) == 1 else draw_apart, seconds=LAST_SECONDS)

    def write(self, draw: Draw = draw_here, *, seconds: float = math.inf) -> None:
        """Writes the history now, and the pictures of the branches that have changed; after so many seconds no more are begun.
        Raises nothing for what fails.
        """
        with self._writing:
            try:
                self._store.export_parquet()
            except Exception as error:  # of the system, of DuckDB or of Arrow: it is only a view
                self._fail(self._store.home / "history.parquet", error)
            try:
                self._draw_changed(draw, until=time.monotonic() + seconds)
            except UserError as error:  # the records can't be read now
                self._fail(self._store.home / "history.parquet", error)

    def _draw_changed(self, draw: Draw, *, until: float) -> None:
        changed = [(branch, path, seen) for branch, path in list(self._pictures.items())  # more may be opened meanwhile
                   if self._drawn.get(branch) != (seen := self._changes(branch))]  # fmt: skip
        for first in range(0, len(changed), AT_ONCE):
            if time.monotonic() < until:
                self._draw(draw, changed[first : first + AT_ONCE])

    def _changes(self, name: str) -> int:
        """How many runs and verdicts a branch has, and how many heads its group."""
        branch = self._store.branch(name)
        heads = 0 if branch is None else len(self._store.events(HEAD, branch.head_branch))
        return heads + self._store.experiments.changes(name)

    def _draw(self, draw: Draw, changed: Sequence[tuple[str, Path, int]]) -> None:
        pictures = []
        for branch, path, _ in changed:
            records = self._store.records(branch)
            pictures.append((path, picture_of(records, branch, self._heads(branch, records))))
        for (branch, path, seen), drawn in zip(changed, draw(pictures), strict=True):
            if drawn.problem:
                self._fail(path, drawn.problem)
                continue
            self._drawn[branch] = seen
            if drawn.aside is not None:
                self._on_aside(branch, drawn.aside)

    def _fail(self, path: Path, error: Exception | str) -> None:
        reason = error if isinstance(error, str) else reason_of(error)
        if (path, reason) not in self._told:
            self._told.add((path, reason))
            self._on_failure(path, reason)

    def _heads(self, name: str, records: Sequence[ExperimentRecord]) -> list[Point]:
        """The heads of a branch's group, each at the branch's last experiment that began no later than what made it."""
        branch = self._store.branch(name)
        points = []
        for event in [] if branch is None else self._store.events(HEAD, branch.head_branch):
            made = event["experiment"]
            if made not in self._created:
                self._created[made] = self._store.record(made).experiment.created
            earlier = [r.experiment.number for r in records if r.experiment.created <= self._created[made]]
            points.append(Point(number=max(earlier, default=0), val_bpb=event["expected"], title=""))
        return points

    def request(self) -> None:
        """Has the files written soon; called in the event loop."""
        self._is_due.set()

    async def write_regularly(self) -> None:
        """Writes the files after requests, and every EXPORT_SECONDS, beside the event loop, until it is cancelled."""
        pause = LEAST_SECONDS
        while True:
            await asyncio.sleep(pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_due.wait(), EXPORT_SECONDS)
            self._is_due.clear()
            began = time.monotonic()
            await in_background(self.write, draw_apart)
            pause = max(LEAST_SECONDS, (time.monotonic() - began) / SHARE)
