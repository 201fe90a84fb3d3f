"""Files of datasets on the Hugging Face hub: pinned to a commit, downloaded in parallel, resumable, checksums verified.

A dataset's folder has `pins.json` (the commit that each branch was resolved to) and a folder for each commit. In the latter,
`incoming` belongs to the hub's client; the files next to it are verified. After a broken connection the client resumes in the
middle of a file; after a killed process, with the files that are missing.
"""

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.files import sha256_of, write_atomically
from research.formatting import counted, size

REVISION = "main"
"""The default branch. It is resolved to a commit once, which is used from then on."""

DOWNLOADS_AT_ONCE = 8
NAMES_AT_ONCE = 500
"""File names per request to the hub."""

INCOMING = "incoming"
"""Name of the folder that the hub's client downloads into."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset on the hub, and the folder that keeps its files."""

    name: str
    """`owner/name`."""
    folder: Path

    def commit(self, revision: str) -> str:
        """The commit of `revision` (a branch, tag or commit): the hub is asked once, and the answer is kept."""
        pins = self.folder / "pins.json"
        known: dict[str, str] = json.loads(pins.read_text()) if pins.exists() else {}
        if revision not in known:
            known[revision] = str(self._ask("repo_info", revision=revision).sha)
            write_atomically(pins, json.dumps(known, indent=1) + "\n")
        return known[revision]

    def fetch(self, names: Sequence[str], *, commit: str, say: Callable[[str], None]) -> list[Path]:
        """Paths of the files at a commit, in the order of `names`; missing ones are downloaded.

        Raises UserError without a network, without disk space, for a file that the dataset lacks, and for a wrong checksum.
        """
        kept = self.folder / commit
        missing = [name for name in names if not (kept / name).exists()]
        if missing:
            self._download(missing, commit=commit, kept=kept, say=say)
        return [kept / name for name in names]

    def _download(self, names: list[str], *, commit: str, kept: Path, say: Callable[[str], None]) -> None:
        listed = {
            file.path: file
            for start in range(0, len(names), NAMES_AT_ONCE)
            for file in self._ask("get_paths_info", paths=names[start : start + NAMES_AT_ONCE], revision=commit)
        }
        absent = [name for name in names if name not in listed]
        if absent:
            raise UserError(f"{self.name} has no file {absent[0]} at revision {commit}.")
        total = sum(file.size for file in listed.values())
        check_space(kept, total)
        say(f"{self.name}: fetching {counted(len(names), 'file')}, {size(total)}")
        incoming = kept / INCOMING
        for partial in incoming.rglob("*.incomplete"):
            partial.unlink()  # left by a killed process: the client never resumes another process's file
        for attempt in ("first", "last"):
            self._snapshot(names, commit=commit, into=incoming)
            if any(not (incoming / name).is_file() for name in names):  # the client does not always raise for a lost network
                raise self._unreachable("the network was lost")
            names = [name for name in names if not self._accept(incoming / name, kept / name, listed[name])]
            if not names:
                return
            if attempt == "first":
                say(f"{self.name}: {', '.join(names)} arrived with a wrong checksum: fetching it again")
        raise UserError(
            f"{names[0]} of {self.name} arrived corrupt twice (its checksum differs from the hub's) and was deleted:"
            " run the same command again, or check whether a proxy changes downloads."
        )

    def _snapshot(self, names: list[str], *, commit: str, into: Path) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if not sys.stderr.isatty():
            disable_progress_bars()
        self._guard(
            lambda: snapshot_download(
                self.name,
                repo_type="dataset",
                revision=commit,
                local_dir=into,
                allow_patterns=names,
                max_workers=DOWNLOADS_AT_ONCE,
            )
        )

    @staticmethod
    def _accept(arrived: Path, kept: Path, listed: Any) -> bool:
        """Keeps a file that is byte for byte the hub's, and deletes any other. Returns whether it was kept."""
        if _is_the_hubs(arrived, listed):
            kept.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(kept)
            return True
        arrived.unlink()
        return False

    def _ask(self, method: str, **arguments: Any) -> Any:
        from huggingface_hub import HfApi

        return self._guard(lambda: getattr(HfApi(), method)(self.name, repo_type="dataset", **arguments))

    def _guard(self, call: Callable[[], Any]) -> Any:
        """The result of calling the hub's client. Raises UserError, one line, for any exception.

        Which exceptions the client raises depends on its version and its HTTP library.
        """
        try:
            return call()
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise UserError(
                    f"The disk of {self.folder} is full: free some space and run the same command again."
                ) from error
            lines = str(error).strip().splitlines() or [""]
            raise self._unreachable(f"{type(error).__name__}: {lines[0][:160]}") from error

    def _unreachable(self, why: str) -> UserError:
        return UserError(
            f"{self.name} can't be fetched ({why}). Run the same command again when there is a network (what has arrived is"
            " kept), or use local text: --source files:PATH or --source packages."
        )


def check_space(folder: Path, needed: int) -> None:
    """Raises UserError unless the disk of `folder` (which need not exist yet) has `needed` bytes free."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"Too little disk space: {size(needed)} needed, {size(free)} free at {there}."
            " Free some, choose another disk with --cache, or take fewer --num-shards."
        )


def _is_the_hubs(path: Path, listed: Any) -> bool:
    """Whether a file has the hub's checksum: the SHA-256 of a large file's content, git's SHA-1 of a small one's."""
    length = path.stat().st_size
    if length != listed.size:
        return False
    if listed.lfs is not None:
        return sha256_of(path) == str(listed.lfs.sha256)
    return hashlib.sha1(b"blob %d\0" % length + path.read_bytes()).hexdigest() == str(listed.blob_id)
