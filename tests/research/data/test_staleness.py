"""Prepared data and the user's files, which change: nothing is passed over, and nothing that a branch began with is lost."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from research.contract import Contract
from research.data.prepare import PreparedData, find_prepared, prepare
from research.data.sources import own_files
from research.errors import UserError
from tests.research.text_files import sentences


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for n, text in enumerate(sentences(11, 200)):
        (folder / f"{n}.txt").write_text(text)
    return folder


@pytest.fixture
def contract(texts: Path) -> Contract:
    return Contract(profile="cpu", MAX_SEQ_LEN=32, TIME_BUDGET=15.0, EVAL_TOKENS=1280, VOCAB_SIZE=300, source=f"files:{texts}")


class Farm:
    """Calls as commands make them, and what they said."""

    def __init__(self, contract: Contract, cache: Path) -> None:
        self.contract, self.cache = contract, cache
        self.said: list[str] = []

    def prepare(self, *, text_field: str | None = None, force: bool = False) -> PreparedData:
        self.said.clear()
        return prepare(self.contract, cache=self.cache, text_field=text_field, force=force, say=self.said.append)

    def find(self) -> PreparedData:
        self.said.clear()
        return find_prepared(self.contract, cache=self.cache, say=self.said.append)

    @property
    def built(self) -> bool:
        """Whether the last call made data."""
        return any("training the tokenizer" in line for line in self.said)


@pytest.fixture
def farm(contract: Contract, tmp_path: Path) -> Farm:
    return Farm(contract, tmp_path / "cache")


def said_of_resuming(farm: Farm, data: PreparedData) -> list[str]:
    """What a branch that began with this data is told."""
    said: list[str] = []
    fingerprint = data.score_fingerprint(farm.contract)
    find_prepared(farm.contract, cache=farm.cache, score_fingerprint=fingerprint, say=said.append)
    return said


def test_changed_files_are_said_and_prepared_again_and_older_data_stays(farm: Farm, texts: Path) -> None:
    first = farm.prepare()
    assert farm.find() == first and farm.said == []
    old = (texts / "7.txt").read_text()
    (texts / "7.txt").write_text("another text, which is longer than the one before " * 20)
    (texts / "new.txt").write_text("new text")
    (texts / "8.txt").rename(texts / "moved.txt")

    assert farm.find() == first, "a branch that began with it can be resumed"
    [line] = farm.said
    assert "4 files changed (2 new, 1 edited, 1 gone)" in line and "farm prepare" in line and str(texts) in line

    second = farm.prepare()
    assert farm.built and "4 files changed" in farm.said[0]
    assert second.folder != first.folder and PreparedData.load(first.folder) == first
    assert farm.find() == second and farm.said == []
    for data in (first, second):  # a branch finds the data that it began with
        fingerprint = data.score_fingerprint(farm.contract)
        assert find_prepared(farm.contract, cache=farm.cache, score_fingerprint=fingerprint) == data
    assert find_prepared(farm.contract, cache=farm.cache, score_fingerprint="another") == second
    [resumed] = said_of_resuming(farm, first)
    assert "is prepared already, for new branches" in resumed and "farm prepare" not in resumed
    assert said_of_resuming(farm, second) == []

    (texts / "7.txt").write_text(old)
    (texts / "new.txt").unlink()
    (texts / "moved.txt").rename(texts / "8.txt")
    third = farm.prepare()
    assert not farm.built and replace(third, created=first.created) == first
    assert farm.find() == third and farm.said == []


def test_an_edit_of_the_same_size_is_noticed_and_a_new_time_alone_is_not(farm: Farm, texts: Path) -> None:
    data = farm.prepare()
    for path in texts.iterdir():
        os.utime(path, ns=(1, 1))
    assert farm.find() == data and farm.said == []
    states = json.loads((data.folder / "files.json").read_text())
    assert {state["mtime_ns"] for state in states.values()} == {1}, "the content isn't read again next time"
    text = (texts / "3.txt").read_text()
    (texts / "3.txt").write_text(text.replace(text[-1], "Z"))
    farm.find()
    assert "1 file changed (1 edited)" in farm.said[0]


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (shutil.rmtree, "deleted"),
    "emptied": (lambda root: [path.unlink() for path in root.iterdir()], "emptied"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_folder_is_one_line_and_its_data_stays(loss: str, farm: Farm, texts: Path) -> None:
    data = farm.prepare()
    act, word = LOSSES[loss]
    act(texts)
    assert farm.find() == data
    assert len(farm.said) == 1 and word in farm.said[0] and "put the text back" in farm.said[0]
    with pytest.raises(UserError, match=f"{word}.*put the text back") as raised:
        farm.prepare()
    assert str(data.folder) in str(raised.value) and "\n" not in str(raised.value)
    assert PreparedData.load(data.folder) == data


def test_force_prepares_again(farm: Farm) -> None:
    first = farm.prepare()
    again = farm.prepare(force=True)
    assert farm.built and again.created > first.created
    assert replace(again, created=first.created) == first


def test_data_without_a_record_of_its_files_is_prepared_again(farm: Farm) -> None:
    (farm.prepare().folder / "files.json").unlink()
    farm.find()
    assert "not recorded" in farm.said[0] and "farm prepare" in farm.said[0]
    farm.prepare()
    assert farm.built


def test_files_that_change_while_they_are_read(farm: Farm, texts: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("tokenizer:"):
            (texts / "3.txt").write_text("another text")

    with pytest.raises(UserError, match=r"1 file changed .* while"):
        prepare(farm.contract, cache=farm.cache, say=say)
    with pytest.raises(UserError, match="No data is prepared"):
        farm.find()


def test_the_field_that_was_named_is_used_from_then_on(farm: Farm, texts: Path) -> None:
    for path in list(texts.iterdir()):
        record = {"id": path.stem, "body": path.read_text()}
        path.with_suffix(".jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"body": ""}) + "\n")
        path.unlink()
    with pytest.raises(UserError, match=r"`body`.*--text-field"):
        farm.prepare()
    body = farm.prepare(text_field="body")
    assert farm.find() == body and farm.prepare() == body and not farm.built
    (texts / "new.jsonl").write_text('{"body": "more"}\n')
    assert farm.prepare().text_field == "body" and farm.built

    (texts / "ids.jsonl").write_text("".join(json.dumps({"id": text}) + "\n" for text in sentences(12, 200)))
    other = farm.prepare(text_field="id")
    assert other.text_field == "id" and farm.find() == other
    back = farm.prepare(text_field="body")
    assert back.text_field == "body" and farm.find() == back


def test_a_field_of_a_source_without_records(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--text-field.*stdlib"):
        prepare(replace(contract, source="stdlib"), cache=tmp_path, text_field="body", say=print)


def test_a_short_audit_set_is_warned_of(farm: Farm) -> None:
    farm.contract = replace(farm.contract, EVAL_TOKENS=32 * 180)
    data = farm.prepare()
    assert data.audit_rows < data.val_rows == 180
    [warning] = [line for line in farm.said if line.startswith("warning")]
    assert "audit" in warning and f"{data.audit_rows} of 180" in warning and "Add about" in warning


@pytest.mark.parametrize("length", [300, 3_000])
def test_the_evaluation_text_suffices_however_long_the_documents_are(length: int, tmp_path: Path) -> None:
    """Each document is in one split as a whole: of a few long ones the expected share alone would often be too little."""
    chance, enough = random.Random(5), 0
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        records = [{"text": chance.randbytes(length // 2).hex()} for _ in range(300_000 // length)]
        (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        source = own_files(folder, evaluation_bytes=30_000)
        enough += sum(map(len, source.documents("val"))) >= 30_000
    assert enough >= 36


def test_what_is_said_to_be_missing_leaves_room_for_chance(farm: Farm, texts: Path) -> None:
    """Followed once, it is enough: a hint that grows with every try is none."""
    farm.contract = replace(farm.contract, EVAL_TOKENS=32 * 600)
    with pytest.raises(UserError) as raised:
        farm.prepare()
    found = re.search(r"gives (\d+) \w+ rows.*Add about ([\d.]+) (kB|MB) of text to the ([\d.]+) kB", str(raised.value))
    assert found is not None
    have, more = float(found[4]) * 1e3, float(found[2]) * (1e3 if found[3] == "kB" else 1e6)
    assert more > have * (600 / int(found[1]) - 1)
    added = 0
    for n, text in enumerate(sentences(13, 5_000)):
        if added < more:
            (texts / f"more-{n}.txt").write_text(text)
            added += len(text)
    assert farm.prepare().val_rows == 600


@pytest.mark.parametrize("change", [{"EVAL_TOKENS": 32 * 9000}, {"VOCAB_SIZE": 20_000}])
def test_too_little_text_says_how_much_more_and_what_was_skipped(change: dict[str, int], farm: Farm, texts: Path) -> None:
    farm.contract = replace(farm.contract, **change)  # type: ignore[arg-type]
    (texts / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(UserError) as raised:
        farm.prepare()
    text = str(raised.value)
    assert "oo little text" in text and "Add about" in text and "200 files" in text and "picture.png" in text
    assert "\n" not in text


def test_names_that_are_not_utf8_all_the_way(farm: Farm, texts: Path) -> None:
    (texts / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    odd = texts.rename(texts.with_name(os.fsdecode(b"t\xe9xts")))
    farm.contract = replace(farm.contract, source=f"files:{odd}")
    data = farm.prepare()
    assert farm.find() == data and farm.said == [] and PreparedData.load(data.folder) == data
    (odd / os.fsdecode(b"\xff")).write_text("more")
    farm.find()
    "\n".join(farm.said).encode()  # can be printed
    assert "1 file changed (1 new)" in farm.said[0]
