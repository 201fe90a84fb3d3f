"""Sources of documents. A source gives the documents of each split lazily and always in the same order.

climbmix      shards of a shuffled web corpus; validation and audit are two pinned shards
tinystories   short stories in plain words; validation and audit are the first 40,000
packages      Python files of packages that the farm depends on and no run needs: a sandbox hides all of them
stdlib        the running Python's own library; validation and audit come from its tests. A run needs the library, so that it
              can read the training text before its clock starts
files:PATH    the user's own folder or file; documents are assigned to splits by a hash of their text
"""

import math
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from research.contract import Contract
from research.data.decoding import Readable
from research.data.documents import list_files, plain_documents, text_key
from research.data.file_changes import Snapshot
from research.data.file_formats import Survey, documents_of, no_text, survey
from research.data.file_tree import has_files, tree_below
from research.data.hub import REVISION, Dataset
from research.data.installed_text import PackageFiles, excerpt, packages_revision, require_packages
from research.data.json_documents import TEXT_FIELD
from research.data.parquet import parquet_rows, parquet_texts
from research.data.prepared import SPLITS, Split
from research.errors import UserError
from research.files import home_folder, user_path
from research.formatting import counted, printable, shortened
from research.sandbox.visible import UNUSED_BY_RUNS, standard_library

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
CLIMBMIX_AUDIT, CLIMBMIX_VALIDATION = 6541, 6542
"""The last two of its 6,543 shards, which are never trained on."""

TINYSTORIES = "karpathy/tinystories-gpt4-clean"
TINYSTORIES_FILE = "tinystories_gpt4_clean.parquet"
TINYSTORIES_HELD_OUT = 20_000
"""Number of stories for validation, and for audit: 16 MB of text each. The file is shuffled."""
TINYSTORIES_PARTS = 10
"""Number of shards that the training stories are divided into, 220 MB of text each."""

BYTES_PER_TOKEN = 5
"""Upper estimate of bytes per token under a vocabulary of 8192, so that splits of the user's own text get enough."""

MOST_VALIDATION, MOST_AUDIT, LEAST_HELD_OUT = 0.25, 0.1, 0.01
"""Shares of the user's own text that are held out."""

SPREAD = 2.0
"""Standard deviations of a split's size that are allowed for: a few long documents can make it much smaller than its share."""

MOST_HIDDEN_FILES = 256
"""Files behind links that are hidden from runs one by one; of more, their folders are."""

KERNELS_FOLDERS = tuple(map(Path, ("/proc", "/sys", "/dev")))
"""Folders without files on a disk: what they show changes while it is read, or never ends."""

EXCERPT_CHARACTERS = 4096
"""Characters used of each test file of `stdlib`, so that the few rows of the `cpu` profile show many files."""

LEAST_TEST_PACKAGE = 2_000_000
"""Minimum size of the `test` package in bytes: some installations of Python have only a stub of it, or lack it."""

LEAST_UNUSED = 1_000_000
"""Minimum size in bytes of its substitute: packages of the standard library that no run needs."""
LONG_EXCERPT_CHARACTERS = 16_384


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents for the three splits."""

    name: str
    """Its name for people."""
    revision: str
    """The dataset's commit; for a source without commits, another identifier."""
    text_bytes: int
    """Approximate bytes of text in the training split."""
    documents: Callable[[Split], Iterator[str]]
    """Documents of a split."""
    tokenizer_documents: Callable[[], Iterator[str]]
    """Training documents for the tokenizer, the same for any number of shards."""
    repeats: bool
    """Whether a document may occur twice, so that repeats must be dropped."""
    disjoint: bool
    """Whether no document can be in two splits, so that this need not be checked."""
    hidden_paths: tuple[Path, ...]
    """Where this machine has the text of validation and audit, or all text: no run may read it."""
    survey: Survey | None = None
    """What was found in files of the user's own; None for other sources."""
    snapshot: Snapshot | None = None
    """Their state when they were opened."""

    def distinct_bytes(self) -> int:
        """Bytes of the user's own text without repeats, for which all of it is read again; 0 for other sources."""
        sizes: dict[int, int] = {}
        for text in chain.from_iterable(self.documents(split) for split in SPLITS if self.survey is not None):
            sizes.setdefault(text_key(text), len(text.encode("utf-8", "replace")))
        return sum(sizes.values())


def source_name(source: str) -> str:
    """A contract's `source`; the path of `files:PATH` is made absolute."""
    kind, _, path = source.partition(":")
    return f"files:{user_path(path, instead='an absolute path').resolve()}" if kind == "files" and path else source


def has_shards(source: str) -> bool:
    """Whether a source has shards, so that `num_shards` applies to it."""
    return source in ("climbmix", "tinystories")


def check_source(source: str, num_shards: int | None = None, *, reads_files: bool = True) -> None:
    """Raises UserError for a source that there isn't, for a number of shards where it has none, and, if its files are to be
    read here, for a file or folder that isn't there, or a folder without files.
    """
    kind, _, path = source_name(source).partition(":")
    if source == "files" or (kind == "files" and not path):
        raise UserError("--source files: needs a folder or a file after the colon: give --source files:PATH.")
    if kind not in ("climbmix", "tinystories", "packages", "stdlib", "files"):
        named = printable(shortened(source, 80))
        raise UserError(f"No source is called '{named}': use climbmix, tinystories, packages, stdlib or files:PATH.")
    if num_shards is not None and not has_shards(source):
        raise UserError(f"--num-shards is for climbmix and tinystories, and {printable(kind)} has no shards: leave it out.")
    if reads_files and kind == "files":
        _check_exists(Path(path))


def _check_exists(root: Path) -> None:
    if not root.exists():
        raise UserError(f"{printable(root)} does not exist: give a folder or a file, --source files:PATH.")
    kernels = next((place for place in KERNELS_FOLDERS if root.resolve().is_relative_to(place)), None)
    if kernels is not None:
        held = "holds devices and what the kernel says of this machine, and no text of yours"
        raise UserError(f"{printable(kernels)} {held}: give a folder or a file of text, --source files:PATH.")
    if root.is_dir() and not has_files(root):
        raise no_text(root)


def is_own_files(source: str) -> bool:
    """Whether a source is the user's own folder or file, which can change."""
    return source.startswith("files:")


def own_root(source: str) -> Path:
    """The folder or file of `files:PATH`."""
    return Path(source_name(source).partition(":")[2])


def open_source(
    contract: Contract,
    *,
    cache: Path,
    num_shards: int,
    revision: str | None,
    text_field: str = TEXT_FIELD,
    say: Callable[[str], None],
) -> Source:
    """The contract's source, with its files downloaded. Raises UserError if the source is wrong or can't be reached."""
    check_source(contract.source)
    kind, _, path = source_name(contract.source).partition(":")
    if kind == "climbmix":
        dataset = Dataset(name=CLIMBMIX, folder=cache / "hub" / "climbmix")
        return climbmix(dataset, num_shards=num_shards, revision=revision, downloaded=original_downloads(), say=say)
    if kind == "tinystories":
        dataset = Dataset(name=TINYSTORIES, folder=cache / "hub" / "tinystories")
        return tinystories(dataset, num_shards=num_shards, revision=revision, say=say)
    if kind == "packages":
        return packages(require_packages())
    evaluation_bytes = contract.EVAL_TOKENS * BYTES_PER_TOKEN
    if kind == "stdlib":
        return stdlib(standard_library(), evaluation_bytes=evaluation_bytes)
    return own_files(Path(path), evaluation_bytes=evaluation_bytes, text_field=text_field, say=say)


def original_downloads() -> Path:
    """The folder in which karpathy/autoresearch keeps its shards."""
    return home_folder() / ".cache" / "autoresearch" / "data"


def climbmix(
    dataset: Dataset, *, num_shards: int, revision: str | None, downloaded: Path, say: Callable[[str], None]
) -> Source:
    """The source with the first `num_shards` training shards.

    Shards in `downloaded`, the original project's folder, are used in place unless a revision is requested.
    """
    if not 1 <= num_shards <= CLIMBMIX_AUDIT:
        raise UserError(f"--num-shards must be from 1 to {CLIMBMIX_AUDIT:,} for climbmix, not {num_shards}.")
    names = [f"shard_{n:05d}.parquet" for n in (*range(num_shards), CLIMBMIX_AUDIT, CLIMBMIX_VALIDATION)]
    here = {} if revision else {name: downloaded / name for name in names if _is_parquet(downloaded / name)}
    if here:
        say(f"climbmix: using {counted(len(here), 'shard')} that the original downloaded")
    commit = "original's download"
    missing = [name for name in names if name not in here]
    if missing:
        commit = dataset.commit(revision or REVISION)
        here |= zip(missing, dataset.fetch(missing, commit=commit, say=say), strict=True)
    *train, audit, validation = (here[name] for name in names)
    paths: dict[Split, list[Path]] = {"train": train, "val": [validation], "audit": [audit]}

    def texts(shards: Iterable[Path]) -> Iterator[str]:
        return chain.from_iterable(parquet_texts(shard, delete_if_corrupt=dataset.folder in shard.parents) for shard in shards)

    return Source(
        name="climbmix",
        revision=commit,
        text_bytes=sum(int(2.5 * path.stat().st_size) for path in train),
        documents=lambda split: texts(paths[split]),
        tokenizer_documents=lambda: texts(train[:1]),
        repeats=False,
        disjoint=False,
        hidden_paths=(validation, audit),
    )


def tinystories(dataset: Dataset, *, num_shards: int, revision: str | None, say: Callable[[str], None]) -> Source:
    """The source with `num_shards` tenths of the training stories; ten or more give all of them."""
    if num_shards < 1:
        raise UserError(f"--num-shards must be from 1 to {TINYSTORIES_PARTS} for tinystories, not {num_shards}.")
    commit = dataset.commit(revision or REVISION)
    [path] = dataset.fetch([TINYSTORIES_FILE], commit=commit, say=say)
    rows = parquet_rows(path, delete_if_corrupt=True)
    held_out = min(TINYSTORIES_HELD_OUT, rows // 4)
    first = 2 * held_out

    def end(shards: int) -> int:
        return first + (rows - first) * min(shards, TINYSTORIES_PARTS) // TINYSTORIES_PARTS

    ranges: dict[Split, tuple[int, int]] = {
        "val": (0, held_out),
        "audit": (held_out, first),
        "train": (first, end(num_shards)),
    }

    def texts(start: int, stop: int) -> Iterator[str]:
        return parquet_texts(path, start=start, stop=stop, delete_if_corrupt=True)

    return Source(
        name="tinystories",
        revision=commit,
        text_bytes=int(3.3 * path.stat().st_size * (end(num_shards) - first) / max(rows, 1)),
        documents=lambda split: texts(*ranges[split]),
        tokenizer_documents=lambda: texts(first, end(1)),
        repeats=False,
        disjoint=False,
        hidden_paths=(path,),
    )


def packages(folders: Iterable[Path]) -> Source:
    """The source of the Python files in these folders of packages, a part of which is for validation and audit."""
    folders = tuple(folders)
    files = PackageFiles(folders)
    held_out: dict[Split, list[Path]] = {"val": files.val, "audit": files.audit}

    def documents(split: Split) -> Iterator[str]:
        return _texts(files.train) if split == "train" else map(excerpt, held_out[split])

    return Source(
        name="packages",
        revision=packages_revision(),
        text_bytes=_total_size(files.train),
        documents=documents,
        tokenizer_documents=lambda: documents("train"),
        repeats=True,
        disjoint=False,
        hidden_paths=folders,
    )


def stdlib(root: Path, *, evaluation_bytes: int) -> Source:
    """The source of Python's own library below `root`, which a run can read.

    Validation and audit come from its tests, or from packages that no run needs; a sandbox hides both.
    """
    skipped = frozenset({"site-packages", "dist-packages"})
    revision = f"python {sysconfig.get_python_version()}"
    held_out, least, characters = [root / "test"], LEAST_TEST_PACKAGE, EXCERPT_CHARACTERS
    if _total_size(_python_files(held_out)) < least:
        held_out, least, characters = [root / name for name in UNUSED_BY_RUNS], LEAST_UNUSED, LONG_EXCERPT_CHARACTERS
    tests = _python_files(held_out)
    if _total_size(tests) < least:
        files = list_files(root, suffix=".py", skip_folders=skipped)
        return _dealt(
            "stdlib",
            lambda: _texts(files),
            text_bytes=_total_size(files),
            revision=revision,
            evaluation_bytes=evaluation_bytes,
            hidden_paths=(root,),
        )
    library = list_files(root, suffix=".py", skip_folders=skipped | {"test"} | {folder.name for folder in held_out})

    def excerpts() -> Iterator[str]:
        mixed = sorted(tests, key=lambda path: text_key(str(path.relative_to(root))))
        return (text[:characters] for text in _texts(mixed))

    def documents(split: Split) -> Iterator[str]:
        if split == "train":
            return _texts(library)
        return (text for text in excerpts() if text_key(text) % 2 == (split == "audit"))

    return Source(
        name="stdlib",
        revision=revision,
        text_bytes=_total_size(library),
        documents=documents,
        tokenizer_documents=lambda: documents("train"),
        repeats=True,
        disjoint=False,
        hidden_paths=tuple(held_out),
    )


def _python_files(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders if folder.is_dir() for path in list_files(folder, suffix=".py")]


def own_files(
    root: Path, *, evaluation_bytes: int, text_field: str = TEXT_FIELD, say: Callable[[str], None] = lambda line: None
) -> Source:
    """The source of a folder or file: text, source code, JSON and Parquet, which may be compressed. Skips other files.

    `text_field` is the field of JSON records, or column of Parquet, that holds the text. Raises UserError if there is no text.
    """
    _check_exists(root)
    name = f"files:{printable(root.name)}"
    tree = tree_below(root)
    paths = tree.files
    say(f"{name}: reading {counted(len(paths), 'file')}")
    snapshot = Snapshot.take(root, paths)
    found = survey(name, root, tree, field=text_field)
    for line in found.lines():
        say(line)

    def texts() -> Iterator[str]:
        return chain.from_iterable(documents_of(file, text_field) for file in found.read)

    return _dealt(
        name,
        texts,
        text_bytes=found.text_bytes,
        revision=snapshot.digest() if text_field == TEXT_FIELD else f"{snapshot.digest()}-{text_field}",
        evaluation_bytes=evaluation_bytes,
        hidden_paths=(root, *_behind_links(root, (file.path for file in found.read))),
        survey=found,
        snapshot=snapshot,
    )


def _behind_links(root: Path, paths: Iterable[Path]) -> tuple[Path, ...]:
    """Where files lie that links lead to, outside the root: the files, or the folders of many."""
    inside = root.resolve()
    outside = {real for path in paths if not (real := path.resolve()).is_relative_to(inside)}
    return tuple(sorted(outside if len(outside) <= MOST_HIDDEN_FILES else {path.parent for path in outside}))


def _dealt(
    name: str,
    texts: Callable[[], Iterator[str]],
    *,
    text_bytes: int,
    revision: str,
    evaluation_bytes: int,
    hidden_paths: tuple[Path, ...],
    survey: Survey | None = None,
    snapshot: Snapshot | None = None,
) -> Source:
    """A source whose documents are assigned to splits by a hash of their text, so that none is in two."""
    spread = 0.0 if survey is None else chance_bytes(evaluation_bytes, text_bytes / max(survey.documents, 1))
    share = max((evaluation_bytes + spread) / max(text_bytes, 1), LEAST_HELD_OUT)
    validation_below = int(min(share, MOST_VALIDATION) * 10_000)
    audit_below = validation_below + int(min(share, MOST_AUDIT) * 10_000)

    def split_of(text: str) -> Split:
        place = text_key(text) % 10_000
        return "val" if place < validation_below else "audit" if place < audit_below else "train"

    def documents(split: Split) -> Iterator[str]:
        return (text for text in texts() if split_of(text) == split)

    return Source(
        name=name,
        revision=revision,
        text_bytes=text_bytes,
        documents=documents,
        tokenizer_documents=lambda: documents("train"),
        repeats=True,
        disjoint=True,
        hidden_paths=hidden_paths,
        survey=survey,
        snapshot=snapshot,
    )


def chance_bytes(split_bytes: float, document_bytes: float) -> float:
    """By how much a split that should have this size can be smaller by chance, since whole documents fall into it or not."""
    return SPREAD * math.sqrt(split_bytes * document_bytes)


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        with Readable(path):
            yield from plain_documents(path)


def _total_size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _is_parquet(path: Path) -> bool:
    """Whether a file begins and ends like a parquet file."""
    if not path.is_file() or path.stat().st_size < 12:
        return False
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-4, 2)
        return head == b"PAR1" and file.read(4) == b"PAR1"
