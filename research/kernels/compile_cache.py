"""Compiled code that runs share. Its files are pickles and libraries, which a run executes: only what is trusted writes them.

Every run compiles into a folder of its own, which starts with links to what the shared one holds and is thrown away. What a run
of the shipped train.py compiled, whatever its constants, is added to the shared one: nobody wrote it who could plant anything.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from research.files import TEMPORARY, replacing, research_folder
from research.hyperparameters import same_but_for_constants
from research.software import software_versions

SHARED_VARIABLE, PRIVATE_VARIABLE = "AUTORESEARCH_COMPILED", "TORCHINDUCTOR_CACHE_DIR"

LAYOUT = 2
"""Of the shared folder: another number begins a new one."""

MOST_BYTES = 2 * 2**30
"""Of the shared folder: what comes later is compiled anew by each run."""

TRITON = "triton"
"""Folder of Triton's kernels, each with a folder that is whole once it is there: so these are added and linked as they are."""

LOCK = "lock"
"""How the names of files end that say that a process is at work."""

GROUP_PREFIX = "__grp__"
"""Triton's lists of the files that make a kernel, with the whole path of each."""

OF_A_RUN = "of-a-run"
"""A file in the shared folder that says that it holds all that a whole run compiled, whatever else lies there."""

_SHIPPED = research_folder() / "train.py"


def shared_folder(cache: Path, device: str) -> Path:
    """Where compiled code for this software and this kind of device lies."""
    key = json.dumps([software_versions(), device.partition(":")[0], LAYOUT], sort_keys=True)
    return cache / "compiled" / hashlib.sha256(key.encode()).hexdigest()[:16]


def is_trusted(train_py: str) -> bool:
    """Whether this is the shipped train.py, but for the values of its constants."""
    return same_but_for_constants(train_py, _SHIPPED.read_text())


def variables(folder: Path) -> dict[str, str]:
    """The environment in which torch, Triton and flash-attn-4 keep what they compile in `folder`."""
    return {
        PRIVATE_VARIABLE: str(folder),
        "TRITON_CACHE_DIR": str(folder / TRITON),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(folder / "flash-attn-4"),
    }


def begin_with_shared() -> None:
    """In a run's process: links what the shared folder holds into its own, as its environment names them.

    Whoever has compiled something anew replaces the link, never what it leads to, which no run can write to.
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
    """Adds the plain files of `private` that `shared` lacks, each whole or not at all, and so Triton's folders."""
    lacking = list(_lacking(private, shared))
    taken = _bytes_in(shared) if lacking else 0
    for source in lacking:
        size = _bytes_in(source)
        if taken + size <= MOST_BYTES:
            taken += size
            _add(source, shared / source.relative_to(private))


def add_run_to_shared(folders: Iterable[Path], shared: Path) -> None:
    """Adds what a whole run compiled, in the folders of its processes."""
    for folder in folders:
        add_to_shared(folder, shared)
    if shared.is_dir():  # else it compiled nothing
        (shared / OF_A_RUN).touch()


def holds_a_run(shared: Path) -> bool:
    """Whether a run has been added: the next one finds most of what it needs."""
    return (shared / OF_A_RUN).exists()


def _lacking(private: Path, shared: Path) -> Iterator[Path]:
    """Plain files of `private`, and folders of Triton's kernels, that `shared` has not."""
    for where, folders, names in os.walk(private):
        found = [Path(where) / name for name in names if not name.endswith(LOCK)]
        found = [path for path in found if stat.S_ISREG(path.lstat().st_mode)]
        if Path(where) == private / TRITON:
            found += [folder for name in folders if _is_whole(folder := Path(where) / name)]
            folders.clear()
        yield from (path for path in found if not (shared / path.relative_to(private)).exists())


def _is_whole(folder: Path) -> bool:
    """Whether this is a run's own folder of a kernel of Triton's, to which nothing will be added: the list comes last, and a
    library is alone."""
    if folder.is_symlink():
        return False
    return any(path.name.startswith(GROUP_PREFIX) or path.suffix == ".so" for path in folder.iterdir())


def _add(source: Path, target: Path) -> None:
    """Copies a plain file, or the plain files of a folder."""
    if not source.is_dir():
        with replacing(target) as unfinished:
            _copy(source, unfinished)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}{TEMPORARY}")
    temporary.mkdir()
    for path in source.iterdir():
        if stat.S_ISREG(path.lstat().st_mode) and path.name != LOCK:
            _copy(path, temporary / path.name)
    for group in temporary.glob(f"{GROUP_PREFIX}*"):
        group.write_text(_moved(group.read_text(), target))
    try:
        temporary.rename(target)
    except OSError:  # another run was faster
        shutil.rmtree(temporary)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _moved(group: str, folder: Path) -> str:
    """Triton's list of files that lie in `folder` now. It takes a file for missing that isn't where its list says."""
    paths = json.loads(group)["child_paths"]
    return json.dumps({"child_paths": {name: str(folder / name) for name in paths}})


def _bytes_in(path: Path) -> int:
    """Of a file, or all files of a folder; what goes while they are counted counts for nothing."""
    files = [Path(where) / name for where, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total
