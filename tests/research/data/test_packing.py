"""What best-fit packing promises, on documents whose tokens are all different, so that each can be followed."""

import random
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import pytest

from research.data.packing import PieceBuffer, Tokens, pack, split_document

BOS = 0


def numbered_documents(lengths: list[int]) -> list[Tokens]:
    """Documents of the given lengths whose tokens count on from 1."""
    assert sum(lengths) < 2**16
    ends = np.cumsum([1, *lengths])
    return [np.arange(start, end, dtype=np.uint16) for start, end in pairwise(ends)]


def random_lengths(seed: int, *, total: int = 60_000, longest: int = 300) -> list[int]:
    chance = random.Random(seed)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(int(chance.paretovariate(0.8)) % longest)
    return lengths


def pieces_of(rows: list[Tokens]) -> list[list[int]]:
    """What stands between one BOS and the next, or the row's end."""
    pieces: list[list[int]] = []
    for row in rows:
        for token in row.tolist():
            if token == BOS:
                pieces.append([])
            else:
                pieces[-1].append(token)
    return pieces


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("row_tokens", [2, 17, 129])
@pytest.mark.parametrize("buffer_pieces", [1, 64])
def test_every_row_is_full_and_nothing_is_lost(seed: int, row_tokens: int, buffer_pieces: int) -> None:
    lengths = random_lengths(seed, total=20_000)
    rows = list(pack(numbered_documents(lengths), row_tokens=row_tokens, bos=BOS, buffer_pieces=buffer_pieces))

    assert all(len(row) == row_tokens and row.dtype == np.uint16 for row in rows)
    assert all(row[0] == BOS for row in rows)
    placed = [token for piece in pieces_of(rows) for token in piece]
    assert len(placed) == len(set(placed)), "a token is in two rows"
    missing = set(range(1, sum(lengths) + 1)) - set(placed)
    assert len(missing) < row_tokens, "more is missing than a partial row"


@pytest.mark.parametrize("seed", range(5))
def test_a_piece_is_an_unbroken_part_of_one_document(seed: int) -> None:
    documents = numbered_documents(random_lengths(seed))
    document_of = {token: n for n, document in enumerate(documents) for token in document.tolist()}
    rows = list(pack(documents, row_tokens=65, bos=BOS, buffer_pieces=128))
    for piece in pieces_of(rows):
        assert all(after == before + 1 for before, after in pairwise(piece))
        assert len({document_of[token] for token in piece}) <= 1


def test_the_longest_piece_that_fits_is_placed_first() -> None:
    documents = numbered_documents([3, 7, 2, 5, 2])
    first, second = pack(documents, row_tokens=12, bos=BOS)
    assert first.tolist() == [BOS, *range(4, 11), BOS, *range(1, 4)]  # 7 tokens, then 3: not the 2 that came before 5
    assert second.tolist() == [BOS, *range(13, 18), BOS, 11, 12, BOS, 18, 19]


def test_when_nothing_fits_the_longest_is_split_and_its_tail_kept() -> None:
    documents = numbered_documents([5, 6])
    rows = list(pack(documents, row_tokens=10, bos=BOS))
    # 6 tokens and the first 2 of the 5 fill a row; the other 3 would be in the next, which isn't full
    assert [row.tolist() for row in rows] == [[BOS, *range(6, 12), BOS, 1, 2]]


def test_room_for_one_token_is_filled_with_bos_alone() -> None:
    documents = numbered_documents([4, 4, 4])
    rows = list(pack(documents, row_tokens=6, bos=BOS))
    assert rows[0].tolist() == [BOS, 1, 2, 3, 4, BOS]
    assert (rows[1][0], rows[1][-1]) == (BOS, BOS)
    assert len(rows) == 2 and pieces_of(rows) == [[1, 2, 3, 4], [], [9, 10, 11, 12], []]


def test_a_long_document_is_split_into_rows_that_each_start_with_bos() -> None:
    [document] = numbered_documents([95])
    rows = list(pack([document], row_tokens=10, bos=BOS))
    assert len(rows) == 10
    assert [row.tolist() for row in rows] == [[BOS, *range(9 * n + 1, 9 * n + 10)] for n in range(10)]
    assert [len(piece) for piece in split_document(document, 9)] == [9] * 10 + [5]


def test_empty_documents_and_no_documents() -> None:
    empty = np.array([], dtype=np.uint16)
    assert list(pack([], row_tokens=8, bos=BOS)) == []
    assert list(pack([empty, empty], row_tokens=8, bos=BOS)) == []


def test_the_same_documents_give_the_same_rows_however_they_arrive() -> None:
    documents = numbered_documents(random_lengths(7))
    at_once = np.stack(list(pack(documents, row_tokens=33, bos=BOS)))
    one_by_one = np.stack(list(pack((document.copy() for document in documents), row_tokens=33, bos=BOS)))
    assert np.array_equal(at_once, one_by_one)


def test_documents_are_read_only_as_they_are_needed() -> None:
    read = 0

    def endless() -> Iterator[Tokens]:
        nonlocal read
        while True:
            read += 1
            yield np.ones(10, dtype=np.uint16)

    rows = list(islice(pack(endless(), row_tokens=33, bos=BOS, buffer_pieces=100), 50))
    assert len(rows) == 50
    assert read <= 100 + 50 * 3


def test_few_documents_are_split_when_there_is_a_choice() -> None:
    lengths = [length for length in random_lengths(3, longest=100) if length]
    rows = list(pack(numbered_documents(lengths), row_tokens=129, bos=BOS, buffer_pieces=512))
    pieces = [piece for piece in pieces_of(rows) if piece]
    assert len(pieces) < 1.02 * len(lengths)


def test_the_buffer_finds_by_length() -> None:
    buffer = PieceBuffer()
    for length in (2048, 1, 64, 63):
        buffer.add(np.zeros(length, dtype=np.uint16))
    assert [len(buffer.take(room)) for room in (63, 63, 100, 2048)] == [63, 1, 64, 2048]
    assert len(buffer) == 0
