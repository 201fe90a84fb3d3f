"""`farm pack` and `farm unpack`: one file moves a farm from one short-lived machine to the next."""

import hashlib
import os
import shlex
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cluster.home import Home
from cluster.ray_cluster.fetch import branch_lines, place, unpacked
from cluster.ray_cluster.home_archive import MODEL, pack
from cluster.replaced_files import check_may_replace
from research.command_hints import to_type
from research.errors import UserError
from research.files import replacing
from research.formatting import counted, size

if TYPE_CHECKING:
    from agent.repo.bundle import Taken


def write_packed(home: Home, file: Path, *, runs: bool = True, since: str | None = None) -> int:
    """Packs a home into a file and returns its bytes. A file of that name is replaced at once, so it is whole at any time.

    `runs` and `since` are those of `home_archive.pack`. A name that ends in .tar is not compressed. Raises UserError if there
    is nothing to pack, or the file can't be written.
    """
    check_may_replace(file, home, option="FILE")
    if file.is_file() and not tarfile.is_tarfile(file):
        raise UserError(f"{file} is no packed home, and would be replaced: choose another FILE, such as night.tar.xz.")
    try:
        file.parent.stat()  # a folder that isn't there is a slip, such as a disk that isn't mounted, and isn't made
        with replacing(file, private=True) as temporary, temporary.open("wb") as packed:
            pack(home, packed, compress=file.suffix != ".tar", runs=runs, since=since)
            packed.flush()
            os.fsync(packed.fileno())
    except OSError as error:
        raise UserError(f"{file} can't be written ({error.strerror}): choose another FILE.") from None
    return file.stat().st_size


def take_packed(file: Path, checkout: Path, target: Home) -> list["Taken"]:
    """Puts a packed home in place of `target` and its branches into the checkout, so that the same command resumes.

    What `target` has already must be an earlier state of the same farm: nothing recorded is ever replaced by something else.
    Uncommitted edits in its worktrees get a ref, and models stay. Raises UserError.
    """
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with _opened(file) as archive, tempfile.TemporaryDirectory(dir=target.folder.parent, prefix=".unpacked-") as folder:
        fresh = Path(folder) / "home"
        fresh.mkdir()
        again = to_type(f"farm pack {shlex.quote(file.name)}")
        bundles = unpacked(archive, fresh, cure=f"copy it anew, or pack the home again ({again})")
        if target.journal.exists():
            with target.lock():
                _require_earlier(target, Home(fresh), file)
                _leave_worktrees(target)
        old = Home(Path(folder) / "old")
        taken = place(fresh, bundles, checkout, target, aside=old.folder)
        _keep_models(old, target)
        return taken


def packed_line(home: Home, file: Path, written: int) -> str:
    """The line that says what was packed, and how it goes on elsewhere."""
    with home.journal.open("rb") as journal:
        records = counted(sum(1 for _ in journal), "record")
    then = to_type(f"farm unpack {shlex.quote(file.name)}")
    return f"{file}: {records}, {size(written)}; in a clone of the checkout on another machine: {then}, then the same farm run"


def unpacked_lines(taken: list["Taken"], target: Home) -> list[str]:
    """The lines that say what was unpacked, and how the farm goes on."""
    return [*branch_lines(taken), f"home: {target.folder}; the farm run that was packed resumes here with the same options"]


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}): give a file that {to_type('farm pack')} wrote.") from None


def _require_earlier(target: Home, fresh: Home, file: Path) -> None:
    """Raises UserError unless all that the target has recorded is in the packed journal, too."""
    length = target.journal.stat().st_size
    if length <= fresh.journal.stat().st_size and _digest(target.journal, length) == _digest(fresh.journal, length):
        return
    raise UserError(
        f"{target.folder} has records that {file} lacks, and they would be lost: give --home FOLDER for a place of its own."
    )


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of a file's first bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 2**20))):
            digest.update(block)
            length -= len(block)
    return digest.digest()


def _leave_worktrees(home: Home) -> None:
    """Removes the worktrees of a home, so that their branches can move; uncommitted edits get a ref."""
    from agent.repo.git_command import run_git
    from agent.repo.parking import park_edits
    from agent.repo.worktree import checked_out_branch

    for folder in sorted(home.worktrees.glob("*")):
        if not (folder / ".git").is_file():
            continue
        if (branch := checked_out_branch(folder)) is not None:
            park_edits(folder, folder, branch)
        common = run_git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip("\n")
        run_git(Path(common), "worktree", "remove", "--force", str(folder))


def _keep_models(old: Home, new: Home) -> None:
    """Moves the models of runs, which no archive holds, to the home that has taken the old one's place."""
    for model in old.runs.glob(f"*/{MODEL}"):
        folder = new.runs / model.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        model.rename(folder / model.name)
