"""Lessons and leads that researchers note for all loops of a group, as events tell of them.

A lesson says what the experiments have taught; a lead, what somebody should try. They are text of a model: data to weigh.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from research.formatting import one_line

if TYPE_CHECKING:
    from results.store import Store

NOTE = "note"
"""The kind of the event that records a note."""

NoteKind = Literal["lesson", "lead"]

KINDS: tuple[NoteKind, ...] = get_args(NoteKind)

MAX_NOTE = 500
"""Characters of a note; what is longer is cut."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A lesson or a lead."""

    number: int
    """Number within its group, from 1."""
    kind: NoteKind
    text: str
    author: str
    """The branch whose researcher has noted it."""


def add_note(store: "Store", group: str, author: str, kind: NoteKind, text: str, replaces: Sequence[int] = ()) -> int:
    """Records a note for the loops of a group, which replaces earlier ones: they are no longer shown. Returns its number."""
    number = len(store.events(NOTE, group)) + 1
    fields = {"branch": group, "author": author, "note": kind, "text": one_line(text, MAX_NOTE), "replaces": list(replaces)}
    while not store.add_event(NOTE, {**fields, "number": number}, id=f"{NOTE} {group} {number}"):
        number += 1  # another thread had this one
    return number


def latest_notes(store: "Store", group: str, kind: NoteKind, most: int) -> list[Note]:
    """The latest notes of a kind that no later one has replaced, oldest first."""
    replaced: set[int] = set()
    found: list[Note] = []
    for event in reversed(store.events(NOTE, group)):
        if len(found) == most:
            break
        if event["number"] not in replaced and event["note"] == kind:
            found.append(_note(event))
        replaced |= set(event["replaces"])
    return found[::-1]


def _note(event: dict[str, Any]) -> Note:
    return Note(number=event["number"], kind=event["note"], text=event["text"], author=event["author"])
