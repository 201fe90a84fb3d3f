"""Files of datasets on the Hugging Face hub: one commit for good, parallel and resumable, checksums verified.

A dataset's folder has `pins.json` (which commit a branch was resolved to) and a folder for each commit. In that,
`incoming` belongs to the hub's client; a file beside it was verified. The client goes on in the middle of a file after
a broken connection, and with the files that are missing after a killed process.
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
from research.files import write_atomically
from research.text import counted

REVISION = "main"
"""The branch whose commit of the first day is used from then on, unless a commit is asked for."""

DOWNLOADS_AT_ONCE = 8
NAMES_AT_ONCE = 500

INCOMING = "incoming"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset on the hub and where its files are kept."""

    name: str
    """`owner/name`."""
    folder: Path

    def commit(self, revision: str) -> str:
        """The commit that `revision` (a branch, tag or commit) stands for: asked of the hub once, then remembered."""
        pins = self.folder / "pins.json"
        known: dict[str, str] = json.loads(pins.read_text()) if pins.exists() else {}
        if revision not in known:
            known[revision] = str(self._ask("repo_info", revision=revision).sha)
            write_atomically(pins, json.dumps(known, indent=1) + "\n")
        return known[revision]

    def fetch(self, names: Sequence[str], *, commit: str, say: Callable[[str], None]) -> list[Path]:
        """The paths of files at a commit, in the order of `names`; the ones that aren't here yet are downloaded.

        UserErrors: no network, no space, a file that the dataset lacks, a file whose bytes are not the hub's.
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
        size = sum(file.size for file in listed.values())
        check_space(kept, size)
        say(f"{self.name}: fetching {counted(len(names), 'file')}, {size / 1e6:,.0f} MB")
        incoming = kept / INCOMING
        for partial in incoming.rglob("*.incomplete"):
            partial.unlink()  # of a killed process: the client never takes up another's
        for attempt in ("first", "last"):
            self._snapshot(names, commit=commit, into=incoming)
            if any(not (incoming / name).is_file() for name in names):  # the client takes a lost network lightly
                raise self._unreachable("the network was lost")
            names = [name for name in names if not self._accept(incoming / name, kept / name, listed[name])]
            if not names:
                return
            if attempt == "first":
                say(f"{self.name}: {', '.join(names)} arrived with a wrong checksum: fetching again")
        raise UserError(
            f"{names[0]} of {self.name} arrived corrupt twice (its checksum differs from the hub's) and was deleted:"
            " run the same command again, or look for a proxy that changes downloads."
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
        """Keep a file that is byte for byte the hub's, delete it otherwise."""
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
        """The result of a call of the hub's client, whose errors become one line.

        Everything is caught: which exceptions come through depends on the client's version and its HTTP library.
        """
        try:
            return call()
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise UserError(f"The disk of {self.folder} is full: free some space and run again.") from error
            lines = str(error).strip().splitlines() or [""]
            raise self._unreachable(f"{type(error).__name__}: {lines[0][:160]}") from error

    def _unreachable(self, why: str) -> UserError:
        return UserError(
            f"{self.name} can't be fetched ({why}). Run again when there is a network (what has arrived is kept), or"
            " use text that is here: --source files:PATH or --source stdlib."
        )


def check_space(folder: Path, needed: int) -> None:
    """A UserError unless the disk of `folder` (which need not exist yet) has `needed` bytes free."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"Too little disk space: {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free at {there}."
            " Free some, choose another disk with --cache, or take fewer --num-shards."
        )


def _is_the_hubs(path: Path, listed: Any) -> bool:
    """Large files are known by the SHA-256 of their content, small ones by git's SHA-1 of it."""
    size = path.stat().st_size
    if size != listed.size:
        return False
    with path.open("rb") as file:
        if listed.lfs is not None:
            return hashlib.file_digest(file, "sha256").hexdigest() == str(listed.lfs.sha256)
        return hashlib.sha1(b"blob %d\0" % size + file.read()).hexdigest() == str(listed.blob_id)
