"""The compile cache that runs share. It holds pickles and libraries, which runs execute, so only trusted code may add files.

Every run compiles into a private folder that starts with links to the shared files and is deleted after the run. What a run of
the shipped train.py compiled, with any constants, is added to the shared folder, as no researcher's code can have planted
anything in it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from research.files import TEMPORARY, make_open_folder, replacing
from research.hyperparameters import fingerprint_without_constants
from research.software_versions import software_versions

SHARED_VARIABLE, PRIVATE_VARIABLE = "AUTORESEARCH_COMPILED", "TORCHINDUCTOR_CACHE_DIR"

LAYOUT_VERSION = 3
"""Version of the shared cache's layout; bump it to start afresh."""

MAX_BYTES = 2 * 2**30
"""Maximum size of the shared folder. What does not fit is compiled again by each run."""

TRITON = "triton"
"""Folder of Triton's kernels. Each kernel has a subfolder, which is added and linked as a whole."""

LOCK_SUFFIX = "lock"
"""Suffix of the names of lock files."""

GROUP_PREFIX = "__grp__"
"""Prefix of the names of Triton's group files, which list the absolute paths of a kernel's files."""

RUN_MARKER = "of-a-run"
"""Marker file in the shared folder: everything that a complete run compiled has been added."""

SHIPPED = "81f4edf937f195038c85516d4141492a419efaedf113d784751a276c6e69d5b0"
"""`fingerprint_without_constants` of the shipped train.py. It stands here because the file itself is what people and agents
edit: an edit must not vouch for itself."""


def shared_folder(cache: Path, device: str) -> Path:
    """The folder of compiled code for this software and kind of device."""
    key = json.dumps([software_versions(), device.partition(":")[0], LAYOUT_VERSION], sort_keys=True)
    return cache / "compiled" / hashlib.sha256(key.encode()).hexdigest()[:16]


def is_trusted(train_py: str) -> bool:
    """Whether the text equals the shipped train.py except for the values of constants."""
    try:
        return fingerprint_without_constants(train_py) == SHIPPED
    except SyntaxError:
        return False


def variables(folder: Path) -> dict[str, str]:
    """Environment variables that make torch, Triton and flash-attn-4 cache compiled code in `folder`."""
    return {
        PRIVATE_VARIABLE: str(folder),
        "TRITON_CACHE_DIR": str(folder / TRITON),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(folder / "flash-attn-4"),
    }


def link_shared() -> None:
    """Links the shared files into the private folder of this run's process. Both folders are named by environment variables.

    A compiler that writes a file again replaces the link, not its target, which no run can write to.
    """
    shared, private = os.environ.get(SHARED_VARIABLE), os.environ.get(PRIVATE_VARIABLE)
    if not shared or not private:
        return
    for where, folders, names in os.walk(shared):
        place = Path(private) / Path(where).relative_to(shared)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not name.endswith(TEMPORARY):
                (place / name).symlink_to(Path(where) / name)
        if Path(where) == Path(shared) / TRITON:
            for name in folders:
                if not name.endswith(TEMPORARY):
                    (place / name).symlink_to(Path(where) / name)
            folders.clear()


def add_to_shared(private: Path, shared: Path) -> None:
    """Atomically adds each regular file and each folder of a Triton kernel in `private` that is missing from `shared`."""
    missing = list(_missing(private, shared))
    used = _size_in_bytes(shared) if missing else 0
    for source in missing:
        size = _size_in_bytes(source)
        if used + size <= MAX_BYTES:
            used += size
            _add(source, shared / source.relative_to(private))


def add_run_to_shared(folders: Iterable[Path], shared: Path) -> None:
    """Adds what a complete run compiled, from the private folders of its processes."""
    for folder in folders:
        add_to_shared(folder, shared)
    if shared.is_dir():  # otherwise the run compiled nothing
        (shared / RUN_MARKER).touch()


def holds_a_run(shared: Path) -> bool:
    """Whether a complete run has been added, so that the next one finds most of what it needs."""
    return (shared / RUN_MARKER).exists()


def _missing(private: Path, shared: Path) -> Iterator[Path]:
    """Regular files, and folders of Triton kernels, that are in `private` but not in `shared`."""
    for where, folders, names in os.walk(private):
        found = [Path(where) / name for name in names if not name.endswith(LOCK_SUFFIX)]
        found = [path for path in found if stat.S_ISREG(path.lstat().st_mode)]
        if Path(where) == private / TRITON:
            found += [folder for name in folders if _is_complete(folder := Path(where) / name)]
            folders.clear()
        yield from (path for path in found if not (shared / path.relative_to(private)).exists())


def _is_complete(folder: Path) -> bool:
    """Whether this is a complete folder of a Triton kernel that the run itself compiled.

    Triton writes the group file last; a library is the only file of its folder.
    """
    if folder.is_symlink():
        return False
    return any(path.name.startswith(GROUP_PREFIX) or path.suffix == ".so" for path in folder.iterdir())


def _add(source: Path, target: Path) -> None:
    """Copies a regular file, or the regular files of a folder, under a temporary name, then renames it."""
    make_open_folder(target.parent)  # runs read it under identities of their own
    if not source.is_dir():
        with replacing(target) as unfinished:
            _copy(source, unfinished)
        return
    temporary = target.with_name(f"{target.name}.{os.getpid()}{TEMPORARY}")
    make_open_folder(temporary)
    for path in source.iterdir():
        if stat.S_ISREG(path.lstat().st_mode) and path.name != LOCK_SUFFIX:
            _copy(path, temporary / path.name)
    for group in temporary.glob(f"{GROUP_PREFIX}*"):
        group.write_text(_relocated(group.read_text(), target))
    try:
        temporary.rename(target)
    except OSError:  # another run has added it meanwhile
        shutil.rmtree(temporary)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _relocated(group: str, folder: Path) -> str:
    """The text of a Triton group file with its paths changed to `folder`: Triton finds files by these paths alone."""
    paths = json.loads(group)["child_paths"]
    return json.dumps({"child_paths": {name: str(folder / name) for name in paths}})


def _size_in_bytes(path: Path) -> int:
    """Total size of a file, or of all files in a folder. Files that disappear meanwhile are not counted."""
    files = [Path(where) / name for where, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total
