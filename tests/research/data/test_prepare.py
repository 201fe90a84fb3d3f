"""Preparation as a whole: what is on disk, and what a second call, a second process or a broken folder leads to."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research.contract import Contract
from research.data.missing_text import add_text
from research.data.prepare import PreparedData, find_prepared, prepare
from research.data.prepared import SPLITS
from research.data.sources import Source
from research.errors import UserError
from research.profiles import contract_for
from research.sandbox.visible import is_needed
from tests.in_time import in_time

ROW_TOKENS = 33


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 600 documents, each with a number of its own, and 50 copies."""
    folder = tmp_path_factory.mktemp("texts")
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(500)]
    for n in range(600):
        text = f"document {n} begins " + " ".join(chance.choices(words, k=chance.randint(5, 200))) + " émile\n"
        (folder / f"{n}.txt").write_text(text)
        if n < 50:
            (folder / f"copy-of-{n}.txt").write_text(text.replace(" ", "  "))
    return folder


@pytest.fixture(scope="module")
def contract(texts: Path) -> Contract:
    return Contract(
        profile="cpu",
        MAX_SEQ_LEN=ROW_TOKENS - 1,
        TIME_BUDGET=15.0,
        EVAL_TOKENS=40 * (ROW_TOKENS - 1),
        VOCAB_SIZE=400,
        source=f"files:{texts}",
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def data(contract: Contract, cache: Path, said: list[str]) -> PreparedData:
    return prepare(contract, cache=cache, say=said.append)


def test_rows_are_full_start_with_bos_and_can_be_mapped(data: PreparedData) -> None:
    bos = data.tokenizer().bos
    for split in SPLITS:
        rows = data.load_rows(split)
        assert isinstance(rows, np.memmap) and rows.dtype == np.uint16
        assert rows.shape == (data.rows_of(split), ROW_TOKENS)
        assert (rows[:, 0] == bos).all()
        assert rows.max() == bos
    assert data.val_rows == 40 and 4 <= data.audit_rows <= 40 and data.train_rows > 1000


def test_rows_can_only_be_read(data: PreparedData) -> None:
    with pytest.raises(ValueError, match="read-only"):
        data.load_rows("val")[0, 0] = 1


def documents_in(data: PreparedData, split: str) -> set[int]:
    """The numbers of the documents whose beginning is in a split's rows."""
    tokenizer = data.tokenizer()
    text = tokenizer.decode(data.load_rows(split).reshape(-1).tolist())  # type: ignore[arg-type]
    return {int(part.split(" begins")[0]) for part in text.split("document ") if " begins" in part}


def test_no_evaluation_document_is_trained_on(data: PreparedData) -> None:
    train, val, audit = (documents_in(data, split) for split in SPLITS)
    assert len(val) > 1 and len(audit) > 1 and len(train) > 100
    assert not train & val and not train & audit and not val & audit


def test_the_manifest_says_what_was_done(data: PreparedData, contract: Contract, said: list[str], texts: Path) -> None:
    assert (data.source, data.num_shards) == (contract.source, None)
    assert (data.vocab_size, data.seq_len, data.eval_rows) == (400, 32, 40)
    assert 30 <= data.dropped_repeats <= 50 and data.dropped_held_out == 0
    assert data.hidden_paths == (str(texts),)
    assert len(data.data_fingerprint) == 16 and len(data.val_sha256) == 64
    manifest = json.loads((data.folder / "manifest.json").read_text())
    assert manifest["train_documents"] == data.train_documents
    assert PreparedData.load(data.folder) == data
    text = "\n".join(said)
    assert "tokenizer: 400 tokens in" in text
    assert f"{data.train_documents:,} training documents" in text and f"{data.dropped_repeats} repeats" in text
    assert f"packed {data.train_rows:,} rows of 33 tokens" in text


def test_a_manifest_of_an_earlier_version_is_read(data: PreparedData, tmp_path: Path) -> None:
    """It has another name for the paths that are hidden from runs."""
    folder = shutil.copytree(data.folder, tmp_path / "earlier")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"hidden_paths"', '"evaluation_paths"'))
    assert PreparedData.load(folder) == replace(data, folder=folder)


def test_nothing_on_disk_is_a_pickle(data: PreparedData) -> None:
    names = {path.name for path in data.folder.iterdir()}
    assert names == {"manifest.json", "tokenizer.json", "token_bytes.npy", "train.rows", "val.rows", "audit.rows", "files.json"}
    counts = data.token_bytes()
    assert counts.dtype == np.int32 and np.array_equal(counts, data.tokenizer().token_bytes())


def test_training_text_is_whole(data: PreparedData) -> None:
    """The bytes of all tokens but those of the last row, which is partial, are the bytes that were read."""
    packed = int(data.token_bytes()[np.asarray(data.load_rows("train"))].sum())
    longest = int(data.token_bytes().max())
    assert data.train_bytes - ROW_TOKENS * longest <= packed <= data.train_bytes


def test_the_same_text_gives_the_same_data(data: PreparedData, contract: Contract, tmp_path: Path) -> None:
    again = prepare(contract, cache=tmp_path, say=lambda line: None)
    assert again.folder.name == data.folder.name
    for name in ("tokenizer_sha256", "val_sha256", "audit_sha256", "data_fingerprint"):
        assert getattr(again, name) == getattr(data, name)
    assert again.score_fingerprint(contract) == data.score_fingerprint(contract)


def test_another_time_budget_or_number_of_shards_needs_no_other_data(
    data: PreparedData, contract: Contract, cache: Path
) -> None:
    assert find_prepared(replace(contract, TIME_BUDGET=1.0), cache=cache) == data
    assert prepare(contract, cache=cache, num_shards=3, say=lambda line: None) == data
    assert find_prepared(contract, cache=cache, num_shards=5) == data


@pytest.mark.parametrize("change", [{"VOCAB_SIZE": 401}, {"MAX_SEQ_LEN": 16}, {"EVAL_TOKENS": 64}, {"source": "files:/other"}])
def test_other_constants_need_other_data(
    change: dict[str, int | str], data: PreparedData, contract: Contract, cache: Path
) -> None:
    with pytest.raises(UserError, match="No data is prepared"):
        find_prepared(replace(contract, **change), cache=cache)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("profile", "source", "shards", "command"),
    [
        ("cpu", None, None, "farm prepare --profile cpu --cache {cache}"),
        ("standard", None, 4, "farm prepare --profile standard --num-shards 4 --cache {cache}"),
        ("small", "stdlib", 4, "farm prepare --profile small --source stdlib --cache {cache}"),
        ("cpu", "files:/my texts", None, "farm prepare --profile cpu --source 'files:/my texts' --cache {cache}"),
    ],
)
def test_what_is_missing_is_said_with_the_command(
    profile: str, source: str | None, shards: int | None, command: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        find_prepared(contract_for(profile, source=source), cache=tmp_path, num_shards=shards)
    message = str(raised.value)
    assert f"profile {profile}" in message and f"{command.format(cache=tmp_path)}`" in message


def test_the_newest_variant_is_taken(data: PreparedData, contract: Contract, tmp_path: Path) -> None:
    """Folders for 4 and 10 shards, of which the one with 4 is newer."""
    climbmix = replace(contract, source="climbmix")
    for shards, created in ((10, 100.0), (4, 200.0)):
        folder = tmp_path / "prepared" / f"climbmix-{shards}"
        folder.mkdir(parents=True)
        for path in data.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        replace(data, folder=folder, source="climbmix", num_shards=shards, created=created).save_manifest()
    assert find_prepared(climbmix, cache=tmp_path).num_shards == 4
    assert find_prepared(climbmix, cache=tmp_path, num_shards=10).num_shards == 10
    with pytest.raises(UserError, match="--num-shards 6"):
        find_prepared(climbmix, cache=tmp_path, num_shards=6)


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_folder_is_made_again(damage: str, contract: Contract, tmp_path: Path) -> None:
    whole = prepare(contract, cache=tmp_path, say=lambda line: None)
    harm: dict[str, Callable[[], object]] = {
        "truncated": lambda: os.truncate(whole.folder / "train.rows", 100),
        "missing": lambda: (whole.folder / "tokenizer.json").unlink(),
        "manifest": lambda: (whole.folder / "manifest.json").write_text("{"),
    }
    harm[damage]()
    with pytest.raises(UserError, match="farm prepare"):
        PreparedData.load(whole.folder)
    with pytest.raises(UserError, match="No data is prepared"):
        find_prepared(contract, cache=tmp_path)
    again = prepare(contract, cache=tmp_path, say=lambda line: None)
    assert replace(again, created=0.0) == replace(whole, created=0.0)


def test_too_little_text_for_the_evaluation(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too little text: it gives 2,\d+ validation rows .* 100,000 are needed"):
        prepare(replace(contract, EVAL_TOKENS=32 * 100_000), cache=tmp_path, say=lambda line: None)
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.is_dir()] == []


def test_no_training_shards(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not 0"):
        prepare(replace(contract, source="climbmix"), cache=tmp_path, num_shards=0, say=lambda line: None)


def test_repeats_are_named_as_the_cause_of_too_little_text(contract: Contract, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("The same sentence in all files. " * 900)
    with pytest.raises(UserError, match=r"576 kB in 20 files, of which only 29 kB is left without repeats"):
        prepare(replace(contract, source=f"files:{tmp_path}"), cache=tmp_path / "cache", say=lambda line: None)


def test_an_empty_folder(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        prepare(replace(contract, source=f"files:{tmp_path}"), cache=tmp_path / "cache", say=lambda line: None)


PREPARE = """
import sys, time
from pathlib import Path
from research.contract import Contract
from research.data.prepare import prepare
started = time.process_time()
prepare(Contract.from_json(sys.argv[1]), cache=Path(sys.argv[2]), say=print)
print(f"seconds {time.process_time() - started:.3f}")
"""

FIND = """
import sys
from pathlib import Path
from research.contract import Contract
from research.data.prepare import find_prepared
data = find_prepared(Contract.from_json(sys.argv[1]), cache=Path(sys.argv[2]))
data.load_rows("train"), data.token_bytes()
print(sorted({"torch", "pyarrow", "tiktoken", "rustbpe", "huggingface_hub"} & set(sys.modules)))
"""


def start(code: str, contract: Contract, cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, contract.to_json(), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_at_once_make_the_data_once(contract: Contract, tmp_path: Path) -> None:
    processes = [start(PREPARE, contract, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sum("tokenizer: 400 tokens" in output for output in outputs) == 1
    assert all("prepared: " in output for output in outputs)
    assert sum(path.is_dir() for path in (tmp_path / "prepared").iterdir()) == 1


def test_a_killed_preparation_leaves_nothing_behind(data: PreparedData, contract: Contract, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    (prepared / f".{data.folder.name}.killed").mkdir(parents=True)
    (prepared / f".{data.folder.name}.killed" / "train.rows").write_bytes(b"half")
    assert prepare(contract, cache=tmp_path, say=lambda line: None).train_rows == data.train_rows
    assert [path.name for path in prepared.iterdir() if path.is_dir()] == [data.folder.name]


def test_a_second_call_takes_no_time_and_no_heavy_imports(data: PreparedData, contract: Contract, cache: Path) -> None:
    process = start(PREPARE, contract, cache)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "tokenizer:" not in output
    assert float(output.split("seconds ")[1]) < 0.4, "of a core"

    output, _ = start(FIND, contract, cache).communicate(timeout=60)
    assert output.strip() == "[]"


def test_the_cpu_profile_on_the_packages_of_this_environment(tmp_path: Path) -> None:
    contract = contract_for("cpu")
    started = time.monotonic()
    data = prepare(contract, cache=tmp_path, say=lambda line: None)
    assert in_time(started, 20)
    assert data.val_rows == data.audit_rows == 256
    assert data.train_bytes > 5_000_000
    assert (data.source, data.train_documents > 1000) == ("packages", True)
    assert not any(is_needed(Path(path)) for path in data.hidden_paths)


def test_a_number_of_shards_for_text_without_any_is_one_line(contract: Contract, cache: Path) -> None:
    """Whether the data is prepared now or was already."""
    prepare(contract, cache=cache, say=lambda line: None)
    for find in (prepare, find_prepared):
        told: list[str] = []
        find(contract, cache=cache, num_shards=4, say=told.append)
        assert len([line for line in told if "--num-shards 4" in line and "ignored" in line]) == 1
        told.clear()
        find(contract, cache=cache, say=told.append)
        assert not any("--num-shards" in line for line in told)


def test_a_cache_that_cannot_be_written_is_one_line_with_its_option(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (Path("/proc/nothing"), tmp_path / "file" / "cache"):
        with pytest.raises(UserError, match=f"The cache {cache} can't be written .*--cache") as error:
            prepare(contract, cache=cache, say=lambda line: None)
        assert "\n" not in str(error.value)


def test_no_smaller_profile_is_advised_where_there_is_none() -> None:
    source = Source(name="stdlib", revision="r", text_bytes=1, documents=lambda split: iter(()), repeats=False, disjoint=True,
                    tokenizer_documents=lambda: iter(()), hidden_paths=())  # fmt: skip
    assert add_text(contract_for("cpu"), source) == "Add text."
    assert "choose a smaller --profile" in add_text(contract_for("standard"), source)
