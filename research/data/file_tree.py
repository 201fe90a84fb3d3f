"""The files of a folder of the user's own, those behind symbolic links included."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from research.data.decoding import Readable
from research.data.documents import path_key


def files_below(root: Path) -> list[Path]:
    """The files of a folder, those behind links included, ordered by `path_key`; of a file, itself.

    Hidden files and folders are left out. A file that is reached by several paths counts once, under the first path with a
    suffix: the files of a Hugging Face cache are links to files without one. Raises UserError for a folder that can't be read.
    """
    if not root.is_dir():
        return [root] if root.exists() else []
    found = sorted(_walk(root), key=lambda path: path_key(path, root))
    chosen: dict[tuple[int, int] | Path, Path] = {}
    for path in found:
        identity: tuple[int, int] | Path = path
        with suppress(OSError):  # a broken link is listed too, so that it can be named
            stat = path.stat()
            identity = (stat.st_dev, stat.st_ino) if stat.st_ino else path
        if identity not in chosen or (path.suffix and not chosen[identity].suffix):
            chosen[identity] = path
    kept = set(chosen.values())
    return [path for path in found if path in kept]


def has_files(root: Path) -> bool:
    """Whether a folder has a file that is not hidden. Raises UserError for a folder that can't be read."""
    return next(_walk(root), None) is not None


def has_hidden_files(root: Path) -> bool:
    """Whether hidden files or folders lie in a folder itself."""
    return root.is_dir() and any(path.name.startswith(".") for path in root.iterdir())


def _walk(root: Path) -> Iterator[Path]:
    """All files and broken links below `root`. Each folder is entered once, which ends circles of links."""
    entered: set[tuple[int, int]] = set()
    folders, linked = [root], list[Path]()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        with Readable(folder):
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in entered:
                continue
            entered.add((stat.st_dev, stat.st_ino))
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    continue
                if not path.is_dir():
                    yield path
                else:
                    (linked if path.is_symlink() else folders).append(path)
