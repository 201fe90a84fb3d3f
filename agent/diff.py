"""Unified diffs of train.py as text: made, read and applied."""

import difflib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from research.remembered_texts import Remembered

_HEADER = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, kw_only=True)
class Hunk:
    """One hunk of a unified diff. Its lines are stored without line endings."""

    old_start: int
    """Number of the hunk's first line in the old text, from 1; for a pure insertion, of the line before it."""
    new_start: int
    lines: tuple[tuple[str, str], ...]
    """The sign and the text of each line. The sign is "-" (removed), "+" (added) or " " (context)."""

    @property
    def old(self) -> list[str]:
        """The lines that the hunk replaces."""
        return [text for sign, text in self.lines if sign != "+"]

    @property
    def new(self) -> list[str]:
        """The lines that replace them."""
        return [text for sign, text in self.lines if sign != "-"]

    @property
    def added(self) -> list[str]:
        return [text for sign, text in self.lines if sign == "+"]

    @property
    def removed(self) -> list[str]:
        return [text for sign, text in self.lines if sign == "-"]

    def reversed(self) -> "Hunk":
        """The hunk that undoes this one."""
        signs = {"+": "-", "-": "+", " ": " "}
        lines = tuple((signs[sign], text) for sign, text in self.lines)
        return Hunk(old_start=self.new_start, new_start=self.old_start, lines=lines)


@Remembered
def unified_diff(old: str, new: str) -> str:
    """The change from `old` to `new` as a unified diff of research/train.py; empty if nothing changed."""
    lines = difflib.unified_diff(_lines(old), _lines(new), fromfile="a/research/train.py", tofile="b/research/train.py")
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def hunks(diff: str) -> Iterator[Hunk]:
    """The hunks of a unified diff of one file. If the diff was cut off, its last hunk is incomplete."""
    lines = iter(diff.split("\n"))
    for line in lines:  # outside of hunks, lines that begin with --- and +++ are file names
        if header := _HEADER.match(line):
            old_start, old_count, new_start, new_count = (1 if number is None else int(number) for number in header.groups())
            taken = tuple(_hunk_lines(lines, old_count, new_count))
            yield Hunk(old_start=old_start, new_start=new_start, lines=taken)


def apply_diff(text: str, diff: str, *, reverse: bool = False) -> str:
    """`text` with a unified diff applied, or undone. Raises ValueError if the diff doesn't apply.

    A missing newline at the end of `text` stays missing.
    """
    lines = text.split("\n")
    result: list[str] = []
    position = 0
    for hunk in hunks(diff):
        step = hunk.reversed() if reverse else hunk
        old = step.old
        begin = step.old_start - 1 if old else step.old_start
        if lines[begin : begin + len(old)] != old or begin < position:
            raise ValueError("the diff does not fit")
        result += lines[position:begin] + step.new
        position = begin + len(old)
    return "\n".join(result + lines[position:])


def _hunk_lines(lines: Iterator[str], old_left: int, new_left: int) -> Iterator[tuple[str, str]]:
    """The sign and the text of a hunk's lines, by the counts of old and new lines in its header."""
    while old_left > 0 or new_left > 0:
        line = next(lines, None)
        if line is None:
            return
        if line.startswith("\\"):  # "\ No newline at end of file" is about the line before it
            continue
        sign = line[0] if line[:1] in ("+", "-") else " "
        old_left, new_left = old_left - (sign != "+"), new_left - (sign != "-")
        yield sign, line[1:]


def _lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline="\n"))  # as git sees lines: str.splitlines() also splits at form feeds
