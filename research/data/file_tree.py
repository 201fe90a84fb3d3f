"""The files of a folder of the user's own, those behind symbolic links included."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from research.data.decoding import Readable
from research.data.documents import path_key


@dataclass(frozen=True, kw_only=True)
class FileTree:
    """What lies in a folder."""

    files: tuple[Path, ...]
    """Those that count, ordered by `path_key`."""
    hidden: tuple[Path, ...] = ()
    """Hidden files, and hidden folders without what is in them: none of it is read."""
    again: tuple[Path, ...] = ()
    """Further paths to files and folders that count under another one."""


def files_below(root: Path) -> list[Path]:
    """The files of `tree_below`."""
    return list(tree_below(root).files)


def tree_below(root: Path) -> FileTree:
    """The files of a folder, those behind links included; of a file, itself.

    Hidden files and folders are left out. A file that is reached by several paths counts once, under the first path with a
    suffix: the files of a Hugging Face cache are links to files without one. Raises UserError for a folder that can't be read.
    """
    if not root.is_dir():
        return FileTree(files=(root,) if root.exists() else ())
    hidden, again = list[Path](), list[Path]()
    found = sorted(_walk(root, hidden, again), key=lambda path: path_key(path, root))
    chosen: dict[tuple[int, int] | Path, Path] = {}
    for path in found:
        identity: tuple[int, int] | Path = path
        with suppress(OSError):  # a broken link is listed too, so that it can be named
            stat = path.stat()
            identity = (stat.st_dev, stat.st_ino) if stat.st_ino else path
        if identity not in chosen or (path.suffix and not chosen[identity].suffix):
            chosen[identity] = path
    kept = set(chosen.values())
    again += [path for path in found if path not in kept]
    return FileTree(
        files=tuple(path for path in found if path in kept), hidden=tuple(sorted(hidden)), again=tuple(sorted(again))
    )


def has_files(root: Path) -> bool:
    """Whether a folder has a file that is not hidden. Raises UserError for a folder that can't be read."""
    return next(_walk(root, [], []), None) is not None


def has_hidden_files(root: Path) -> bool:
    """Whether hidden files or folders lie below a folder. Raises UserError for a folder that can't be read."""
    return root.is_dir() and bool(tree_below(root).hidden)


def _walk(root: Path, hidden: list[Path], again: list[Path]) -> Iterator[Path]:
    """All files and broken links below `root`. Each folder is entered once, which ends circles of links.

    What is `hidden`, and folders that are reached `again`, are added to these lists.
    """
    entered: set[tuple[int, int]] = set()
    folders, linked = [root], list[Path]()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        with Readable(folder):
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in entered:
                again.append(folder)
                continue
            entered.add((stat.st_dev, stat.st_ino))
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    hidden.append(path)
                    continue
                if not path.is_dir():
                    yield path
                else:
                    (linked if path.is_symlink() else folders).append(path)
