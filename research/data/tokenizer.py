"""The byte-pair tokenizer: trained by rustbpe, used as a tiktoken encoding, stored as JSON."""

import base64
import hashlib
import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from research.cpu_cores import usable_cores
from research.data.packing import Tokens
from research.errors import UserError

if TYPE_CHECKING:
    import tiktoken

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""The pattern that splits text before merging: GPT-4's, with numbers of at most two digits, as in the original."""

SPECIAL_TOKENS = tuple(f"<|reserved_{i}|>" for i in range(4))
"""The special tokens, which have the last ids of the vocabulary. The first one is BOS."""

TRAINING_CHARACTERS = 200_000_000
"""Characters of text that the tokenizer is trained on, at most."""

TRAINING_DOCUMENT_CHARACTERS = 10_000
"""Characters used of each document, at most, so that a few long ones don't shape the vocabulary."""

SEGMENT_CHARACTERS = 200_000
"""Characters of the segments that longer text is encoded in: the split pattern overflows the stack on a million spaces."""

BATCH_CHARACTERS = 500_000
"""Characters that a thread encodes at a time."""

ROUNDTRIP_SAMPLES = (
    "Hello world! Numbers: 123, 4567.89 and it's TIME.\n\n\tdef f(x):\r\n    return x  \n",
    "Ünïcödé, 你好, здравствуйте, שלום, 👩‍👩‍👧‍👦, \u200b\ufeff\x00\x7f, e\u0301, <|reserved_0|>",
)


class TooLittleText(UserError):
    """There is not enough text to prepare."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text to token ids and back. Ids 0 .. n-1 are `ranks`, the special tokens follow."""

    pattern: str
    ranks: tuple[bytes, ...]
    """The bytes of each ordinary token, by id."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.ranks) + len(SPECIAL_TOKENS)

    @property
    def bos(self) -> int:
        """Id of the token that starts every document."""
        return len(self.ranks)

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        """This tokenizer as a tiktoken encoding."""
        import tiktoken

        return tiktoken.Encoding(
            name="autoresearch",
            pat_str=self.pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.ranks)},
            special_tokens={name: len(self.ranks) + i for i, name in enumerate(SPECIAL_TOKENS)},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Ids of `text`, preceded by BOS if `bos`. The names of special tokens are encoded as ordinary text."""
        ids = self.encode_document(text).tolist()
        return [self.bos, *ids] if bos else ids

    def encode_document(self, text: str) -> Tokens:
        """Ids of `text` without BOS, uint16 of shape (tokens,)."""
        parts = [self.encoding.encode_to_numpy(part, disallowed_special=()) for part in _segments(text)]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.encoding.decode(list(ids))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of `ids`, exactly as they were encoded."""
        return self.encoding.decode_bytes(list(ids))

    def token_bytes(self) -> NDArray[np.int32]:
        """UTF-8 bytes per token, int32 of shape (vocab_size,); 0 for the special tokens.

        They are counted from a token's own bytes: half a character, decoded by itself, would become U+FFFD, which has three.
        """
        return np.array([len(token) for token in self.ranks] + [0] * len(SPECIAL_TOKENS), dtype=np.int32)

    def to_json(self) -> str:
        ranks = [base64.b64encode(token).decode() for token in self.ranks]
        return json.dumps({"pattern": self.pattern, "special_tokens": SPECIAL_TOKENS, "ranks": ranks})

    @staticmethod
    def from_json(text: str) -> "Tokenizer":
        values = json.loads(text)
        return Tokenizer(pattern=values["pattern"], ranks=tuple(base64.b64decode(token) for token in values["ranks"]))

    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        path.write_text(self.to_json())

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        return Tokenizer.from_json(path.read_text())


def train_tokenizer(documents: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` tokens, from the first TRAINING_CHARACTERS of `documents`.

    The same documents give the same tokenizer. Raises UserError if there is too little text for that many merges.
    """
    import rustbpe

    if not 256 + len(SPECIAL_TOKENS) <= vocab_size <= 2**16:
        raise UserError(f"VOCAB_SIZE must be from {256 + len(SPECIAL_TOKENS)} to {2**16} tokens, not {vocab_size}.")
    ordinary = vocab_size - len(SPECIAL_TOKENS)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_training_text(documents), ordinary, pattern=SPLIT_PATTERN)
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    if len(ranks) < ordinary:
        enough = len(ranks) + len(SPECIAL_TOKENS)
        raise TooLittleText(f"Too little text for a vocabulary of {vocab_size:,} tokens: it is enough for {enough:,}.")
    tokenizer = Tokenizer(pattern=SPLIT_PATTERN, ranks=tuple(token for _, token in ranks))
    for sample in ROUNDTRIP_SAMPLES:
        check_roundtrip(tokenizer, sample)
    return tokenizer


def check_roundtrip(tokenizer: Tokenizer, text: str) -> None:
    """Raises RuntimeError unless decoding the tokens of `text` gives the same bytes."""
    ids = tokenizer.encode_document(text)
    raw = text.encode()
    if tokenizer.decode_bytes(ids.tolist()) != raw or tokenizer.token_bytes()[ids].sum() != len(raw):
        raise RuntimeError(f"The tokenizer loses text: {text[:60]!r}")


def encode_all(documents: Iterable[str], tokenizer: Tokenizer, *, threads: int | None = None) -> Generator[Tokens]:
    """The tokens of each document, uint16 without BOS, in order.

    Threads (default: one per usable core) encode a few batches ahead, since tiktoken releases the interpreter lock.
    """
    threads = threads or usable_cores()
    batches = _batches(documents)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[list[Tokens]]] = deque()
        try:
            for batch in batches:
                ahead.append(pool.submit(_encode_batch, tokenizer, batch))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _encode_batch(tokenizer: Tokenizer, batch: list[str]) -> list[Tokens]:
    return [tokenizer.encode_document(text) for text in batch]


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _segments(text: str) -> Iterator[str]:
    """`text` in parts of at most SEGMENT_CHARACTERS, cut at the end of a line if possible."""
    start = 0
    while len(text) - start > SEGMENT_CHARACTERS:
        limit = start + SEGMENT_CHARACTERS
        end = text.rfind("\n", start + SEGMENT_CHARACTERS // 2, limit) + 1 or limit
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _training_text(documents: Iterable[str]) -> Iterator[str]:
    characters = 0
    for text in documents:
        part = text[:TRAINING_DOCUMENT_CHARACTERS]
        yield part
        characters += len(part)
        if characters >= TRAINING_CHARACTERS:
            return
