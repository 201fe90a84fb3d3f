"""Mappings and sequences that never change and are cheap to extend, for what gains an entry with each record of a history.

A dict or a tuple that is copied for each new entry takes a time that grows with the square of the history.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any, TypeVar, overload

Key = TypeVar("Key")
Value = TypeVar("Value")
Record = TypeVar("Record")

FEWEST_NEW = 64
"""How many new entries of a mapping are copied for each further one, however few old ones there are."""


def with_fields(record: Record, **fields: Any) -> Record:
    """A copy of a frozen dataclass with other values, as `dataclasses.replace` makes it, without its checks.

    It takes a tenth of the time: a long history makes millions. For dataclasses without slots and `__post_init__`.
    """
    made: Record = object.__new__(type(record))
    made.__dict__.update(record.__dict__)
    made.__dict__.update(fields)
    return made


class _Gone(Enum):
    """What stands for an entry that was removed."""

    GONE = "gone"


class GrowingMapping(Mapping[Key, Value]):
    """A mapping in the order in which its keys first came. `with_entry` takes a time that hardly grows with its size.

    Old entries are in a dict that all versions share, new ones in a small one that each version copies. When there are many new
    ones, both become a dict that is shared again.
    """

    __slots__ = ("_length", "_new", "_old")

    def __init__(self, entries: Mapping[Key, Value] | Iterable[tuple[Key, Value]] = ()) -> None:
        self._old: dict[Key, Value] = dict(entries)
        self._new: dict[Key, Value | _Gone] = {}
        self._length = len(self._old)

    def with_entry(self, key: Key, value: Value) -> "GrowingMapping[Key, Value]":
        """The mapping with this entry, in the place of an earlier one with this key."""
        return self._with(key, value, self._length + (key not in self))

    def with_entries(self, entries: Mapping[Key, Value]) -> "GrowingMapping[Key, Value]":
        """The mapping with all of these entries."""
        made = self
        for key, value in entries.items():
            made = made.with_entry(key, value)
        return made

    def without(self, key: Key) -> "GrowingMapping[Key, Value]":
        """The mapping without this key, which must be in it."""
        assert key in self
        return self._with(key, _Gone.GONE, self._length - 1)

    def _with(self, key: Key, value: Value | _Gone, length: int) -> "GrowingMapping[Key, Value]":
        made: GrowingMapping[Key, Value] = GrowingMapping.__new__(GrowingMapping)
        made._old, made._new, made._length = self._old, {**self._new, key: value}, length
        many = len(made._new) > FEWEST_NEW and len(made._new) ** 2 > len(self._old)
        return GrowingMapping(made._entries()) if many else made

    def _entries(self) -> dict[Key, Value]:
        """All entries in one dict."""
        merged = {**self._old, **self._new}
        if len(merged) == self._length:  # nothing was removed, and looking for it takes most of the time
            return merged  # type: ignore[return-value]
        return {key: value for key, value in merged.items() if value is not _Gone.GONE}

    def __getitem__(self, key: Key) -> Value:
        value = self._new[key] if key in self._new else self._old[key]
        if value is _Gone.GONE:
            raise KeyError(key)
        return value

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key; `default` if there is none."""
        value = self._new[key] if key in self._new else self._old.get(key, default)
        return default if value is _Gone.GONE else value

    def __contains__(self, key: object) -> bool:
        return self._new[key] is not _Gone.GONE if key in self._new else key in self._old

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries() if self._new else self._old)

    def __repr__(self) -> str:
        return f"GrowingMapping({self._entries()!r})"


class GrowingSequence(Sequence[Value]):
    """A sequence. `with_item` makes a longer one in a time that does not grow with its size.

    All versions share one list, of which each is a first part. One thread at a time may make longer ones.
    """

    __slots__ = ("_items", "_length")

    def __init__(self, items: Iterable[Value] = ()) -> None:
        self._items = list(items)
        self._length = len(self._items)

    def begins(self, longer: "GrowingSequence[Value]") -> bool:
        """Whether a longer one was made from this, item by item, in the list that both share."""
        return self._items is longer._items and self._length <= longer._length

    def with_item(self, item: Value) -> "GrowingSequence[Value]":
        """The sequence with one more item at its end."""
        made: GrowingSequence[Value] = GrowingSequence.__new__(GrowingSequence)
        is_longest = len(self._items) == self._length
        made._items, made._length = self._items if is_longest else self._items[: self._length], self._length + 1
        made._items.append(item)
        return made

    @overload
    def __getitem__(self, index: int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...

    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        if isinstance(index, slice):
            return [self._items[i] for i in range(*index.indices(self._length))]
        return self._items[range(self._length)[index]]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Value]:
        return islice(self._items, self._length)

    def __reversed__(self) -> Iterator[Value]:
        return (self._items[index] for index in range(self._length - 1, -1, -1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GrowingSequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"GrowingSequence({list(self)!r})"
