"""What a reference finds in the home that is written for it: our documents, our ids, our attention."""

import pickle
import random
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from benchmarks.reference_home import (
    REFERENCE_BUFFER,
    SHARD_DOCUMENTS,
    VALIDATION_SPARE,
    write_home,
    write_shard,
    write_stand_ins,
    write_tokenizer,
)
from research.contract import Contract
from research.data.prepare import prepare
from research.data.tokenizer import ROUNDTRIP_SAMPLES, Tokenizer, train_tokenizer
from research.kernels.attention import causal_attention

WORDS = ("the", "judge", "keeps", "time", "größer", "naïve", "модель", "模型", "x = 12", "\n\n", "    return", "<|reserved_0|>")


def documents(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"{number} " + " ".join(rng.choices(WORDS, k=rng.randint(20, 120))) for number in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(documents(300, seed=1), vocab_size=400)


def test_the_pickled_encoding_gives_our_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer)
    encoding = pickle.loads((tmp_path / "tokenizer.pkl").read_bytes())
    assert encoding.n_vocab == tokenizer.vocab_size
    assert encoding.encode_single_token("<|reserved_0|>") == tokenizer.bos
    texts = [*documents(20, seed=2), *ROUNDTRIP_SAMPLES]
    assert encoding.encode_ordinary_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_token_bytes_are_counted_as_the_reference_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer)
    lengths = torch.load(tmp_path / "token_bytes.pt")
    assert lengths.dtype == torch.int32 and lengths.shape == (tokenizer.vocab_size,)
    assert lengths[tokenizer.bos :].tolist() == [0, 0, 0, 0]
    ours = torch.from_numpy(tokenizer.token_bytes())
    half = tokenizer.ranks.index(b"\xc3")
    assert lengths[half] == 3 and ours[half] == 1
    whole = [token for token, raw in enumerate(tokenizer.ranks) if raw.isascii()]
    assert torch.equal(lengths[whole], ours[whole])


def test_a_shard_holds_documents_in_order(tmp_path: Path) -> None:
    texts = documents(2500, seed=3)
    path = tmp_path / "data" / "shard_00000.parquet"
    assert write_shard(path, texts) == len(texts)
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.read_row_group(n).column("text").to_pylist() for n in range(file.num_row_groups)]
    assert len(groups) == 3 and [text for group in groups for text in group] == texts


def test_nothing_makes_no_shard(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "shard_00000.parquet", []) == 0
    assert not any(tmp_path.iterdir())


def test_a_home_has_our_documents_and_is_written_once(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, text in enumerate(documents(600, seed=4)):
        (texts / f"{number}.txt").write_text(text)
    contract = Contract(
        profile="cpu", MAX_SEQ_LEN=32, TIME_BUDGET=1.0, EVAL_TOKENS=32 * 40, VOCAB_SIZE=400, source=f"files:{texts}"
    )
    data = prepare(contract, cache=tmp_path / "cache", say=lambda line: None)
    home = tmp_path / "home"
    write_home(home, contract, data, cache=tmp_path / "cache")

    shards = sorted((home / ".cache" / "autoresearch" / "data").iterdir())
    assert [path.name for path in shards] == ["shard_00000.parquet", "shard_06542.parquet"]
    train, val = (pyarrow.parquet.read_table(path).column("text").to_pylist() for path in shards)
    assert len(train) == data.train_documents < SHARD_DOCUMENTS
    assert data.val_documents <= len(val) <= VALIDATION_SPARE * data.val_documents + REFERENCE_BUFFER
    assert not set(train) & set(val)
    assert set(train) | set(val) <= {path.read_text() for path in texts.iterdir()}

    before = shards[0].stat().st_mtime_ns
    write_home(home, contract, data, cache=tmp_path / "cache")
    assert shards[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(("left", "window"), [(8, 9), (32, 32), (-1, 32)])
def test_the_stand_in_for_flash_attention_attends_as_sdpa(
    left: int, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stand_ins(tmp_path)
    for name in ("kernels", "kernels.flash_attn_interface"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    from kernels import get_kernel

    q, k, v = torch.randn(3, 2, 32, 4, 16)
    interface = get_kernel("someone/flash-attention").flash_attn_interface
    found = interface.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
    distance = torch.arange(32)[:, None] - torch.arange(32)
    mask = (distance >= 0) & (distance <= left if left >= 0 else distance >= 0)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, causal_attention(q, k, v, window=window))
    # float32 queries beside bfloat16 values, as autocast makes them, don't choose another kernel
    mixed = interface.flash_attn_func(q, k, v.bfloat16(), causal=True, window_size=(left, 0))
    assert mixed.dtype == torch.bfloat16
    for name in ("kernels", "kernels.flash_attn_interface"):
        sys.modules.pop(name, None)
