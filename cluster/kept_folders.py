"""What lies on this machine: homes with their tags and branches, prepared data, and how much disk space each takes."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.repo.branch_names import worktree_folder
from cluster.home import Home
from cluster.known_folders import known_folders
from results.counts import count
from results.history import BranchHistory, by_head, read_history


@dataclass(frozen=True, kw_only=True)
class KeptTag:
    """A tag of a home."""

    tag: str
    branches: tuple[str, ...]
    experiments: int
    """As `farm status` counts them (`results/counts.py`): ideas with a verdict."""
    kept: int
    last: str
    """When its newest experiment was committed, ISO 8601; empty without one."""
    disk_bytes: int
    """Bytes of its run folders and worktrees."""


@dataclass(frozen=True, kw_only=True)
class KeptHome:
    """A home."""

    folder: Path
    holder: str | None
    """The process that runs a farm on it, in words; None if none does."""
    disk_bytes: int
    tags: tuple[KeptTag, ...]


@dataclass(frozen=True, kw_only=True)
class KeptCache:
    """A folder with prepared data."""

    folder: Path
    disk_bytes: int
    data: tuple[tuple[str, int], ...]
    """The name and the bytes of each prepared data set."""


def kept_homes(*homes: Home) -> list[KeptHome]:
    """The homes that farms have been started with, and these, as far as they hold a history."""
    folders = dict.fromkeys([*(home.folder for home in homes), *known_folders()])
    return [kept_home(Home(folder)) for folder in folders if Home(folder).journal.is_file()]


def kept_home(home: Home) -> KeptHome:
    """A home with its tags, the one with the newest experiment last."""
    histories = read_history(home.journal)
    tags = dict.fromkeys(history.branch.tag for history in histories)
    found = [kept_tag(home, [one for one in histories if one.branch.tag == tag]) for tag in tags]
    return KeptHome(folder=home.folder, holder=home.holder(), disk_bytes=disk_bytes(home.folder), tags=tuple(found))


def kept_tag(home: Home, histories: list[BranchHistory]) -> KeptTag:
    """A tag of a home, by its branches."""
    records = [record for history in histories for record in history.records]
    counts = count(*([record for one in sharing for record in one.records] for sharing in by_head(histories)))
    runs = [home.runs / run.run_id for record in records for run in record.runs]
    folders = [*runs, *(worktree_folder(home.folder, history.branch.name) for history in histories)]
    return KeptTag(
        tag=histories[0].branch.tag,
        branches=tuple(history.branch.name for history in histories),
        experiments=counts.done,
        kept=counts.kept,
        last=max((record.experiment.created for record in records), default=""),
        disk_bytes=sum(map(disk_bytes, folders)),
    )


def kept_caches(*caches: Path) -> list[KeptCache]:
    """The folders of prepared data that farms have used, and these, as far as there is any."""
    folders = dict.fromkeys([*caches, *known_folders()])
    return [
        KeptCache(
            folder=folder,
            disk_bytes=disk_bytes(folder),
            data=tuple((one.name, disk_bytes(one)) for one in data_folders(folder)),
        )
        for folder in folders
        if not Home(folder).journal.is_file() and data_folders(folder)
    ]


def data_folders(cache: Path) -> list[Path]:
    """The prepared data sets in a cache."""
    places = [cache / "prepared", cache / "shipped"]
    return sorted(one for place in places if place.is_dir() for one in place.iterdir() if one.is_dir())


def disk_bytes(folder: Path) -> int:
    """The bytes that a folder takes on its disk, files with several names counted once; 0 if it isn't there."""
    seen = set[tuple[int, int]]()
    return sum(_blocks(entry, seen) for entry in _entries(folder))


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path))


def _blocks(entry: os.DirEntry[str], seen: set[tuple[int, int]]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:  # removed meanwhile
        return 0
    if (found.st_dev, found.st_ino) in seen:
        return 0
    seen.add((found.st_dev, found.st_ino))
    return found.st_blocks * 512
