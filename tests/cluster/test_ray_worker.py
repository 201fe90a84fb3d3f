"""Data on nodes: found there, sent, prepared, or refused where scores would not compare."""

import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.ray_worker import data_on_node, packed, unpack
from research.contract import contract_for
from research.prepare import prepare
from research.rows import PreparedData

CONTRACT = replace(contract_for("cpu", source=f"files:{Path(sysconfig.get_path('stdlib'), 'asyncio')}"), EVAL_TOKENS=256 * 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    """The farm's own."""
    return prepare(CONTRACT, cache=tmp_path_factory.mktemp("cache"), say=lambda line: None)


def on_node(data: PreparedData, cache: Path, *, shipped: bool = False, contract=CONTRACT, wanted: str | None = None):
    files = packed(data, 2**30) if shipped else None
    return data_on_node(contract, str(cache), None, wanted or data.score_fingerprint(contract), files, "sent")


def test_a_node_that_has_the_data_uses_it(data, tmp_path):
    found = on_node(data, data.folder.parent.parent)
    assert (found.folder, found.problem) == (str(data.folder), "")


def test_a_node_without_it_is_sent_it(data, tmp_path):
    given = on_node(data, tmp_path, shipped=True)
    assert given.folder == str(tmp_path / "shipped" / "sent")
    assert PreparedData.load(given.folder).data_fingerprint == data.data_fingerprint
    assert on_node(data, tmp_path, shipped=True) == given  # a second worker of that node


def test_large_data_is_prepared_on_the_node(data, tmp_path):
    given = on_node(data, tmp_path)
    assert given.problem == ""
    assert PreparedData.load(given.folder).score_fingerprint(CONTRACT) == data.score_fingerprint(CONTRACT)


def test_a_node_whose_evaluation_rows_differ_is_refused(data, tmp_path):
    other = replace(CONTRACT, source=f"files:{Path(sysconfig.get_path('stdlib'), 'multiprocessing')}")
    prepare(other, cache=tmp_path, say=lambda line: None)
    refused = on_node(data, tmp_path, contract=other, wanted=data.score_fingerprint(CONTRACT))
    assert refused.folder == ""
    assert "tokenizer or evaluation rows" in refused.problem


def test_a_node_that_cannot_prepare_says_why(data, tmp_path):
    missing = replace(CONTRACT, source=f"files:{tmp_path / 'nothing'}")
    refused = on_node(data, tmp_path, contract=missing, wanted="w")
    assert str(tmp_path / "nothing") in refused.problem


def test_only_small_data_is_sent(data):
    size = sum(path.stat().st_size for path in data.folder.iterdir())
    assert packed(data, size - 1) is None
    files = packed(data, size)
    assert files is not None
    assert {path.name for path in data.folder.iterdir()} == set(files)


def test_what_was_sent_is_there_whole_or_not_at_all(data, tmp_path):
    folder = tmp_path / "shipped" / "x"
    unpack(packed(data, 2**30), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["x"]
