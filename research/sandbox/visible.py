"""What a run may see of the machine: the paths that Python, torch and a compiler need, and none of the farm's state."""

import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from research.files import home_folder, research_folder
from research.sandbox.system_paths import (
    LIBRARIES,
    SHARED_PREFIXES,
    compiler_paths,
    cuda_paths,
    python_paths,
    system_paths,
    unused_python_paths,
)

PLAIN_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset", "/dev/nvidia-caps")

LIBRARY_VARIABLES = ("LD_LIBRARY_PATH", "VIRTUAL_ENV")
CUDA_VARIABLES = ("CUDA_HOME", "CUDA_PATH")
"""Environment variables that name folders of libraries, and of CUDA toolkits."""

UNUSED_BY_RUNS = ("idlelib", "tkinter", "turtledemo", "lib2to3", "pydoc_data", "curses", "xmlrpc", "wsgiref")
"""Packages of Python's standard library, other than its tests, that no train.py needs: a sandbox may hide them."""

UNUSED_PACKAGES = ("duckdb", "git", "huggingface_hub", "pyarrow", "ray")
"""Packages that the farm depends on, and that no run imports, nor what a run imports: a sandbox may hide them."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The paths of this machine that a run sees."""

    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    """Paths below readable ones that the run must not see."""
    devices: tuple[Path, ...]

    @property
    def has_gpu(self) -> bool:
        """Whether an NVIDIA GPU is among the devices."""
        return Path("/dev/nvidiactl") in self.devices


def readable_paths() -> list[Path]:
    """The paths of the machine's that a run reads: Python, its packages, and parts of the system (`system_paths.py`)."""
    here, named_by_user = Path.cwd().resolve(), [path.resolve() for path in _named_by(["PYTHONPATH"])]
    packages = [Path(entry) for entry in sys.path if Path(entry).is_absolute()]
    # `python -m` adds the folder that it was started in, whatever lies there
    packages = [path for path in packages if path.resolve() != here or here in named_by_user]
    kept_back = [path.resolve() for path in (home_folder(), research_folder().parent, Path(tempfile.gettempdir()))]
    named = [*python_paths(), *packages, *_named_by(LIBRARY_VARIABLES), *cuda_paths(_named_by(CUDA_VARIABLES))]
    named += compiler_paths(os.environ.get("PATH", os.defpath).split(os.pathsep))
    wanted = [path for path in named if path.exists() and not is_whole_system(path)]
    wanted = [path for path in wanted if not any(other.is_relative_to(path.resolve()) for other in kept_back)]
    return [*system_paths().readable, *wanted]


def view_of_run(
    *, private: Iterable[Path], gpu_minor: int | None, also_readable: Iterable[Path] = (), unread: Iterable[Path] = ()
) -> View:
    """What a run sees: Python and its packages, the `research` package, the system's programs, and none of the `private` paths.

    Of a private folder a run still sees what it needs itself; of an `unread` one nothing. `gpu_minor` is the number in the name
    of its GPU's device file; None: no GPU.
    """
    unread = {path.parent.resolve() / path.name for path in unread if path.exists()}  # one folder can be found by several ways
    readable = [path for path in readable_paths() if not any(is_within(path, other) for other in unread)]
    readable += [research_folder(), *(path for path in also_readable if path.exists())]
    hidden = _below(readable, [*private, *system_paths().hidden, *unused_python_paths()])
    hidden += [path for path in unread if any(is_within(path, other) for other in readable)]
    devices = [*PLAIN_DEVICES, *(GPU_DEVICES if gpu_minor is not None else ())]
    if gpu_minor is not None:
        devices.append(f"/dev/nvidia{gpu_minor}")
    return View(
        readable=outermost(readable),
        hidden=outermost(hidden),
        devices=tuple(Path(path) for path in devices if Path(path).exists()),
    )


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def package_folders() -> list[Path]:
    """The folders of UNUSED_PACKAGES in this environment; nothing is imported for it."""
    origins = [spec.origin for name in UNUSED_PACKAGES if (spec := importlib.util.find_spec(name)) is not None]
    files = [Path(origin) for origin in origins if origin is not None]
    return [file.parent for file in files if file.name == "__init__.py" and file.is_file()]


def _named_by(variables: Iterable[str]) -> list[Path]:
    """The folders that these environment variables name, which may hold several each."""
    return [Path(entry) for name in variables for entry in os.environ.get(name, "").split(os.pathsep) if entry]


def is_whole_system(path: Path) -> bool:
    """Whether `path` is a folder of which a run may see parts only, as `system_paths` names them."""
    return path.resolve() in SHARED_PREFIXES or str(path) in LIBRARIES


def _below(readable: Iterable[Path], paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that exist, lie below a readable one, and contain none, with links resolved."""
    shown = {path.resolve() for path in readable}
    around = {parent for path in shown for parent in path.parents}
    found = {path.resolve() for path in paths if path.exists()}
    return [path for path in found if path not in shown | around and shown.intersection(path.parents)]


def is_needed(path: Path) -> bool:
    """Whether a run needs `path` or something in it, so that it can't be hidden: Python's code, its packages and `research`.

    Python's own tests, UNUSED_BY_RUNS and UNUSED_PACKAGES are not needed.
    """
    library = standard_library()
    if any(is_within(path, unused) for unused in (*(library / name for name in ("test", *UNUSED_BY_RUNS)), *package_folders())):
        return False
    own = (research_folder(), *python_paths())
    return any(is_within(needed, path) or is_within(path, needed) for needed in own)


def outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths, without those that are below others, by name."""
    chosen: dict[Path, None] = {}
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        if chosen.keys().isdisjoint(path.parents):
            chosen[path] = None
    return tuple(chosen)


def is_within(path: Path, other: Path) -> bool:
    """Whether `path` is `other` or lies below it, once links are resolved."""
    return path.resolve().is_relative_to(other.resolve())


def split_around(path: Path, hidden: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """How to grant `path` without `hidden`: the paths to grant, and the folders that may be listed only."""
    return _split_around(path, [other.resolve() for other in hidden])


def _split_around(path: Path, hidden: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """`split_around` for hidden paths without links, which are not looked up again for each of many files."""
    real = path.resolve()
    if any(real.is_relative_to(other) for other in hidden):
        return [], []
    if not any(other.is_relative_to(real) for other in hidden):
        return [path], []
    granted, listed = [], [path]
    for child in sorted(path.iterdir()):
        if child.is_symlink() and not child.exists():
            continue
        parts, folders = _split_around(child, hidden)
        granted += parts
        listed += folders
    return granted, listed


def links_on_the_way(path: Path) -> tuple[list[tuple[Path, str]], Path]:
    """The symbolic links that `path` goes through, as (link, target) in order, and the real path that it leads to."""
    links: list[tuple[Path, str]] = []
    here, ahead = Path("/"), list(path.parts[1:])
    while ahead:
        step = ahead.pop(0)
        if step == "..":
            here = here.parent
            continue
        here = here / step
        if here.is_symlink():
            target = str(here.readlink())
            if len(links) >= 40:
                raise OSError(40, f"{path}: too many symbolic links")
            links.append((here, target))
            ahead = [part for part in Path(target).parts if part != "/"] + ahead
            here = Path("/") if Path(target).is_absolute() else here.parent
    return links, here
