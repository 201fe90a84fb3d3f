"""Files and folders: atomic writes, and the folder of the package. Standard library only."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from research.errors import UserError

TEMPORARY = ".tmp"
"""Suffix of the names of unfinished files; a killed process can leave one behind."""


_UNFINISHED = re.compile(r"\.(.+\.[0-9a-f]{8}|farm-tries-.+)" + re.escape(TEMPORARY), re.DOTALL)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def replacing(path: Path, *, private: bool = False, overwrite: bool = True) -> Iterator[Path]:
    """A temporary file next to `path`, empty at first, for the block to write; it becomes `path` at the end.

    Other processes see the old file or the new one, never a part. If the block raises, `path` stays as it was. Nothing is
    fsynced: after a power cut the file can be the old one, the new one or empty. Missing folders are created. With `private`
    only this user can read the file (mode 0600). Without `overwrite` a file that exists by the end stays, and the new one is
    dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666))
    try:
        yield temporary
        if overwrite:
            temporary.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Lets one process at a time into the block, by a lock on a folder, or on a file, which is made if it is missing.

    The lock is released when the process ends, however it ends. `on_wait` is called before this waits for another process.
    Raises OSError if the path can't be opened.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes, *, private: bool = False, overwrite: bool = True) -> None:
    """Writes the whole file (text as UTF-8) or leaves `path` as it was; see `replacing`."""
    with replacing(path, private=private, overwrite=overwrite) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_unfinished(folder: Path, names: Collection[str] = ()) -> None:
    """Removes the unfinished files that killed processes left in a folder, or only those of files with these names; nothing
    else may be writing them.
    """
    with suppress(OSError):
        for path in folder.glob(f".*{TEMPORARY}"):
            is_chosen = not names or path.name[1:].rsplit(".", 2)[0] in names
            if is_chosen and _UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def move_aside(path: Path) -> Path:
    """Renames what is at `path` to `NAME.1`, or the next number that is free, and returns that path."""
    return path.rename(free_beside(path))


def free_beside(path: Path) -> Path:
    """`NAME.1` beside a path, or with the next number that is free."""
    return next(free for number in count(1) if not (free := path.with_name(f"{path.name}.{number}")).exists())


def make_open_folder(path: Path) -> None:
    """Makes a folder with its parents, readable by everybody regardless of the umask; does nothing if it exists."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def remove_tree(folder: Path) -> bool:
    """Removes a folder with everything below it, however deeply folders are nested. Returns whether nothing is left of it.

    Folders further down are moved up into `folder` first, so that no path is longer than the system allows. Nothing else may
    write there meanwhile.
    """
    prefix, numbers = secrets.token_hex(8), count()
    try:
        top = os.open(folder, _FOLDER)
    except OSError:
        return not folder.exists()
    try:
        waiting = _remove_files(top)
        while waiting:
            name = waiting.pop()
            with suppress(OSError):
                inner = os.open(name, _FOLDER, dir_fd=top)
                try:
                    for below in _remove_files(inner):
                        moved = f"{prefix}-{next(numbers)}"
                        os.rename(below, moved, src_dir_fd=inner, dst_dir_fd=top)
                        waiting.append(moved)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def _remove_files(folder: int) -> list[str]:
    """Removes the files of an open folder, and opens the permissions of its folders. Returns the names of these."""
    with os.scandir(folder) as found:
        entries = list(found)
    folders = []
    for entry in entries:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
                os.chmod(entry.name, 0o700, dir_fd=folder)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return folders


def try_to_write(folder: Path) -> None:
    """Writes a file where `folder` is or would be made, and removes it again. Raises OSError if that is refused."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".farm-tries-", suffix=TEMPORARY) as file:
        file.write(b"x" * 4096)
        file.flush()


def not_writable(what: str, folder: Path, error: OSError, *, option: str) -> UserError:
    """The error for a folder of the farm's that can't be made or written, with the option that names another."""
    cure = cure_of_refused_write(error)
    return UserError(f"The {what} {folder} can't be written ({error.strerror}): {cure}, or choose another {option}.")


def cure_of_refused_write(error: OSError) -> str:
    """What a user can do about a folder in which a write was refused."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "free some space there" if is_full else "change its permissions"


def user_path(path: str | Path, *, instead: str) -> Path:
    """The path with `~` replaced by the user's home folder.

    Raises UserError, which says what to give `instead`, if the user has none: no HOME, and no entry among the system's users.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} needs a home folder, and HOME names none: give {instead}.") from None


def home_folder() -> Path:
    """The user's home folder; `/` if there is none, which holds nothing of the user's."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def research_folder() -> Path:
    """The folder of the `research` package, which holds train.py."""
    return Path(__file__).resolve().parent
