"""The state of the user's files when data was prepared from them, so that a change is noticed.

Names, sizes and times of modification are compared first; only where a time alone differs, as after a copy, is the content
hashed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from research.data.decoding import Readable
from research.files import sha256_of, write_atomically
from research.formatting import counted

SNAPSHOT = "files.json"
"""Name of the snapshot's file in a prepared folder."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What is remembered of one file."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Numbers of files that differ between a snapshot and now."""

    added: int = 0
    removed: int = 0
    edited: int = 0
    left: int = 0
    """Files that are there now."""
    exists: bool = True
    """Whether the folder, or the only file, exists."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.edited)

    def __str__(self) -> str:
        """For instance `12 files changed (10 new, 2 edited)`."""
        if not self.exists:
            return "the text was deleted"
        if not self.left:
            return "the folder was emptied"
        kinds = {"new": self.added, "edited": self.edited, "gone": self.removed}
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        return f"{counted(self.added + self.removed + self.edited, 'file')} changed ({listed})"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The states of all files, by their paths below the root."""

    files: dict[str, FileState]

    @staticmethod
    def take(root: Path, paths: Iterable[Path]) -> "Snapshot":
        """The present state of `paths`. Raises UserError for a file that can't be read."""
        files = {}
        for path in paths:
            with Readable(path):
                if path.is_file():  # a broken link has no state
                    files[_name(path, root)] = _state(path)
        return Snapshot(files=files)

    @staticmethod
    def load(folder: Path) -> "Snapshot | None":
        """The snapshot in a prepared folder; None if there is none, or it is damaged."""
        try:
            values = json.loads((folder / SNAPSHOT).read_text())
            return Snapshot(files={name: FileState(**state) for name, state in values.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def save(self, folder: Path) -> None:
        """Writes the snapshot into a prepared folder."""
        write_atomically(folder / SNAPSHOT, json.dumps({name: asdict(state) for name, state in self.files.items()}))

    def digest(self) -> str:
        """Twelve hex digits over the names and the content of the files."""
        names = sorted((name, state.sha256) for name, state in self.files.items())
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]

    def compare(self, root: Path, paths: Iterable[Path]) -> "tuple[Changes, Snapshot]":
        """What has changed, and this snapshot with the present times of the files whose content is the same."""
        present = {_name(path, root): path for path in paths if path.is_file()}
        same = dict(self._unchanged(present))
        known = present.keys() & self.files.keys()
        changes = Changes(
            added=len(present) - len(known),
            removed=len(self.files) - len(known),
            edited=len(known) - len(same),
            left=len(present),
            exists=root.exists(),
        )
        return changes, Snapshot(files=self.files | same)

    def _unchanged(self, present: dict[str, Path]) -> Iterator[tuple[str, FileState]]:
        """The files whose content is the same, with their present states."""
        for name, old in self.files.items():
            with suppress(OSError):  # a file that can't be read is not the same
                if name not in present:
                    continue
                found = present[name].stat()
                if found.st_size != old.size:
                    continue
                new = old if found.st_mtime_ns == old.mtime_ns else _state(present[name])
                if new.sha256 == old.sha256:
                    yield name, new


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _state(path: Path) -> FileState:
    found = path.stat()
    return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=sha256_of(path))
