"""Sequences of records of which those are read that are looked at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar, overload

Key = TypeVar("Key")
Record = TypeVar("Record")

AT_ONCE = 256
"""The most records that are read at once while somebody goes through them."""


class OnDemand(Sequence[Record], Generic[Key, Record]):
    """Records in an order, found by keys."""

    def __init__(self, find: Callable[[], Sequence[Key]], read: Callable[[Sequence[Key]], list[Record]]) -> None:
        """`find` returns the keys, and is called when they are first looked at."""
        self._find, self._read = find, read

    @cached_property
    def keys(self) -> Sequence[Key]:
        """What the records are found by, in their order."""
        return self._find()

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return self._read(self.keys[index])
        return self._read([self.keys[index]])[0]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Record]:
        return self._in_parts(range(len(self.keys)))

    def __reversed__(self) -> Iterator[Record]:
        return self._in_parts(range(len(self.keys))[::-1])

    def _in_parts(self, places: range) -> Iterator[Record]:
        """The records at these places, of which more are read at once the more are asked for."""
        begin, size = 0, 1
        while begin < len(places):
            yield from self._read([self.keys[place] for place in places[begin : begin + size]])
            begin, size = begin + size, min(2 * size, AT_ONCE)


class MappingOnDemand(Mapping[str, Record], Generic[Key, Record]):
    """Records by their names, found by keys."""

    def __init__(self, keys: Mapping[str, Key], read: Callable[[Key], Record]) -> None:
        self._keys, self._read = keys, read

    def __getitem__(self, name: str) -> Record:
        return self._read(self._keys[name])

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)
