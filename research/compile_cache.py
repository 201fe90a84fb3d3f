"""Compiled code that runs share. Its files are pickles and libraries, which a run executes: only what is trusted writes them.

Every run compiles into a folder of its own, which starts as a copy of the shared one and is thrown away. What a run of the
shipped train.py compiled, whatever its constants, is added to the shared one: nobody wrote it who could plant anything.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

from research.hyperparameters import same_but_for_constants
from research.provenance import software_versions

SHARED_VARIABLE, PRIVATE_VARIABLE = "AUTORESEARCH_COMPILED", "TORCHINDUCTOR_CACHE_DIR"

MOST_BYTES = 2 * 2**30
"""Of the shared folder: what comes later is compiled anew by each run."""

_UNFINISHED = ".being-added"

_SHIPPED = Path(__file__).with_name("train.py")


def shared_folder(cache: Path, device: str) -> Path:
    """Where compiled code for this software and this kind of device lies."""
    key = json.dumps([software_versions(), device.partition(":")[0]], sort_keys=True)
    return cache / "compiled" / hashlib.sha256(key.encode()).hexdigest()[:16]


def is_trusted(train_py: str) -> bool:
    """Whether this is the shipped train.py, but for the values of its constants."""
    return same_but_for_constants(train_py, _SHIPPED.read_text())


def variables(folder: Path) -> dict[str, str]:
    """The environment in which torch, Triton and flash-attn-4 keep what they compile in `folder`."""
    return {
        PRIVATE_VARIABLE: str(folder),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(folder / "flash-attn-4"),
    }


def begin_with_shared() -> None:
    """In a run's process: copies the shared folder into its own, as its environment names them."""
    shared, private = os.environ.get(SHARED_VARIABLE), os.environ.get(PRIVATE_VARIABLE)
    if shared and private and Path(shared).is_dir():
        # others may be adding to it: a file that is not whole yet will have another name, and may be gone when it is copied
        with contextlib.suppress(shutil.Error):
            shutil.copytree(shared, private, dirs_exist_ok=True, ignore=shutil.ignore_patterns(f"*{_UNFINISHED}"))


def add_to_shared(private: Path, shared: Path) -> None:
    """Adds the plain files of `private` that `shared` lacks, each whole or not at all."""
    taken = _bytes_in(shared)
    for where, _, names in os.walk(private):
        for name in names:
            source = Path(where) / name
            target = shared / source.relative_to(private)
            status = source.lstat()
            if not stat.S_ISREG(status.st_mode) or target.exists() or taken + status.st_size > MOST_BYTES:
                continue
            taken += status.st_size
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}.{os.getpid()}{_UNFINISHED}")
            shutil.copyfile(source, temporary)
            temporary.chmod(0o644)
            temporary.replace(target)


def _bytes_in(folder: Path) -> int:
    """Of all files; what goes while they are counted counts for nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(where) / name).lstat().st_size
    return total
