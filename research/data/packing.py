"""Best-fit packing of tokenized documents into rows of one length. Pure: no files, no clock, no randomness.

Every row is full and starts with BOS, and a BOS precedes every piece of a document in it. Each token of each document is in
exactly one row, except for those of the last, partial row, which is dropped. The rows depend only on the documents and their
order.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint16]

BUFFER_PIECES = 4096
"""Number of pieces to choose from: at most 17 MB at 2,048 tokens per piece."""


class PieceBuffer:
    """Pieces of documents, found by length in constant time."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[Tokens]] = {}
        self._lengths = 0  # bit n is set while a piece of n tokens is here
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, piece: Tokens) -> None:
        self._queues.setdefault(len(piece), deque()).append(piece)
        self._lengths |= 1 << len(piece)
        self._count += 1

    def take(self, room: int) -> Tokens:
        """Removes and returns the longest piece of at most `room` tokens.

        If none fits, returns the first `room` tokens of the longest piece, whose other tokens stay in the buffer as a new
        piece. The buffer must not be empty.
        """
        fitting = self._lengths & ((1 << (room + 1)) - 1)
        if fitting:
            return self._remove(fitting.bit_length() - 1)
        longest = self._remove(self._lengths.bit_length() - 1)
        self.add(longest[room:])
        return longest[:room]

    def _remove(self, length: int) -> Tokens:
        queue = self._queues[length]
        piece = queue.popleft()
        if not queue:
            self._lengths &= ~(1 << length)
        self._count -= 1
        return piece


def split_document(tokens: Tokens, room: int) -> Iterator[Tokens]:
    """Splits a document into pieces of `room` tokens and a shorter last one. An empty document has no pieces."""
    for start in range(0, len(tokens), room):
        piece = tokens[start : start + room]
        # A short tail may wait long in the buffer: as a view it would keep its whole document in memory.
        yield piece.copy() if start and len(piece) < room else piece


def pack(documents: Iterable[Tokens], *, row_tokens: int, bos: int, buffer_pieces: int = BUFFER_PIECES) -> Iterator[Tokens]:
    """Rows of shape (row_tokens,), uint16, from `documents` (uint16, without BOS), which are read lazily."""
    pieces = (piece for document in documents for piece in split_document(document, row_tokens - 1))
    buffer = PieceBuffer()
    while True:
        row = np.empty(row_tokens, dtype=np.uint16)
        filled = 0
        while filled < row_tokens:
            _refill(buffer, pieces, buffer_pieces)
            if not buffer:
                return
            piece = buffer.take(row_tokens - filled - 1)
            row[filled] = bos
            row[filled + 1 : filled + 1 + len(piece)] = piece
            filled += 1 + len(piece)
        yield row


def _refill(buffer: PieceBuffer, pieces: Iterator[Tokens], wanted: int) -> None:
    while len(buffer) < wanted:
        piece = next(pieces, None)
        if piece is None:
            return
        buffer.add(piece)
