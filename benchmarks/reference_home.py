"""Creates what a reference train.py expects: a home folder with our text and tokenizer, and modules that are not installed.

The reference (karpathy/autoresearch) reads from `~/.cache/autoresearch`: shards of documents as parquet, a pickled tiktoken
encoding, and the number of bytes of each token. All of this is derived from the data of `farm prepare`, so that both sides read
the same documents as the same token ids. (We split documents of more than 200,000 characters before encoding, so an id at a
split may differ.)
"""

import importlib.util
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from research.contract import Contract
from research.data.hub import REVISION
from research.data.prepare import Splits
from research.data.prepared import PreparedData
from research.data.sources import Source, open_source
from research.data.tokenizer import Tokenizer

VALIDATION_SHARD = 6542
"""The number of the reference's validation shard; all other shards are training data."""

SHARD_DOCUMENTS, ROW_GROUP_DOCUMENTS = 65_536, 1024

VALIDATION_SPARE = 2
"""Validation documents to write per document that our rows used. The reference crops documents, so it needs more of them."""

REFERENCE_BUFFER = 1000
"""Size of the reference's packing buffer in documents. With fewer documents, it would choose the shortest ones repeatedly."""

WRITTEN = "written.json"
"""Marker file that identifies the data in a home folder; it is written last."""

OPTIONAL_MODULES = ("requests", "rustbpe")
"""Packages that the reference imports to download text and to train a tokenizer, neither of which it does here."""

KERNELS = '''"""Replaces the package `kernels`: every requested kernel is this package."""

import sys

from kernels import flash_attn_interface as flash_attn_interface


def get_kernel(name, *more, **options):
    return sys.modules[__name__]
'''

FLASH_ATTENTION = '''"""Replaces FlashAttention 3 by the attention of our train.py, so that both sides use the same kernel."""

from research.kernels.attention import causal_attention


def flash_attn_func(q, k, v, causal=True, window_size=(-1, -1)):
    """q, k, v: (B, T, H, D). A left window of n covers the n positions before a query and its own; a negative one, all."""
    assert causal and window_size[1] <= 0
    left = window_size[0]
    # in recent versions of torch, autocast runs RMSNorm in float32, so that q and k are float32; attention runs in v's bfloat16
    q, k = q.to(v.dtype), k.to(v.dtype)
    return causal_attention(q, k, v, window=q.size(1) if left < 0 else left + 1)
'''


def write_stand_ins(folder: Path) -> None:
    """Writes the modules that must come first on PYTHONPATH: `kernels`, and an empty one for each missing optional module."""
    package = folder / "kernels"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(KERNELS)
    (package / "flash_attn_interface.py").write_text(FLASH_ATTENTION)
    for name in OPTIONAL_MODULES:
        if importlib.util.find_spec(name) is None:
            (folder / f"{name}.py").write_text('"""Empty: the package is not installed, and not needed."""\n')


def write_home(home: Path, contract: Contract, data: PreparedData, *, cache: Path) -> None:
    """Writes the reference's home folder from the documents that `data` was made from, unless it is there already."""
    identity = {"train": data.data_fingerprint, "val": data.val_sha256, "tokenizer": data.tokenizer_sha256}
    written = home / WRITTEN
    if written.exists() and json.loads(written.read_text()) == identity:
        return
    shutil.rmtree(home, ignore_errors=True)
    below = home / ".cache" / "autoresearch"
    write_tokenizer(below / "tokenizer", data.tokenizer())
    splits = Splits(_source_of(contract, data, cache=cache))
    enough = islice(splits.evaluation_documents("val"), VALIDATION_SPARE * data.val_documents + REFERENCE_BUFFER)
    write_shard(_shard(below, VALIDATION_SHARD), enough)
    documents = splits.training_documents()
    for number in range(VALIDATION_SHARD):
        if not write_shard(_shard(below, number), islice(documents, SHARD_DOCUMENTS)):
            break
    written.write_text(json.dumps(identity))


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes `tokenizer.pkl` and `token_bytes.pt`.

    The reference counts the bytes of a token's decoded text, so that a part of a character has the three bytes of U+FFFD.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(tokenizer.encoding))
    lengths = [len(tokenizer.decode([token]).encode()) if token < tokenizer.bos else 0 for token in range(tokenizer.vocab_size)]
    torch.save(torch.tensor(lengths, dtype=torch.int32), folder / "token_bytes.pt")


def write_shard(path: Path, documents: Iterable[str]) -> int:
    """Writes a parquet file with the column `text`, unless there are no documents; returns the number of documents."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("text", pyarrow.string())])
    count = 0
    writer = None
    for group in _groups(documents):
        if writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pyarrow.parquet.ParquetWriter(path, schema)
        writer.write_table(pyarrow.table({"text": group}, schema=schema))
        count += len(group)
    if writer is not None:
        writer.close()
    return count


def _groups(documents: Iterable[str]) -> Iterator[list[str]]:
    documents = iter(documents)
    while group := list(islice(documents, ROW_GROUP_DOCUMENTS)):
        yield group


def _shard(below: Path, number: int) -> Path:
    return below / "data" / f"shard_{number:05d}.parquet"


def _source_of(contract: Contract, data: PreparedData, *, cache: Path) -> Source:
    """The source that `data` was prepared from, at the same revision."""
    revision = None if data.requested_revision in ("", REVISION) else data.requested_revision
    return open_source(contract, cache=cache, num_shards=data.num_shards or 1, revision=revision, say=print)
