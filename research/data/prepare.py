"""Turns text into rows, once per machine: fetches documents, trains the tokenizer, packs rows, writes the manifest.

`prepare` finds what an earlier call made, or makes it. `find_prepared` only finds. The user's own files can change: `prepare`
then makes the data again, in another folder, and `find_prepared` says so.
"""

import errno
import hashlib
import json
import math
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from research.command_hints import to_type
from research.contract import Contract, cache_folder
from research.data.documents import text_key
from research.data.file_changes import Snapshot
from research.data.file_tree import files_below
from research.data.hub import REVISION, check_space
from research.data.json_documents import TEXT_FIELD
from research.data.missing_text import add_text
from research.data.packing import Tokens, pack
from research.data.prepared import (
    FORMAT,
    TOKEN_BYTES,
    TOKENIZER,
    PreparedData,
    Split,
    rows_path,
    write_rows,
)
from research.data.sources import (
    Source,
    has_shards,
    is_own_files,
    open_source,
    own_root,
    source_name,
)
from research.data.staleness import staleness
from research.data.tokenizer import Tokenizer, TooLittleText, check_roundtrip, encode_all, train_tokenizer
from research.errors import UserError
from research.files import exclusive, not_writable, try_to_write
from research.formatting import printable, size
from research.profiles import PROFILES
from research.sandbox.visible import is_needed

__all__ = ["PreparedData", "find_prepared", "prepare"]

Say = Callable[[str], None]

ROUNDTRIP_DOCUMENTS = 20
"""Validation documents that the tokenizer is checked on."""
SECONDS_BETWEEN_REPORTS = 10.0

DEFAULT_SHARDS = 10
"""Training shards that are prepared if no number is given."""


def prepare(contract: Contract, *, cache: Path, num_shards: int | None = None, revision: str | None = None,
            text_field: str | None = None, force: bool = False, allow_visible: bool = False,
            say: Say) -> PreparedData:  # fmt: skip
    """The data for `contract` in `cache`, made if it isn't there or `force`. `say` gets a line for each step.

    `num_shards` is the number of training shards, for a source that has them; None is DEFAULT_SHARDS. `revision` is a commit,
    tag or branch of the source's dataset; None is the one that this cache uses, at first the head of `main`. `text_field` is
    the field of JSON records, or column of Parquet, with the text of `files:PATH`; None is the one that this cache uses, at
    first `text`. If two processes call this at once, one waits.

    Raises UserError without a network, disk space or enough text, and for evaluation text that a run must be able to read,
    unless `allow_visible`.
    """
    cache = Path(cache).expanduser().absolute()
    _say_if_no_shards(contract, num_shards, say)
    shards = DEFAULT_SHARDS if num_shards is None else num_shards
    wanted = _Wanted.of(contract, num_shards=shards, revision=revision, text_field=text_field)
    found = None if force else _up_to_date(wanted, cache)
    if found is None:
        check_writable(cache)
        with _only_one(cache / "prepared" / f".{wanted.slug}.lock", say):
            found = (None if force else _up_to_date(wanted, cache)) or _prepare(
                contract, wanted, cache=cache, num_shards=shards, allow_visible=allow_visible, say=say
            )
    newest = _Wanted.of(contract, num_shards=None, revision=None).newest(cache)
    if is_own_files(found.source) and newest != found:  # the files have changed back: runs shall find this data again
        found = replace(found, created=time.time())
        found.save_manifest()
    say(f"prepared: {found.train_rows:,} training rows of {found.seq_len + 1:,} tokens in {found.folder}")
    return found


def check_writable(cache: Path) -> None:
    """Raises UserError if data can't be prepared in `cache` because it can't be made or written, which is tried."""
    folder = Path(cache).expanduser().absolute() / "prepared"
    try:
        try_to_write(folder)
    except OSError as error:
        raise not_writable("cache", folder.parent, error, option="--cache (or FARM_CACHE)") from None


def find_prepared(contract: Contract, *, cache: Path, num_shards: int | None = None, score_fingerprint: str | None = None,
                  say: Say | None = None) -> PreparedData:  # fmt: skip
    """The data that `prepare` made for `contract`: with this score fingerprint if there is such data, else the newest.

    With `say`, the user's files are compared with those that the data was made from, and a change is said. The data is used all
    the same: a branch that began with it could not be resumed with other rows. Raises UserError, with the command to run, if
    there is none.
    """
    cache = Path(cache).expanduser().absolute()
    fitting = _Wanted.of(contract, num_shards=num_shards, revision=None).found(cache)
    command = prepare_command(contract, cache=cache, num_shards=num_shards)
    if not fitting:
        raise UserError(f"No data is prepared for profile {contract.profile}: run `{command}`.")
    if say is not None:
        _say_if_no_shards(contract, num_shards, say)
    found = fitting[0]
    if score_fingerprint is not None:
        found = next((data for data in fitting if data.score_fingerprint(contract) == score_fingerprint), found)
    if say is not None and (stale := staleness(found)) is not None:
        is_newest = fitting[0] is found
        if not stale.can_prepare:
            cure = "put the text back to change that"
        elif is_newest or staleness(fitting[0]) is not None:
            cure = f"`{command}` takes the change in, for new branches"
        else:
            cure = "the change is prepared already, for new branches (another --tag)"
        say(f"warning: {stale}: runs use that data as it is; {cure}")
    return found


def _say_if_no_shards(contract: Contract, num_shards: int | None, say: Say) -> None:
    source = source_name(contract.source)
    if num_shards is not None and not has_shards(source):
        say(f"warning: --num-shards {num_shards} is ignored: {printable(source)} has no shards, all of its text is used")


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The criteria that select prepared data; None fits anything. The time budget is not one of them."""

    source: str
    vocab_size: int
    seq_len: int
    eval_rows: int
    num_shards: int | None
    revision: str | None
    text_field: str | None

    @staticmethod
    def of(contract: Contract, *, num_shards: int | None, revision: str | None, text_field: str | None = None) -> "_Wanted":
        source = source_name(contract.source)
        sharded = has_shards(source)
        if text_field is not None and not is_own_files(source):
            raise UserError(f"--text-field applies to --source files:PATH, not to {source}: leave it out.")
        return _Wanted(
            source=source,
            vocab_size=contract.VOCAB_SIZE,
            seq_len=contract.MAX_SEQ_LEN,
            eval_rows=contract.eval_rows,
            num_shards=num_shards if sharded else None,
            revision=revision if sharded else None,
            text_field=text_field,
        )

    @property
    def slug(self) -> str:
        """The source's name as part of a file's name."""
        kind, _, path = self.source.partition(":")
        name = f"{kind}-{Path(path).name}" if path else kind
        return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60]

    def folder_name(self, commit: str) -> str:
        """The folder's name: readable, with a hash that distinguishes all variants."""
        shards = "" if self.num_shards is None else f"-{self.num_shards}shards"
        parts = [self.source, self.vocab_size, self.seq_len, self.eval_rows, self.num_shards, commit, FORMAT]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return f"{self.slug}{shards}-vocab{self.vocab_size}-seq{self.seq_len}-{digest}"

    def fits(self, data: PreparedData) -> bool:
        """Whether prepared data meets the criteria."""
        return (
            (data.source, data.vocab_size, data.seq_len, data.eval_rows)
            == (self.source, self.vocab_size, self.seq_len, self.eval_rows)
            and self.num_shards in (None, data.num_shards)
            and self.revision in (None, data.revision, data.requested_revision)
            and self.text_field in (None, data.text_field)
        )

    def newest(self, cache: Path) -> PreparedData | None:
        """The newest prepared data that fits; None if there is none. Damaged folders are skipped."""
        return next(iter(self.found(cache)), None)

    def found(self, cache: Path) -> list[PreparedData]:
        """All prepared data that fits, the newest first. What is damaged or can't be read is skipped."""
        try:
            manifests = list((cache / "prepared").glob("[!.]*/manifest.json"))
        except PermissionError:
            return []
        loaded = (_load_if_sound(path.parent) for path in manifests)
        fitting = [data for data in loaded if data is not None and self.fits(data)]
        return sorted(fitting, key=lambda data: data.created, reverse=True)


def _up_to_date(wanted: _Wanted, cache: Path) -> PreparedData | None:
    """The newest prepared data that fits, of the files as they are now.

    Without --text-field only data with the field that was used last.
    """
    found = wanted.found(cache)
    same_field = (data for data in found if data.text_field == found[0].text_field)
    return next((data for data in same_field if staleness(data) is None), None)


def _check_hidden(source: Source, *, allow_visible: bool, say: Say) -> None:
    """Raises UserError if a run must be able to read the text that it is scored on."""
    visible = next(filter(is_needed, source.hidden_paths), None)
    if visible is None:
        return
    problem = f"{visible} holds the text that runs are scored on, and they must be able to read it"
    if source.name != "stdlib" and not allow_visible:
        raise UserError(f"{problem}: choose another --source, or allow it with --allow-visible.")
    say(f"warning: {problem}; scores on it can be faked")


def _load_if_sound(folder: Path) -> PreparedData | None:
    try:
        return PreparedData.load(folder)
    except UserError:
        return None


def _prepare(contract: Contract, wanted: _Wanted, *, cache: Path, num_shards: int, allow_visible: bool,
             say: Say) -> PreparedData:  # fmt: skip
    """Builds the data in a temporary folder, which gets its name when it is complete."""
    before = wanted.newest(cache)
    text_field = wanted.text_field or (before and before.text_field) or TEXT_FIELD
    if before is not None and (stale := staleness(before)) is not None:
        if not stale.can_prepare:
            raise UserError(f"{stale}: put the text back to prepare it again. Runs still use what is in {before.folder}.")
        say(f"{stale}: preparing it again; {before.folder} stays, for the branches that began with it")
    source = open_source(contract, cache=cache, num_shards=num_shards, revision=wanted.revision, text_field=text_field, say=say)
    _check_hidden(source, allow_visible=allow_visible, say=say)
    check_space(cache, source.text_bytes)  # uint16 rows are about half as large as their text
    folder = cache / "prepared" / wanted.folder_name(source.revision)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)  # by a killed process: the lock is ours
    partial = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    partial.chmod(0o755)  # a cache can be shared by the users of a machine
    try:
        _build(contract, wanted, source, text_field=text_field, folder=partial, say=say)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or the one before --force
        partial.rename(folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"The disk of {cache} is full: free some space, or choose another with --cache.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PreparedData.load(folder)


def _build(contract: Contract, wanted: _Wanted, source: Source, *, text_field: str, folder: Path, say: Say) -> None:
    """Writes everything into `folder`: the small files first, so that problems with the text show early."""
    splits = Splits(source)
    try:
        tokenizer = _train_tokenizer(contract, splits, folder=folder, say=say)
    except TooLittleText as error:
        raise UserError(f"{error} {add_text(contract, source, distinct=source.distinct_bytes())}") from error
    val = _evaluation_rows("val", contract, splits, tokenizer, folder=folder)
    _require_rows("validation", val, contract.eval_rows, contract, source)
    audit = _evaluation_rows("audit", contract, splits, tokenizer, folder=folder)
    _require_rows("audit", audit, math.ceil(contract.eval_rows / 10), contract, source)
    say(f"evaluation: {val.rows:,} validation rows and {audit.rows:,} audit rows")
    if audit.rows < contract.eval_rows:
        more = add_text(contract, source, rows=audit.rows, documents=audit.documents, needed=contract.eval_rows)
        say(f"warning: the audit set is short ({audit.rows:,} of {contract.eval_rows:,} rows), audits are less certain. {more}")
    train = _training_rows(contract, splits, tokenizer, folder=folder, say=say)
    _require_rows("training", train, 1, contract, source)
    if source.snapshot is not None:
        _check_unchanged(source.snapshot, own_root(wanted.source))
        source.snapshot.save(folder)
    PreparedData(
        folder=folder,
        source=wanted.source,
        revision=source.revision,
        requested_revision=wanted.revision or (REVISION if has_shards(wanted.source) else ""),
        num_shards=wanted.num_shards,
        vocab_size=contract.VOCAB_SIZE,
        seq_len=contract.MAX_SEQ_LEN,
        eval_rows=contract.eval_rows,
        train_rows=train.rows,
        val_rows=val.rows,
        audit_rows=audit.rows,
        train_documents=train.documents,
        val_documents=val.documents,
        audit_documents=audit.documents,
        dropped_held_out=splits.dropped_held_out,
        dropped_repeats=splits.dropped_repeats,
        train_bytes=splits.train_bytes,
        tokenizer_sha256=tokenizer.sha256(),
        val_sha256=val.sha256,
        audit_sha256=audit.sha256,
        data_fingerprint=train.sha256[:16],
        hidden_paths=tuple(str(path) for path in source.hidden_paths),
        text_field=text_field if is_own_files(wanted.source) else None,
        created=time.time(),
    ).save_manifest()


class Splits:
    """The splits of a source, without overlap: no validation text in audit, and neither of them in training."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._validation = frozenset() if source.disjoint else frozenset(map(text_key, source.documents("val")))
        audit = frozenset() if source.disjoint else frozenset(map(text_key, source.documents("audit")))
        self._held_out = self._validation | audit
        self.name = source.name
        self.dropped_held_out = 0
        self.dropped_repeats = 0
        self.train_bytes = 0

    def tokenizer_documents(self) -> Iterator[str]:
        """Documents to train the tokenizer on, without the evaluation text."""
        return (text for text in self._source.tokenizer_documents() if text_key(text) not in self._held_out)

    def evaluation_documents(self, split: Split) -> Iterator[str]:
        """Documents of the validation or audit split, each once."""
        seen = set(self._validation) if split == "audit" else set()
        for text in self._source.documents(split):
            key = text_key(text)
            if key not in seen and not text.isspace():
                seen.add(key)
                yield text

    def training_documents(self) -> Iterator[str]:
        """Training documents. Counts the dropped ones, and the bytes of the others, as they pass."""
        seen: set[int] = set()
        for text in self._source.documents("train"):
            key = text_key(text)
            if key in self._held_out:
                self.dropped_held_out += 1
            elif key in seen:
                self.dropped_repeats += 1
            elif not text.isspace():
                if self._source.repeats:
                    seen.add(key)
                self.train_bytes += len(text) if text.isascii() else len(text.encode())
                yield text


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """The file of rows of one split."""

    rows: int
    documents: int
    sha256: str


def _train_tokenizer(contract: Contract, splits: Splits, *, folder: Path, say: Say) -> Tokenizer:
    started = time.monotonic()
    say(f"{splits.name}: training the tokenizer")
    tokenizer = train_tokenizer(splits.tokenizer_documents(), vocab_size=contract.VOCAB_SIZE)
    for text in islice(splits.evaluation_documents("val"), ROUNDTRIP_DOCUMENTS):
        check_roundtrip(tokenizer, text)
    tokenizer.save(folder / TOKENIZER)
    np.save(folder / TOKEN_BYTES, tokenizer.token_bytes())
    say(f"tokenizer: {tokenizer.vocab_size:,} tokens in {time.monotonic() - started:.1f} s")
    return tokenizer


def _evaluation_rows(split: Split, contract: Contract, splits: Splits, tokenizer: Tokenizer, *, folder: Path) -> _Packed:
    """Writes the contract's number of rows, or fewer if the text ends.

    No more documents are read than needed: best-fit packing would prefer the long ones of a larger supply.
    """
    row_tokens = contract.MAX_SEQ_LEN + 1
    wanted = contract.eval_rows * row_tokens
    documents: list[Tokens] = []
    with closing(encode_all(splits.evaluation_documents(split), tokenizer)) as encoded:
        for document in encoded:
            documents.append(document)
            wanted -= len(document) + 1
            if wanted <= 0:
                break
    rows = pack(documents, row_tokens=row_tokens, bos=tokenizer.bos)
    count, sha256 = write_rows(rows_path(folder, split), rows, limit=contract.eval_rows)
    return _Packed(rows=count, documents=len(documents), sha256=sha256)


def _training_rows(contract: Contract, splits: Splits, tokenizer: Tokenizer, *, folder: Path, say: Say) -> _Packed:
    documents = 0
    started = reported = time.monotonic()

    def counted() -> Iterator[Tokens]:
        nonlocal documents, reported
        for document in encode_all(splits.training_documents(), tokenizer):
            documents += 1
            if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                say(f"packing: {size(splits.train_bytes)} of text so far")
            yield document

    row_tokens = contract.MAX_SEQ_LEN + 1
    rows = pack(counted(), row_tokens=row_tokens, bos=tokenizer.bos)
    count, sha256 = write_rows(rows_path(folder, "train"), rows)
    say(
        f"{splits.name}: {documents:,} training documents, {size(splits.train_bytes)} of text; left out"
        f" {splits.dropped_held_out:,} that are in the evaluation text and {splits.dropped_repeats:,} repeats"
    )
    say(
        f"packed {count:,} rows of {row_tokens:,} tokens ({count * row_tokens / 1e6:,.1f} M tokens)"
        f" in {time.monotonic() - started:.1f} s"
    )
    return _Packed(rows=count, documents=documents, sha256=sha256)


def missing_text(contract: Contract, source: Source, packed: _Packed, needed: int) -> str:
    """How much text to add so that a split probably gets its rows."""
    rows, documents = packed.rows, packed.documents
    return add_text(contract, source, rows=rows, documents=documents, needed=needed, distinct=source.distinct_bytes())


def _require_rows(split: str, packed: _Packed, needed: int, contract: Contract, source: Source) -> None:
    if packed.rows >= needed:
        return
    raise UserError(
        f"{printable(source_name(contract.source))} has too little text: it gives {packed.rows:,} {split} rows of"
        f" {contract.MAX_SEQ_LEN + 1:,} tokens, and {needed:,} are needed."
        f" {missing_text(contract, source, packed, needed)}"
    )


def _check_unchanged(snapshot: Snapshot, root: Path) -> None:
    """Raises UserError if files changed while they were read."""
    changes, _ = snapshot.compare(root, files_below(root))
    if changes:
        raise UserError(f"{printable(root)}: {changes} while it was being prepared: run this again once nothing writes there.")


def prepare_command(contract: Contract, *, cache: Path, num_shards: int | None = None) -> str:
    """The `farm prepare` command that makes the data."""
    words = ["farm", "prepare", "--profile", contract.profile]
    profile = PROFILES.get(contract.profile)
    if profile is None or profile.contract.source != contract.source:
        words += ["--source", source_name(contract.source)]
    if num_shards is not None and has_shards(contract.source):
        words += ["--num-shards", str(num_shards)]
    if not _is_default(cache):
        words += ["--cache", str(cache)]
    return printable(to_type(shlex.join(words)))


def _is_default(cache: Path) -> bool:
    """Whether commands use this cache without being told."""
    try:
        return cache == cache_folder().absolute()
    except UserError:  # there is no default
        return False


@contextmanager
def _only_one(lock: Path, say: Say) -> Iterator[None]:
    """Lets one process at a time prepare data."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(lock, on_wait=lambda: say("another process is preparing this data: waiting for it")):
        yield
