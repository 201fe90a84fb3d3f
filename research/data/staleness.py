"""Whether the user's files have changed since data was prepared from them."""

import time
from contextlib import suppress
from dataclasses import dataclass

from research.data.file_changes import Snapshot
from research.data.file_tree import files_below
from research.data.prepared import PreparedData
from research.data.sources import is_own_files, own_root
from research.formatting import printable


@dataclass(frozen=True, kw_only=True)
class Staleness:
    """How the user's files differ from those that data was prepared from."""

    what: str
    """For instance `12 files changed (10 new, 2 edited)`."""
    source: str
    since: float
    """When the data was prepared, in seconds of Unix time."""
    can_prepare: bool
    """Whether there are files to prepare anew."""

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"{printable(self.source)}: {self.what} since the data was prepared on {day}"


def staleness(data: PreparedData) -> Staleness | None:
    """How the files of `data` have changed; None if they have not, or for a source that doesn't change.

    New times of files with the same content are written down, so that these are not read again the next time.
    """
    if not is_own_files(data.source):
        return None
    root = own_root(data.source)
    paths = files_below(root)
    old = Snapshot.load(data.folder)
    if old is None:
        what = "the state of the files was not recorded"
        return Staleness(what=what, source=data.source, since=data.created, can_prepare=bool(paths))
    changes, refreshed = old.compare(root, paths)
    if refreshed != old:
        with suppress(OSError):  # another user's cache
            refreshed.save(data.folder)
    if not changes:
        return None
    return Staleness(what=str(changes), source=data.source, since=data.created, can_prepare=bool(paths))
