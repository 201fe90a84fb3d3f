"""The system's paths that Python, torch and a compiler need: programs, shared libraries, headers and CUDA.

The rest of /usr stays out of a run's sight, such as /usr/share, /usr/src and the libraries of other Pythons: any text there may
be close to one that runs are scored on.
"""

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

SHARED_PREFIXES = (Path("/"), Path("/usr"), Path("/usr/local"))
"""Folders that a Python may be installed in together with everything else."""

WHOLE = (
    "/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/include", "/usr/local/include", "/usr/libexec/gcc",
    "/usr/local/nvidia", "/run/opengl-driver", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/nsswitch.conf",
    "/etc/passwd", "/etc/group", "/etc/OpenCL", "/etc/nvidia",
    "/sys/devices", "/sys/class", "/sys/bus", "/sys/module",
)  # fmt: skip
"""Programs, headers, the GPU's driver and descriptions of the hardware."""

LIBRARIES = tuple(f"{prefix}/{name}" for prefix in ("", "/usr", "/usr/local") for name in ("lib", "lib32", "lib64", "libx32"))
"""Folders of shared libraries, which hold much else."""

LIBRARY_FOLDERS = ("*-linux-*", "gcc", "gcc-*", "llvm*", "clang*", "cuda*", "nvidia*", "nvvm", "wsl", "locale", "gconv",
                   "ldscripts", "bfd-plugins", "compat-ld", "gold-ld", "*blas*", "*lapack*", "atlas", "nccl*")  # fmt: skip
"""Names of the folders in LIBRARIES that a run sees."""

LIBRARY_FILES = ("*.so", "*.so.*", "*.a", "*.o")

OTHER_LANGUAGES = ("python*", "pypy*", "perl*", "ruby*", "tcl*", "tk*", "guile*", "node*", "lua*", "R", "jvm", "jni", "ghc*")
"""Names of folders beside the libraries of one architecture that a run doesn't see."""

CUDA = ("/usr/local/cuda*", "/opt/cuda*")
CUDA_PARTS = ("bin", "include", "lib", "lib64", "nvvm", "targets", "compat", "extras/CUPTI", "version.json")

COMPILERS = ("cc", "gcc", "g++", "clang", "clang++", "ld")
COMPILER_PARTS = ("bin", "include", "lib", "lib64", "libexec")

_FEW_FILES = 50
"""Files in a folder of LIBRARIES up to which they are named one by one."""


@dataclass(frozen=True, kw_only=True)
class SystemPaths:
    """Paths that a run sees, and those below them that it doesn't."""

    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]


@lru_cache(maxsize=4)
def system_paths(*, root: Path = Path("/")) -> SystemPaths:
    """The paths that exist below `root`, as they were when this process first asked."""
    readable = [root / name.lstrip("/") for name in WHOLE]
    hidden: list[Path] = []
    for name in LIBRARIES:
        shown, covered = _library_folder(root / name.lstrip("/"))
        readable += shown
        hidden += covered
    for pattern in CUDA:
        readable += cuda_paths(root.glob(pattern.lstrip("/")))
    return SystemPaths(readable=tuple(path for path in readable if path.exists()), hidden=tuple(hidden))


def cuda_paths(folders: Iterable[Path]) -> list[Path]:
    """The parts of CUDA toolkits that compile and run programs, less their documentation and other tools."""
    return [folder / part for folder in folders if folder not in SHARED_PREFIXES for part in CUDA_PARTS]


def compiler_paths(folders: Iterable[str]) -> list[Path]:
    """The parts of compilers that are found in these folders of programs and lie outside the system's, such as in /opt/gcc."""
    found = [shutil.which(name, path=os.pathsep.join(folders)) for name in COMPILERS]
    prefixes = {Path(path).parent.parent for path in found if path is not None}
    return [prefix / part for prefix in sorted(prefixes) if prefix not in SHARED_PREFIXES for part in COMPILER_PARTS]


def python_paths() -> list[Path]:
    """Where the running Python and its standard library are: its whole prefix, unless other software is installed there."""
    library = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "include", "platinclude")]
    prefixes = [Path(prefix) for prefix in (sys.prefix, sys.base_prefix)]
    return [*(prefix for prefix in prefixes if prefix not in SHARED_PREFIXES), *library]


def unused_python_paths() -> list[Path]:
    """What the running Python's prefix holds of other environments: packages that it doesn't import, and conda's other ones."""
    base, packages = Path(sys.base_prefix), {Path(entry) for entry in sys.path}
    if base in SHARED_PREFIXES:
        return []
    others = [*base.glob("lib/python*/site-packages"), base / "envs", base / "pkgs"]
    return [path for path in others if path.is_dir() and path not in packages]


def _library_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """What a run sees of a folder in LIBRARIES, and what in it is to be hidden."""
    if not folder.is_dir():
        return [], []
    inside = sorted(folder.iterdir())
    folders = [path for path in inside if path.is_dir()]
    files = [path for path in inside if not path.is_dir()]
    shown = [path for path in folders if _is_one_of(path, LIBRARY_FOLDERS)]
    of_architectures = [path for path in shown if _is_one_of(path, LIBRARY_FOLDERS[:1])]
    hidden = [path for parent in of_architectures for path in parent.iterdir() if _is_language(path)]
    if len(files) > _FEW_FILES:
        return [folder], [*hidden, *(path for path in folders if path not in shown)]
    return [*shown, *(path for path in files if _is_one_of(path, LIBRARY_FILES))], hidden


def _is_language(path: Path) -> bool:
    return _is_one_of(path, OTHER_LANGUAGES) and path.is_dir()


def _is_one_of(path: Path, patterns: tuple[str, ...]) -> bool:
    return _one_of(patterns).match(path.name) is not None


@lru_cache
def _one_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """All shell patterns in one expression: each run compares the thousands of names in the system's libraries with them."""
    return re.compile("|".join(translate(pattern) for pattern in patterns))
