"""A farm's home as one archive: records, pictures, logs and branches, but no models and no secrets.

`python -m cluster.ray_cluster.home_archive --home FOLDER` prints it between marked lines, so that a Ray job's log can carry it.
"""

import argparse
import base64
import binascii
import hashlib
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, TextIO

from cluster.home import Home, find_home
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import size

BUNDLE = "branches-{number}.bundle"
"""The bundles of the home's repositories, numbered from 1."""

MODEL = "model.safetensors"

LARGEST_PRINTED = 256 * 2**20
"""Bytes. A job's log is held in memory as a whole, by the reader and by the cluster's head node."""

BEGIN, END = "-----BEGIN AUTORESEARCH HOME {bytes} {sha256}-----", "-----END AUTORESEARCH HOME-----"
_PRINTED = re.compile(r"^-----BEGIN AUTORESEARCH HOME (\d+) ([0-9a-f]{64})-----$(.*?)^" + END + "$", re.M | re.S)

LINE_BYTES = 3 * 2**10
"""Bytes of the archive per printed line."""


def pack(home: Home, target: IO[bytes], *, compress: bool, runs: bool = True, since: str | None = None) -> None:
    """Writes a home as a tar archive, even while a farm is running on it. Raises UserError if there is nothing to pack.

    The journal comes before the branches, so that they hold every commit that the journal names. Without `runs`, what each run
    left beside its record stays out, and so do logs; the commits that `since` has stay out as well.
    """
    from agent.repo.bundle import write_bundle

    if not home.journal.is_file():
        raise UserError(f"Nothing is recorded in {home.folder}: is it the farm's home (--home)?")
    with tarfile.open(fileobj=target, mode="w|xz" if compress else "w|") as archive:
        _add(archive, home.folder, home.journal, whole_lines=True)
        with tempfile.TemporaryDirectory() as folder:
            for number, repository in enumerate(repositories_of(home), start=1):
                bundle = Path(folder) / BUNDLE.format(number=number)
                if write_bundle(repository, bundle, since=since):
                    _add(archive, Path(folder), bundle)
        for path in _carried(home, runs=runs):
            _add(archive, home.folder, path)


def repositories_of(home: Home) -> list[Path]:
    """The git repositories that hold a home's branches: the recorded ones, and those of its worktrees."""
    from agent.repo.git_command import GitFailed, run_git

    folders = [*home.repositories(), home.folder / "repository", *sorted(home.worktrees.glob("*"))]
    found: dict[str, Path] = {}
    for folder in folders:
        if not (folder / ".git").exists():  # git would search the parent folders
            continue
        try:
            common = run_git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip("\n")
        except GitFailed:
            continue
        found.setdefault(os.path.realpath(common), folder)
    return list(found.values())


def unpack(source: BinaryIO, folder: Path, *, cure: str = "fetch again") -> list[Path]:
    """Unpacks an archive into an empty folder; returns the bundles in it. Raises UserError for what `pack` never
    writes, such as links, devices, and paths that lead elsewhere, and for a damaged one, of which `cure` is what to do.
    """
    bundles = []
    try:
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isreg() or path.is_absolute() or ".." in path.parts or not path.parts:
                    raise UserError(f"The archive holds {member.name!r}, which no farm packs: it was not unpacked.")
                archive.extract(member, folder, filter="data")
                if path.match(BUNDLE.format(number="*")) and len(path.parts) == 1:
                    bundles.append(folder / path)
    except tarfile.TarError as error:
        raise UserError(f"The archive can't be unpacked ({error}): {cure}.") from None
    return bundles


def print_archive(home: Home, out: TextIO) -> None:
    """Prints a home between marked lines. Raises UserError if it is too large for a log."""
    with tempfile.TemporaryFile() as file:
        pack(home, file, compress=True)
        length = file.tell()
        if length > LARGEST_PRINTED:
            raise UserError(
                f"{home.folder} is {size(length)} even when packed, too much for a job's log: copy the folder (rsync -a) and "
                f"give the copy to {to_type('farm fetch --home')}."
            )
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        out.write("\n" + BEGIN.format(bytes=length, sha256=digest) + "\n")
        while block := file.read(LINE_BYTES):
            out.write(base64.b64encode(block).decode() + "\n")
        out.write(END + "\n")
        out.flush()


def printed_archive(text: str) -> bytes:
    """The archive in a job's output. Raises UserError if there is none, or only a part of it."""
    found = _PRINTED.search(text)
    if found is None and "BEGIN AUTORESEARCH HOME" in text:
        raise UserError("Only a part of the home has arrived (its end is missing): fetch again.")
    if found is None:
        raise UserError(_last_words(text))
    try:
        content = base64.b64decode(found[3].replace("\n", ""), validate=True)
    except binascii.Error:
        content = b""
    if len(content) != int(found[1]) or hashlib.sha256(content).hexdigest() != found[2]:
        raise UserError("The home was damaged in transit (its SHA-256 differs): fetch again.")
    return content


def _last_words(text: str) -> str:
    """Why a job printed no archive: the farm's error message, else the last line of the output."""
    lines = [line.strip()[:300] for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("farm: "):
            return line.replace("farm:", "On the cluster:", 1)
    return f"The job ended without printing the home: {lines[-1] if lines else 'it printed nothing'}"


def _carried(home: Home, *, runs: bool) -> Iterator[Path]:
    """The other files that are packed: no models (large), no DuckDB (rebuilt from the journal), nothing that grants access."""
    yield home.parquet
    for folder in sorted(home.worktrees.glob("*")):
        yield from (folder / "results.tsv", folder / "progress.png")
    if runs:
        yield from _files(home.logs.rglob("*"))
        yield from (path for path in _files(home.runs.glob("*/*")) if path.name != MODEL)


def _files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def _add(archive: tarfile.TarFile, base: Path, path: Path, *, whole_lines: bool = False) -> None:
    """Adds a file as it is now, though others may write or replace it. A missing file is left out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    with os.fdopen(descriptor, "rb") as file:
        info = tarfile.TarInfo(str(PurePosixPath(path.relative_to(base))))
        status = os.fstat(descriptor)
        info.size, info.mtime = _end_of_last_line(file, status.st_size) if whole_lines else status.st_size, status.st_mtime
        archive.addfile(info, file)


def _end_of_last_line(file: BinaryIO, end: int) -> int:
    """The number of bytes up to the last newline before `end`; what follows is being written."""
    position = end
    while position > 0:
        start = max(0, position - 65_536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    file.seek(0)
    return position


def main() -> int:
    """Prints the archive of a home. The exit status is 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(description="Prints a farm's home, packed, between marked lines.")
    parser.add_argument("--home", metavar="FOLDER", help="the farm's home")
    try:
        print_archive(find_home(parser.parse_args().home), sys.stdout)
    except UserError as error:
        print(f"farm: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
