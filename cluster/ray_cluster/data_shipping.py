"""Prepared data on a Ray node: found there, shipped by the farm where no disk is shared, or prepared. Doesn't import ray."""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.home import find_cache
from research.contract import Contract
from research.data.prepare import find_prepared, prepare
from research.data.prepared import PreparedData
from research.errors import UserError

SHIP_BYTES = 64 * 2**20
"""Prepared data of at most this many bytes is sent to the nodes; larger data is prepared there."""


@dataclass(frozen=True, kw_only=True)
class NodeData:
    """The folder of prepared data on a node, or why there is none that can be used."""

    folder: str = ""
    problem: str = ""


def data_on_node(
    contract: Contract,
    cache: str | None,
    num_shards: int | None,
    wanted: str,
    shipped: Mapping[str, bytes] | None,
    farms: PreparedData,
) -> NodeData:
    """Prepared data with the score fingerprint `wanted`: found on this node, unpacked from `shipped`, or prepared now as
    `farms`, the farm's own data, was.
    """
    folder = find_cache(cache)
    with contextlib.suppress(UserError):
        found = find_prepared(contract, cache=folder, num_shards=num_shards, score_fingerprint=wanted)
        if found.score_fingerprint(contract) == wanted:
            return NodeData(folder=str(found.folder))
    try:
        if shipped is not None:
            found = unpack(shipped, folder / "shipped" / f"{farms.folder.name}-{farms.data_fingerprint}")
        else:
            found = prepare(
                contract,
                cache=folder,
                num_shards=farms.num_shards,
                revision=farms.revision,
                text_field=farms.text_field,
                say=lambda line: None,
            )
    except UserError as error:
        return NodeData(problem=str(error))
    if found.score_fingerprint(contract) != wanted:
        return NodeData(
            problem=f"its tokenizer or evaluation rows in {found.folder} differ from the farm's, so scores don't compare"
        )
    return NodeData(folder=str(found.folder))


def packed(data: PreparedData, limit: int) -> Mapping[str, bytes] | None:
    """The files of a prepared folder by name; None if they have more than `limit` bytes in total."""
    paths = [path for path in data.folder.iterdir() if path.is_file()]
    if sum(path.stat().st_size for path in paths) > limit:
        return None
    return {path.name: path.read_bytes() for path in paths}


def unpack(files: Mapping[str, bytes], folder: Path) -> PreparedData:
    """Writes a prepared folder atomically; another process may be doing the same."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        with contextlib.suppress(OSError):  # another process was faster
            temporary.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
    return PreparedData.load(folder)
