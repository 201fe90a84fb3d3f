"""Documents in JSON: records in the lines of a file, or in one value that is the whole file.

A record is an object with a field that holds its text, or a string, which is its own text.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any

TEXT_FIELD = "text"
"""Default name of the field of a JSON record, or the column of a Parquet file, that holds a document's text."""

SAMPLED_RECORDS = 1000
"""Records that are searched for the names of their fields."""

MOST_FIELDS = 100
"""Different fields that are counted in records without the requested one."""

BROKEN = object()
"""Stands for a line that is not JSON."""


@dataclass(kw_only=True)
class LeftOut:
    """What is in a file beside the records with text, counted as they pass."""

    broken: int = 0
    """Lines that are not JSON."""
    fields: Counter[str] = field(default_factory=Counter)
    """The fields in which records without the requested one hold text, with its characters."""

    def add(self, record: Any) -> None:
        """Counts a record without the requested text."""
        self.broken += record is BROKEN
        for name, value in record.items() if isinstance(record, dict) else ():
            if isinstance(value, str) and value and (name in self.fields or len(self.fields) < MOST_FIELDS):
                self.fields[name] += len(value)


def json_texts(file: IO[str], field: str, left_out: LeftOut | None = None) -> Iterator[str | None]:
    """The text of each record of an open file; None for a record without it, and for a line that is not JSON.

    Lines end at a line feed alone, and `left_out` counts what has no text: open the file with `newline="\\\\n"`.
    """
    for record in _records(file, field):
        text = _text_of(record, field)
        if not text and left_out is not None:
            left_out.add(record)
        yield text


def json_fields(file: IO[str]) -> tuple[list[str], list[str]]:
    """The fields that hold text in the first records, the longest text first, and the other fields."""
    characters: Counter[str] = Counter()
    others: dict[str, None] = {}
    for record, _ in zip(_records(file, ""), range(SAMPLED_RECORDS), strict=False):
        for name, value in record.items() if isinstance(record, dict) else ():
            if isinstance(value, str):
                characters[name] += len(value)
            else:
                others[name] = None
    return [name for name, _ in characters.most_common()], [name for name in others if name not in characters]


def is_cut_off(file: IO[str]) -> bool:
    """Whether an open file is one value in JSON that ends before it is complete."""
    text = file.read().rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return bool(text) and (error.pos >= len(text) or error.msg.startswith("Unterminated string"))
    except RecursionError:
        pass
    return False


def _records(file: IO[str], field: str) -> Iterator[Any]:
    """The records of an open file, BROKEN for a line that is not JSON."""
    lines = (line for line in file if line.strip())
    first, second = next(lines, ""), next(lines, "")
    value = _parsed(first)
    if second and (isinstance(value, dict | str) or first.lstrip()[:1] not in ("{", "[")):
        yield value
        yield from (_parsed(line) for line in chain([second], lines))
        return
    text = first + second + file.read()
    whole = _parsed(text)
    yield from _members(whole, field) if whole is not BROKEN else map(_parsed, filter(str.strip, text.split("\n")))


def _members(value: Any, field: str) -> Iterable[Any]:
    """The records in one JSON value: those of an array, of the only array in an object, or of a column; else the value."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or isinstance(value.get(field), str):
        return [value]
    column = value.get(field)
    if isinstance(column, dict):  # as pandas writes a column
        column = list(column.values())
    if isinstance(column, list):
        return column
    arrays = [inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict | str)]
    return arrays[0] if len(arrays) == 1 else [value]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return BROKEN


def _text_of(record: Any, field: str) -> str | None:
    text = record.get(field) if isinstance(record, dict) else record
    if not isinstance(text, str):
        return None
    # JSON can hold half a surrogate pair, which no UTF-8 text can.
    return text.encode("utf-8", "replace").decode()
