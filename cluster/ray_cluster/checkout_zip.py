"""The checkout as a zip file, which Ray unpacks as the working directory of a job."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from research.errors import UserError
from research.formatting import size

LEFT_OUT = (".git", ".venv", "results/data", "results/fetched", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")
"""Names of folders, or paths in the checkout, that are never sent, whether git ignores them or not."""

LARGEST_ZIP = 90 * 10**6
"""Bytes; somewhat less than the largest request that Ray's job server accepts."""

_SAME_DATE = (2020, 1, 1, 0, 0, 0)
"""The date of all files, so that the same files give the same zip, which Ray caches."""


def zip_checkout(checkout: Path, target: Path) -> None:
    """Packs the files that git tracks or would add; in a folder without git, all files but caches and state.

    Raises UserError as soon as the zip is larger than Ray accepts.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sent_files(checkout):
            info = zipfile.ZipInfo(name, date_time=_SAME_DATE)
            info.external_attr = (checkout / name).stat().st_mode << 16
            with (checkout / name).open("rb") as source, archive.open(info, "w", force_zip64=True) as packed:
                while block := source.read(2**20):
                    packed.write(block)
                    _check_size(checkout, name, target.stat().st_size)
    _check_size(checkout, "its many files", target.stat().st_size)


def sent_files(checkout: Path) -> list[str]:
    """The paths in the checkout that are packed, sorted; no links, which may lead out of it."""
    names = _known_to_git(checkout) if (checkout / ".git").exists() else _walked(checkout)
    files = (name for name in names if not _left_out(PurePosixPath(name)))
    return sorted(name for name in files if (checkout / name).is_file() and not (checkout / name).is_symlink())


def _known_to_git(checkout: Path) -> Iterator[str]:
    from agent.repo.git_command import run_git

    listed = run_git(checkout, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    return (name for name in listed.split("\0") if name)


def _walked(checkout: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(checkout):
        here = PurePosixPath(folder).relative_to(checkout)
        folders[:] = [name for name in folders if not _left_out(here / name)]
        yield from (str(here / name) for name in files)


def _left_out(path: PurePosixPath) -> bool:
    return any(name in path.parts or path.is_relative_to(name) for name in LEFT_OUT)


def _check_size(checkout: Path, name: str, packed: int) -> None:
    if packed > LARGEST_ZIP:
        raise UserError(
            f"{checkout} is too large to send: more than {size(LARGEST_ZIP)} packed, with {name}. List what the job "
            "doesn't need in .gitignore."
        )
