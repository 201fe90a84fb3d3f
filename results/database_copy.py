"""A home's database as another process may read it: a copy of the file that the farm writes, in a temporary folder.

Of a long history a process that answers queries so starts at once, and needs no memory for all of it.
"""

import logging
import shutil
from pathlib import Path

from research.locked_folder import LockedFolder
from results.database import in_memory, opened
from results.journal import JournalReader

log = logging.getLogger(__name__)

PREFIX = "autoresearch-queries-"

MOST_IN_MEMORY = 2**26
"""Bytes of a journal up to which its records are held in memory, which takes less time than anybody notices."""

HEADER_BYTES = 3 * 4096
"""A DuckDB file begins with its main header and two headers of the database, the newer of which counts."""

ATTEMPTS = 3
"""Copies that are made until the farm doesn't write a checkpoint meanwhile; it writes one for thousands of records."""

SPARE_BYTES = 2**30
"""Space that a copy leaves free."""


class QueryDatabase:
    """A database with what a journal holds, for one process that reads: in memory, or of a long journal in its own file."""

    def __init__(self, reader: JournalReader, *, most_in_memory: int = MOST_IN_MEMORY, copies: bool = True) -> None:
        """`reader` has read nothing yet, and knows all records of the database afterwards. Raises JournalChanged.

        Without `copies` the file is made from the journal.
        """
        self._folder: LockedFolder | None = None
        if reader.path.exists() and reader.path.stat().st_size > most_in_memory:
            try:
                self._folder = _folder_with_copy(reader.path.with_name("farm.duckdb") if copies else None)
            except OSError as problem:
                log.warning("the database can't be copied (%s): queries need memory for all of it", problem)
        reader.pass_over()  # after the copy, which may hold no record that the reader doesn't know
        if self._folder is None:
            self.connection = in_memory(reader)
        else:
            self.connection = opened(self._folder.path / "queries.duckdb", reader)

    def close(self) -> None:
        """Closes the database, and removes its file."""
        self.connection.close()
        self.remove_file()

    def remove_file(self) -> None:
        """Removes the database's file, whoever still reads it."""
        if self._folder is not None:
            self._folder.remove()


def _folder_with_copy(source: Path | None) -> LockedFolder:
    """A folder that holds a copy of a database, or none if there is none to copy. Raises OSError."""
    folder = LockedFolder(PREFIX)
    try:
        if source is not None and source.exists():
            if shutil.disk_usage(folder.path).free < source.stat().st_size + SPARE_BYTES:
                raise OSError(f"{folder.path.parent} has too little free space")
            copy_database(source, folder.path / "queries.duckdb")
    except BaseException:
        folder.remove()
        raise
    return folder


def copy_database(source: Path, target: Path) -> bool:
    """Copies a DuckDB file that another process may write meanwhile, as of its last checkpoint. Returns whether it could.

    DuckDB never overwrites a block that the newest header refers to, so that it survives a crash: while that header stays the
    same all that it refers to stays in place. Raises OSError.
    """
    for _ in range(ATTEMPTS):
        before = _header(source)
        shutil.copyfile(source, target)
        if _header(source) == before:
            return True
        target.unlink()
    return False


def _header(database: Path) -> bytes:
    with database.open("rb") as file:
        return file.read(HEADER_BYTES)
