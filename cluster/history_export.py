"""The schedule on which files for people are written: history.parquet, for notebooks, and each branch's progress.png."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from research.errors import UserError
from research.files import TEMPORARY
from results.experiment import ExperimentRecord
from results.group_entries import HEAD
from results.plot import Point, write_progress_png
from results.store import Store

EXPORT_SECONDS = 120.0
"""The files are written at least this often."""

LEAST_SECONDS = 5.0
"""Verdicts that follow one another faster than this are written together."""


class HistoryExport:
    """Keeps history.parquet and the pictures of the branches up to date."""

    def __init__(self, store: Store, *, on_aside: Callable[[str, Path], None], say: Callable[[str], None]) -> None:
        """`on_aside(branch, file)` is told of a person's picture that was moved out of the way; `say` tells the user."""
        self._store, self._on_aside, self._say = store, on_aside, say
        self._failed = ""
        """Why the files could not be written the last time; empty if they were."""
        self._last = 0.0
        self._pictures: dict[str, Path] = {}
        self._drawn: dict[str, int] = {}
        """Runs, verdicts and heads in the picture of each branch."""
        self._created: dict[str, str] = {}
        """When each experiment that made a head was created."""

    def add_picture(self, branch: str, path: Path) -> None:
        """Draws the branch's progress to `path` from now on."""
        self._pictures[branch] = path

    def write(self) -> None:
        """Writes the history now, and the pictures of the branches that have changed.

        Nothing depends on these files: what can't be written is said once, and tried again the next time.
        """
        self._last = time.monotonic()
        try:
            self._write()
        except (OSError, UserError) as error:
            failed = _in_words(error, self._store.home)
            if failed != self._failed:
                self._say(f"{failed}: the history and its pictures stay as they are, and are written once they can be")
            self._failed = failed
        else:
            self._failed = ""

    def _write(self) -> None:
        self._store.export_parquet()
        for branch, path in list(self._pictures.items()):  # another loop may be opened meanwhile, in its own thread
            records = self._store.records(branch)
            heads = self._heads(branch, records)
            seen = len(heads) + sum(len(record.runs) + (record.verdict is not None) for record in records)
            if self._drawn.get(branch) != seen:
                aside = write_progress_png(path, records, title=branch, heads=heads)
                if aside is not None:
                    self._on_aside(branch, aside)
                self._drawn[branch] = seen

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

    def write_if_due(self) -> None:
        """Writes the files, unless they were written a moment ago."""
        if time.monotonic() - self._last > LEAST_SECONDS:
            self.write()

    async def write_regularly(self) -> None:
        """Writes the files every EXPORT_SECONDS until it is cancelled."""
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            self.write_if_due()


def _in_words(error: OSError | UserError, home: Path) -> str:
    if isinstance(error, UserError):
        return str(error).rstrip(".")
    file = Path(error.filename2 or error.filename or home)
    where = file.parent if file.suffix == TEMPORARY else file  # its name is another one each time
    return f"{where} can't be written ({error.strerror or error})"
