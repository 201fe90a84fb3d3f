"""Data on nodes: found there, sent, prepared, or refused where scores would not compare."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.ray_cluster.data_shipping import NodeData, data_on_node, packed, unpack
from research.contract import Contract
from research.data.prepare import prepare
from research.data.prepared import PreparedData
from research.profiles import contract_for
from tests.cluster.farm_samples import write_text

Make = Callable[[str], Contract]


@pytest.fixture(scope="module")
def make_contract(tmp_path_factory) -> Make:
    """A short contract on a text of its own, of words that its name gives."""

    def make(name: str) -> Contract:
        folder = write_text(tmp_path_factory.mktemp("texts") / name, documents=400, seed=name)
        return replace(contract_for("cpu", source=f"files:{folder}"), MAX_SEQ_LEN=32, EVAL_TOKENS=256, VOCAB_SIZE=300)

    return make


@pytest.fixture(scope="module")
def contract(make_contract: Make) -> Contract:
    return make_contract("ours")


@pytest.fixture(scope="module")
def data(contract: Contract, tmp_path_factory) -> PreparedData:
    """The farm's own."""
    return prepare(contract, cache=tmp_path_factory.mktemp("cache"), say=lambda line: None)


def on_node(contract: Contract, data: PreparedData, cache: Path, *, shipped: bool = False) -> NodeData:
    files = packed(data, 2**30) if shipped else None
    return data_on_node(contract, str(cache), None, data.score_fingerprint(contract), files, data)


def test_a_node_that_has_the_data_uses_it(contract, data, tmp_path):
    found = on_node(contract, data, data.folder.parent.parent)
    assert (found.folder, found.problem) == (str(data.folder), "")


def test_a_node_without_it_is_sent_it(contract, data, tmp_path):
    given = on_node(contract, data, tmp_path, shipped=True)
    assert given.folder == str(tmp_path / "shipped" / f"{data.folder.name}-{data.data_fingerprint}")
    assert PreparedData.load(given.folder).data_fingerprint == data.data_fingerprint
    assert on_node(contract, data, tmp_path, shipped=True) == given  # a second worker of that node


def test_large_data_is_prepared_on_the_node(contract, data, tmp_path):
    given = on_node(contract, data, tmp_path)
    assert given.problem == ""
    assert PreparedData.load(given.folder).score_fingerprint(contract) == data.score_fingerprint(contract)


def test_a_node_whose_evaluation_rows_differ_is_refused(data, make_contract, tmp_path):
    other = make_contract("theirs")
    prepare(other, cache=tmp_path, say=lambda line: None)
    refused = on_node(other, data, tmp_path)
    assert refused.folder == ""
    assert "tokenizer or evaluation rows" in refused.problem


def test_a_node_that_cannot_prepare_says_why(contract, data, tmp_path):
    missing = replace(contract, source=f"files:{tmp_path / 'nothing'}")
    assert str(tmp_path / "nothing") in on_node(missing, data, tmp_path).problem


def test_only_small_data_is_sent(data):
    size = sum(path.stat().st_size for path in data.folder.iterdir())
    assert packed(data, size - 1) is None
    files = packed(data, size)
    assert files is not None
    assert {path.name for path in data.folder.iterdir()} == set(files)


def test_what_was_sent_is_there_whole_or_not_at_all(contract, data, tmp_path):
    folder = tmp_path / "shipped" / "x"
    unpack(packed(data, 2**30), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["x"]


def test_a_node_prepares_the_text_of_the_farms_field(make_contract: Make, tmp_path: Path) -> None:
    """Also where data of another field has been prepared."""
    contract = make_contract("bodies")
    [file] = Path(contract.source.removeprefix("files:")).iterdir()
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({"text": text[::-1], "body": text}) + "\n" for text in texts))
    data = prepare(contract, cache=tmp_path / "farm", text_field="body", say=lambda line: None)
    prepare(contract, cache=tmp_path / "other", say=lambda line: None)
    for node in ("fresh", "other"):
        given = on_node(contract, data, tmp_path / node)
        assert given.problem == "" and PreparedData.load(given.folder).text_field == "body"
