"""The homes and caches of all farms of this user, wherever they lie: a researcher's command may read none of them."""

import contextlib
from pathlib import Path

import platformdirs

from research.files import write_atomically


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
    before = known_folders()
    after = dict.fromkeys([*before, *(folder.resolve() for folder in folders if "\n" not in str(folder))])
    if tuple(after) != before:
        with contextlib.suppress(OSError):
            list_file().parent.mkdir(parents=True, exist_ok=True)
            write_atomically(list_file(), "".join(f"{folder}\n" for folder in after).encode(errors="surrogateescape"))
