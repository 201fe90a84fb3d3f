"""The homes and caches of all farms of this user, wherever they lie: a researcher's command may read none of them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from research.files import exclusive, remove_unfinished, write_atomically


def list_file() -> Path:
    """The file that names them, a path a line."""
    return Path(platformdirs.user_state_dir("autoresearch-farm", appauthor=False)) / "folders"


def known_folders() -> tuple[Path, ...]:
    """The folders that farms have been started with and that are still there."""
    try:
        lines = list_file().read_text(errors="surrogateescape").split("\n")
    except OSError:
        return ()
    return tuple(folder for line in lines if line and (folder := Path(line)).is_dir())


def remember(*folders: Path) -> None:
    """Adds folders to the list, and takes out those that are gone. Does nothing where the list can't be written."""
    with contextlib.suppress(OSError), _held(list_file().parent):
        remove_unfinished(list_file().parent, (list_file().name,))
        before = known_folders()
        after = dict.fromkeys([*before, *(folder.resolve() for folder in folders if "\n" not in str(folder))])
        if tuple(after) != before:
            write_atomically(list_file(), "".join(f"{folder}\n" for folder in after).encode(errors="surrogateescape"))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Makes a folder, and lets one process at a time into the block. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        yield
