"""Damage to a journal: what a farm does about it, which is to stop, and its repair, which a person asks for.

A line that can't be read any more is taken from the database if that still has it, as it does unless it was rebuilt since; else
it is left out. The damaged file is kept.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from research.files import free_beside, replacing
from research.formatting import counted, one_line, utc_now
from results.journal import DamagedLine, JournalRecord, decoded, encoded
from results.table_rows import AUDIT_FIELDS, TABLES

REPAIRED, NUMBERS_TAKEN = "journal_repaired", "numbers_taken"
"""The kinds of the events that record a repair, and the highest number that a branch has given out."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What a repair does, line by line."""

    journal: Path
    damaged: tuple[DamagedLine, ...]
    found: dict[int, JournalRecord]
    """By the number of the damaged line, what the database has of it; all that it has where no line is whole."""

    def lines(self) -> list[str]:
        """What is done with each damaged line, in words."""
        lines = [f"line {line.number} ({line.problem}): {self._fate(line)}" for line in self.damaged]
        more = len(self.found.keys() - {line.number for line in self.damaged})
        return [*lines, f"{counted(more, 'more record')}: written anew from the database"] if more else lines

    def _fate(self, line: DamagedLine) -> str:
        record = self.found.get(line.number)
        if record is None:
            return "left out; nothing else has it"
        without = ", without its audit score" if record.kind == "run" else ""
        return f"written anew from the database: {one_line(record.id, 80)}{without}"


def plan_repair(journal: Path) -> Repair:
    """What a repair would do. Nothing is changed."""
    damaged, places = [], list(_places(journal))
    for _, _, record in places:
        if isinstance(record, DamagedLine):
            damaged.append(record)
    found: dict[int, JournalRecord] = {}
    databases = sorted(journal.parent.glob("farm.duckdb*"), key=lambda path: (len(path.name), path.name))
    for database in databases if damaged else ():
        if database.suffix != ".wal":
            found = {**_rows_of(database, places), **found}
    return Repair(journal=journal, damaged=tuple(damaged), found=found)


def repair(plan: Repair, numbers: Iterable[tuple[str, int]]) -> Path:
    """Writes the journal without damage, and returns the copy of what it was. No other process may have the journal open.

    `numbers` are the highest numbers of experiments that branches have given out, as far as git knows.
    """
    journal = plan.journal
    copy = free_beside(journal)
    shutil.copy2(journal, copy)
    with replacing(journal) as temporary, temporary.open("wb") as file:
        for number, line, record in _places(journal):
            if not isinstance(record, DamagedLine):
                file.write(line)
            elif number in plan.found:
                file.write(encoded(plan.found[number]))
        for number in sorted(plan.found.keys() - {line.number for line in plan.damaged}):
            file.write(encoded(plan.found[number]))
        details: dict[str, Any] = {"copy": copy.name, "lines": plan.lines()}
        file.write(_event(f"repaired/{copy.name}", REPAIRED, details))
        for branch, highest in numbers:
            file.write(_event(f"numbers/{branch}/{copy.name}", NUMBERS_TAKEN, {"branch": branch, "number": highest}))
        file.flush()
        os.fsync(file.fileno())
    return copy


def _event(key: str, kind: str, details: dict[str, Any]) -> bytes:
    body = {"kind": kind, "details": details}
    return encoded(JournalRecord(id=f"event:{key}", kind="event", time=utc_now(), body=body))


def _places(journal: Path) -> Iterator[tuple[int, bytes, JournalRecord | DamagedLine]]:
    """The complete lines of a journal with their numbers and what they hold."""
    with journal.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield number, line, decoded(line, number)


def _rows_of(database: Path, places: Sequence[tuple[int, bytes, JournalRecord | DamagedLine]]) -> dict[int, JournalRecord]:
    """What a database has of the damaged lines, where its rows before and after them are those of the journal; all that it has
    if no line of the journal is whole.
    """
    seqs, seen = _sequence(places)
    with suppress(duckdb.Error), closing(duckdb.connect(str(database), read_only=True)) as connection:
        every = " UNION ALL ".join(f"SELECT seq, '{kind}' AS kind, id FROM {table}" for kind, table in TABLES.items())
        rows = {seq: (kind, id) for seq, kind, id in connection.execute(every).fetchall()}
        if not seen:
            return {number: _record(connection, *rows[seq]) for number, seq in enumerate(sorted(rows), start=1)}
        usable = {seq: record.id for seq, record in seen.items()}
        found = {}
        for number, seq in seqs.items():
            before, after = max((s for s in usable if s < seq), default=None), min((s for s in usable if s > seq), default=None)
            neighbours = [place for place in (before, after) if place is not None and place in rows]
            if seq in rows and neighbours and all(":".join(rows[place]) == usable[place] for place in neighbours):
                found[number] = _record(connection, *rows[seq])
        return found
    return {}


def _sequence(
    places: Sequence[tuple[int, bytes, JournalRecord | DamagedLine]],
) -> tuple[dict[int, int], dict[int, JournalRecord]]:
    """The positions that damaged lines had when they were whole, by their numbers; and the records at the other positions."""
    seqs: dict[int, int] = {}
    seen: dict[int, JournalRecord] = {}
    ids: set[str] = set()
    for number, _, record in places:
        position = len(seqs) + len(seen) + 1
        if isinstance(record, DamagedLine):
            seqs[number] = position
        elif record.id not in ids:
            ids.add(record.id)
            seen[position] = record
    return seqs, seen


def _record(connection: duckdb.DuckDBPyConnection, kind: Any, id: str) -> JournalRecord:
    """The record that a row was made from, without audit scores, which no table has."""
    extra = "kind" if kind == "event" else "NULL"
    sql = f"SELECT record, strftime(created, '%Y-%m-%dT%H:%M:%S.%gZ'), {extra} FROM {TABLES[kind]} WHERE id = ?"
    text, time, event_kind = connection.execute(sql, [id]).fetchall()[0]
    body = json.loads(text)
    if kind == "event":
        body = {"kind": event_kind, "details": body}
    if kind == "run":
        body = {**body, **dict.fromkeys(AUDIT_FIELDS)}
    return JournalRecord(id=f"{kind}:{id}", kind=kind, time=time or utc_now(), body=body)
