"""The characters that text from elsewhere may have: those that a reader can see. Standard library only.

What a run prints, what researchers write and the text of a train.py reach people's terminals, tables and language models. A
language model reads what no person sees, so this is a list of what is allowed: printable ASCII, and letters, numbers,
punctuation and symbols by their Unicode category, but for those that look like nothing. White space becomes plain spaces.
"""

import unicodedata
from functools import lru_cache
from typing import Literal

Kind = Literal["shown", "space", "mark", "hidden"]

MAX_MARKS = 2
"""Combining marks on one character, at most: Vietnamese and Thai need two."""

SHOWN = frozenset(
    {
        *("Lu", "Ll", "Lt", "Lm", "Lo"),
        *("Nd", "Nl", "No"),
        *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"),
        *("Sm", "Sc", "Sk", "So"),
    }
)
"""Unicode categories of characters with a shape. Controls, private use and unassigned code points have others."""

BLANK = frozenset(
    {
        *map(chr, (0x115F, 0x1160, 0x3164, 0xFFA0)),  # fillers of Hangul syllables, which are letters
        *map(chr, (0x2800, 0xFFFC, 0x1D159)),  # Braille without dots, the place of an object, a note without a head
        *map(chr, range(0x13430, 0x13456)),  # controls and blanks of hieroglyphs
    }
)
"""Characters of those categories that look like nothing."""

MARKS = ((0x0300, 0x034E), (0x0350, 0x036F), (0x0483, 0x0487), (0x0591, 0x05C7), (0x0610, 0x065F), (0x0900, 0x0DFF),
         (0x0E31, 0x0E4E))  # fmt: skip
"""Ranges of combining marks that are seen: accents, and the vowels of Hebrew, Arabic, India's scripts and Thai."""


def visible(text: str, *, instead: str = "") -> str:
    """The text on one line without what can't be seen, which becomes `instead`; white space becomes plain spaces."""
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    marks = MAX_MARKS  # on nothing, a mark is left out
    for character in text:
        kind = kind_of(character)
        if kind == "mark":
            marks += 1
            kept.append(character if marks <= MAX_MARKS else "")
            continue
        marks = 0 if kind == "shown" else MAX_MARKS
        kept.append({"shown": character, "space": " ", "hidden": instead}[kind])
    return "".join(kept)


def first_hidden(line: str) -> str | None:
    """The first character of a line that can't be seen, or a mark too many; None if there is none. Spaces are no such thing."""
    if line.isascii() and line.isprintable():
        return None
    marks = MAX_MARKS
    for character in line:
        kind = kind_of(character)
        marks = 0 if kind == "shown" else marks + 1 if kind == "mark" else MAX_MARKS
        if kind == "hidden" or (kind == "space" and character not in " \t\f") or (kind == "mark" and marks > MAX_MARKS):
            return character
    return None


@lru_cache(maxsize=4096)
def kind_of(character: str) -> Kind:
    """Whether a character is shown, is white space, is a mark on the one before, or can't be seen."""
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category in ("Mn", "Mc"):
        return "mark" if any(first <= ord(character) <= last for first, last in MARKS) else "hidden"
    return "shown" if category in SHOWN and character not in BLANK else "hidden"
