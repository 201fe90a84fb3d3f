"""The tokenizer: exact bytes, nothing lost, the same every time."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from research.data import tokenizer as tokenizers
from research.data.documents import list_files
from research.data.tokenizer import Tokenizer, check_roundtrip, encode_all, train_tokenizer
from research.errors import UserError

VOCAB_SIZE = 600


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Source code of Python's json and email packages: half a megabyte."""
    folders = [Path(json.__file__).parent, Path(json.__file__).parent.parent / "email"]
    return [path.read_text() for folder in folders for path in list_files(folder, suffix=".py")]


@pytest.fixture(scope="module")
def tokenizer(documents: list[str]) -> Tokenizer:
    return train_tokenizer(documents, vocab_size=VOCAB_SIZE)


def test_it_has_the_vocabulary_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == VOCAB_SIZE == tokenizer.encoding.n_vocab
    assert tokenizer.bos == VOCAB_SIZE - 4 == tokenizer.encoding.encode_single_token("<|reserved_0|>")
    assert tokenizer.encoding.special_tokens_set == {f"<|reserved_{i}|>" for i in range(4)}


def test_training_twice_gives_the_same_tokenizer(tokenizer: Tokenizer, documents: list[str]) -> None:
    assert train_tokenizer(iter(documents), vocab_size=VOCAB_SIZE).sha256() == tokenizer.sha256()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words",
        "Ünïcödé 你好 👩‍👩‍👧‍👦 \u202e",
        "\x00\x01\x7f",
        "tabs\t\r\n\n  ",
        "<|reserved_0|> is text",
        "\ufffd",
    ],
)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    check_roundtrip(tokenizer, text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.bos not in tokenizer.encode(text)


def test_random_unicode_comes_back_byte_by_byte(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    for _ in range(200):
        codes = (chance.choice((chance.randrange(0xD800), chance.randrange(0xE000, 0x110000))) for _ in range(40))
        check_roundtrip(tokenizer, "".join(map(chr, codes)))


def test_bos_is_put_before_on_request(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hello", bos=True) == [tokenizer.bos, *tokenizer.encode("hello")]


def test_a_lone_byte_counts_as_one_byte(tokenizer: Tokenizer) -> None:
    counts = tokenizer.token_bytes()
    assert counts.dtype == np.int32 and counts.shape == (VOCAB_SIZE,)
    for byte in range(256):
        token = tokenizer.encoding.encode_single_token(bytes([byte]))
        assert counts[token] == 1
    # decoded by itself this token is U+FFFD, which has three bytes
    assert len(tokenizer.decode([tokenizer.encoding.encode_single_token(b"\xf0")]).encode()) == 3


def test_special_tokens_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes()[-4:].tolist() == [0, 0, 0, 0]
    assert (tokenizer.token_bytes()[:-4] > 0).all()


def test_it_is_stored_as_plain_json(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    assert set(json.loads(path.read_text())) == {"pattern", "special_tokens", "ranks"}
    loaded = Tokenizer.load(path)
    assert loaded == tokenizer and loaded.sha256() == tokenizer.sha256()
    assert loaded.encode("the same ids") == tokenizer.encode("the same ids")


def test_too_little_text_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="oo little text for a vocabulary of 8,192"):
        train_tokenizer(["only a few words"], vocab_size=8192)


@pytest.mark.parametrize("vocab_size", [100, 2**16 + 1])
def test_a_vocabulary_that_cannot_be(vocab_size: int) -> None:
    with pytest.raises(UserError, match="from 260 to 65536 tokens"):
        train_tokenizer(["text"], vocab_size=vocab_size)


def test_training_reads_no_more_than_its_share(documents: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "TRAINING_CHARACTERS", 100_000)
    few = train_tokenizer(documents, vocab_size=VOCAB_SIZE)
    more = train_tokenizer([*documents, *(text.upper() for text in documents)], vocab_size=VOCAB_SIZE)
    assert few.sha256() == more.sha256()


@pytest.mark.parametrize("text", [" " * 3_000_000, "a" * 1_000_000, "\n" * 1_000_000, "word " * 300_000])
def test_very_long_documents_are_encoded(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_document(text)
    assert ids.dtype == np.uint16
    assert tokenizer.token_bytes()[ids].sum() == len(text)


def test_threads_keep_the_order_of_documents(
    tokenizer: Tokenizer, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "BATCH_CHARACTERS", 20_000)
    one_by_one = [tokenizer.encode_document(text) for text in documents]
    for threads in (1, 4):
        together = list(encode_all(documents, tokenizer, threads=threads))
        assert len(together) == len(one_by_one)
        assert all(np.array_equal(a, b) for a, b in zip(together, one_by_one, strict=True))


def test_encoding_reads_only_a_little_ahead(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "BATCH_CHARACTERS", 1_000)
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "words " * 50

    encoded = encode_all(endless(), tokenizer, threads=2)
    assert len(list(islice(encoded, 10))) == 10
    encoded.close()
    assert read < 100
