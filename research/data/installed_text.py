"""Text that is installed on every machine: where it lies, and which files of it are used. Nothing of it is imported."""

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from research.data.decoding import Readable
from research.data.documents import list_files, path_key, plain_documents
from research.errors import UserError
from research.sandbox.visible import UNUSED_BY_RUNS, UNUSED_PACKAGES, package_folders, readable_paths, standard_library

DISTRIBUTIONS = {"git": "GitPython"}
"""Names under which packages are installed, where they differ from the folder's."""

SKIPPED_FOLDERS = frozenset(
    {"thirdparty", "thirdparty_files", "vendored", "_vendor", "cloudpickle", "generated", "_generated", "rllib"}
)
"""Folders of UNUSED_PACKAGES with copies of other packages, which a run may be able to read elsewhere; generated code; and
`ray.rllib`, much of which repeats itself."""

TRAINING_BYTES = 13_000_000
"""Bytes of packages to train on: fifteen times what a run of the `cpu` profile reads, and prepared within seconds."""

HELD_OUT_OF = 8
"""One of this many files of the packages is for validation, and one for audit."""

EXCERPT_CHARACTERS = 4096
"""Characters used of each evaluation file, so that the few rows of the `cpu` profile show many files."""

PYTHONS = ("lib*/python3*", "local/lib*/python3*", "*/lib/python3*", "envs/*/lib/python3*", "pkgs/*/lib/python3*")
"""Where a folder may hold libraries of Python: as an installation, as a store of packages, and as Conda's base folder."""

PACKAGE_FOLDERS = (*(f"{python}/{kind}-packages" for python in PYTHONS for kind in ("site", "dist")), "pkgs/*/site-packages")
"""Where a folder may hold packages, if it doesn't itself."""


def installed_text(source: str) -> tuple[Path, ...]:
    """The folders of this machine from which a run could read the text of `source`; none for a source that isn't installed.

    They are found anew for each run: its data may have been prepared in another environment, or on another machine.
    """
    if source == "packages":
        return (*package_folders(), *_found(UNUSED_PACKAGES, PACKAGE_FOLDERS))
    if source == "stdlib":
        held_out = ("test", *UNUSED_BY_RUNS)
        return (*(standard_library() / name for name in held_out), *_found(held_out, PYTHONS))
    return ()


def _found(names: Sequence[str], places: Iterable[str]) -> list[Path]:
    """The folders called `names` in such places of the paths that a run can read."""
    roots = [path for path in readable_paths() if path.is_dir()]
    folders = {*roots, *(folder for root in roots for place in places for folder in root.glob(place))}
    return [folder / name for folder in sorted(folders) for name in names if (folder / name).is_dir()]


def require_packages() -> list[Path]:
    """The folders of UNUSED_PACKAGES. Raises UserError if one isn't installed, or not as a folder of Python files."""
    folders = package_folders()
    missing = sorted(set(UNUSED_PACKAGES) - {folder.name for folder in folders if _python_files(folder)})
    if missing:
        raise UserError(
            f"The source `packages` is the Python files of {', '.join(UNUSED_PACKAGES)}, and there are none of"
            f" {', '.join(missing)}: run `uv sync` in the project's folder, or choose --source files:PATH."
        )
    return folders


def packages_revision() -> str:
    """The versions of the packages: those of another version are another text."""
    return ", ".join(f"{name} {_version(DISTRIBUTIONS.get(name, name))}" for name in UNUSED_PACKAGES)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version"


class PackageFiles:
    """The Python files of the packages, dealt to the three splits by their paths."""

    def __init__(self, folders: Iterable[Path]) -> None:
        keyed = [(path_key(path, folder.parent), path) for folder in folders for path in _python_files(folder)]
        dealt = [(int.from_bytes(key[-8:], "big") % HELD_OUT_OF, path) for key, path in sorted(keyed)]
        self.val = [path for part, path in dealt if part == 0]
        self.audit = [path for part, path in dealt if part == 1]
        self.train = _first_bytes((path for part, path in dealt if part > 1), TRAINING_BYTES)


def excerpt(path: Path) -> str:
    """EXCERPT_CHARACTERS of the middle of a file, from the beginning of a line; all of a shorter file."""
    with Readable(path):
        text = "".join(plain_documents(path))
    start = text.rfind("\n", 0, max(0, len(text) - EXCERPT_CHARACTERS) // 2) + 1
    return text[start : start + EXCERPT_CHARACTERS]


def _python_files(folder: Path) -> list[Path]:
    return list_files(folder, suffix=".py", skip_folders=SKIPPED_FOLDERS)


def _first_bytes(paths: Iterable[Path], most: int) -> list[Path]:
    """The first files that have `most` bytes together."""
    chosen: list[Path] = []
    for path in paths:
        if most <= 0:
            break
        chosen.append(path)
        most -= path.stat().st_size
    return chosen
