"""Reads any results.tsv of the wild: other columns, names and cases, quoted cells, headers that change in mid-file, crashes as
0 or inf.

Every line that isn't blank is a header, a row, or listed as unreadable: none is dropped in silence.
"""

import contextlib
import csv
import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from research.data.decoding import marked_encoding, unmarked_utf16
from research.data.documents import PROBE_BYTES
from research.errors import UserError
from research.formatting import counted, one_line, printable, shortened, size

Status = Literal["keep", "discard", "crash"]
Column = Literal["commit", "score", "memory", "status", "description"]

POSITIONS: Mapping[Column, int] = {"commit": 0, "score": 1, "memory": 2, "status": 3, "description": 4}
"""The columns of karpathy/autoresearch, for a file without a header."""

MEMORY_IN_MB = ("memory_mb", "mem_mb", "vram_mb", "peak_vram_mb", "peak_memory_mb")
"""What a column is called whose figures are MiB, not GiB."""

NAMES: tuple[tuple[Column, tuple[str, ...]], ...] = (
    ("commit", ("commit", "hash", "sha", "id", "experiment", "exp", "run")),
    ("score", ("val_bpb", "bpb", "val", "score", "metric", "val_loss", "loss", "result")),
    ("memory", ("memory_gb", "memory", "mem_gb", "mem", "vram_gb", "vram", "peak_memory_gb", *MEMORY_IN_MB)),
    ("status", ("status", "decision", "verdict", "outcome", "action", "kept", "state")),
    ("description", ("description", "desc", "idea", "title", "change", "changes", "hypothesis", "summary", "note", "notes")),
)
"""What columns are called, the most telling name first, without case, spaces or dashes."""

STATUSES: tuple[tuple[Status, re.Pattern[str]], ...] = (
    ("crash", re.compile(r"crash|fail|error|oom|timeout|diverge|invalid|nan|abort|broken", re.I)),
    (
        "discard",
        re.compile(r"discard|reject|revert|drop|no[_ -]?keep|not[_ -]kept|worse|skip|no$|false$|undo|neutral|measure", re.I),
    ),
    ("keep", re.compile(r"keep|kept|accept|baseline|best|improve|adopt|merge|yes$|true$|new[_ -]head", re.I)),
)
"""Status by what is written in the column; the first pattern that is found counts."""

WORST_SCORE = 100.0
"""A val_bpb beyond this is none: bytes have 8 bits."""

SHOWN = 200
"""Characters of an unreadable line that are shown."""

HASH = re.compile(r"[0-9a-f]{7,40}", re.I)
"""A commit. What is no hash, such as a dash for all rows, doesn't say that two rows ran the same program."""

RERUN = re.compile(r"(control|confirm)( \d+)?: |wave \d+: run \d+ of \d+$", re.I)
"""How this farm begins the description of a known program's run, and describes a run of near-misses together."""

MERGE, MERGED_WIDTH = "merge: ", 60
"""How this farm begins the description of ideas that are put together, and the characters of each idea's that follow."""

LARGEST_FILE = 20 * 10**6
"""Bytes; a table of a hundred thousand experiments is smaller."""

FEWEST_ROWS = 0.1
"""A file that doesn't begin with a header is no table if fewer of its lines are rows: prose has some by chance."""

LOOKS_LIKE = (
    "A table has a line per experiment, with tabs or commas between the columns, under a header that names a score and a "
    "status, such as `commit, val_bpb, memory_gb, status, description` above `3f9c2e1, 1.042310, 11.8, keep, baseline`"
)
"""What a results table looks like, for who gives another file."""


@dataclass(frozen=True, kw_only=True)
class ForeignRow:
    """One experiment of a foreign file."""

    line: int
    """Number of its line, from 1."""
    commit: str
    """Empty if the file has none."""
    score: float | None
    """val_bpb; None for a crash."""
    memory_gb: float | None
    """Peak memory in GiB; None for a crash, or if the file has none."""
    status: Status
    description: str


@dataclass(frozen=True, kw_only=True)
class UnreadableLine:
    """A line that is no row, and why."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """What a foreign file holds. Its lines that aren't blank are these, each once."""

    sha256: str
    """SHA-256 of its text, as 64 hex digits."""
    rows: tuple[ForeignRow, ...]
    unreadable: tuple[UnreadableLine, ...]
    headers: tuple[int, ...]
    """Line numbers."""
    duplicates: tuple[int, ...]
    """Line numbers of rows that repeat an earlier one: same commit, score, status and description."""
    reruns: Mapping[int, int | None]
    """Rows that ran a known program again and are no ideas, by line number, with the line of its first row, if there is one."""

    @property
    def is_table(self) -> bool:
        """Whether it is a table of results: it begins with a header, or a good part of its lines are rows."""
        lines = [*(row.line for row in self.rows), *(line.line for line in self.unreadable)]
        begins_with_header = bool(self.headers) and self.headers[0] < min(lines, default=math.inf)
        return begins_with_header or len(self.rows) > FEWEST_ROWS * len(lines)


def read_foreign(path: Path) -> ForeignFile:
    """The rows of a file. Raises UserError if it can't be opened, is no table of results, or has no rows."""
    name = printable(path)
    try:
        with path.open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{name} can't be read: {error.strerror or error}") from None
    if len(data) > LARGEST_FILE:
        raise UserError(f"{name} is no results table: it has more than {size(LARGEST_FILE)}. {LOOKS_LIKE}.")
    encodings = (marked_encoding(data) or unmarked_utf16(data[:PROBE_BYTES]) or "utf-8", "utf-8")
    files = [parse_foreign(data.decode(encoding, errors="replace")) for encoding in dict.fromkeys(encodings)]
    file = next((found for found in files if found.is_table), files[0])
    if not file.is_table:
        raise UserError(f"{name} is no results table: {_what_is_wrong(file)}. {LOOKS_LIKE}.")
    if not file.rows and not file.unreadable:
        raise UserError(f"{name} holds no experiment, only a header: it needs a row for each.")
    return file


def _what_is_wrong(file: ForeignFile) -> str:
    """Why a file is no table, in words."""
    lines = counted(len(file.rows) + len(file.unreadable), "line")
    if not file.unreadable:
        return "it is empty"
    first = file.unreadable[0]
    return f"{len(file.rows)} of {lines} can be read as a row (line {first.line}: {first.reason})"


def parse_foreign(text: str) -> ForeignFile:
    """The rows of a file's text."""
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    separator = "\t" if any("\t" in line for line in lines) else ","
    columns: Mapping[Column, int] = POSITIONS
    in_mb = False
    rows: list[ForeignRow] = []
    unreadable: list[UnreadableLine] = []
    headers: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = _cells(line, separator)
        header = _header(cells)
        if header is not None:
            columns, in_mb = header, _names(cells)[header.get("memory", 0)] in MEMORY_IN_MB
            headers.append(number)
            continue
        row = _row(number, cells, columns, in_mb=in_mb)
        if isinstance(row, ForeignRow):
            rows.append(row)
        else:
            unreadable.append(UnreadableLine(line=number, text=one_line(line, SHOWN), reason=row))
    return ForeignFile(
        sha256=hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(),
        rows=tuple(rows),
        unreadable=tuple(unreadable),
        headers=tuple(headers),
        duplicates=tuple(_duplicates(rows)),
        reruns=_reruns(rows),
    )


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a line. Quotation marks around a cell protect what is in it; one that isn't closed is a mere character."""
    cells = line.split(separator)
    if '"' in line and line.count('"') % 2 == 0:
        with contextlib.suppress(csv.Error, ValueError):  # a cell that is too long, or a carriage return inside
            (cells,) = csv.reader([line], delimiter=separator, skipinitialspace=separator == ",")
    return [cell.strip().strip('"') for cell in cells]


def _header(cells: Sequence[str]) -> Mapping[Column, int] | None:
    """Where the columns are, if these cells are a header: it names a score and a status."""
    names = _names(cells)
    found: dict[Column, int] = {}
    for column, known in NAMES:
        place = next((names.index(name) for name in known if name in names), None)
        if place is not None:
            found[column] = place
    return found if "score" in found and "status" in found else None


def _names(cells: Sequence[str]) -> list[str]:
    return [re.sub(r"[^a-z]+", "_", cell.lower()).strip("_") for cell in cells]


def _row(number: int, cells: Sequence[str], columns: Mapping[Column, int], *, in_mb: bool) -> ForeignRow | str:
    """The row in these cells, or why there is none; `in_mb`: memory is in MiB."""

    def cell(column: Column) -> str:
        place = columns.get(column, len(cells))
        return cells[place] if place < len(cells) else ""

    if len(cells) <= max(columns["score"], columns["status"]):
        return f"{counted(len(cells), 'column')}: too few for a score and a status"
    status = next((status for status, pattern in STATUSES if pattern.search(cell("status"))), None)
    if status is None:
        return f"no status is called {one_line(cell('status'), 40)!r}"
    score = _score(cell("score"))
    if score is None and status != "crash":
        return f"a {status} without a score: {one_line(cell('score'), 40)!r}"
    memory = None if status == "crash" else _positive(cell("memory"))
    return ForeignRow(
        line=number,
        commit=one_line(cell("commit"), SHOWN),
        score=None if status == "crash" else score,
        memory_gb=memory / 1024 if memory is not None and in_mb else memory,
        status=status,
        description=one_line(cell("description"), SHOWN),
    )


def _score(text: str) -> float | None:
    """The score in a cell; None for 0, inf, nan and what is no number."""
    value = _positive(text)
    return value if value is not None and value < WORST_SCORE else None


def _positive(text: str) -> float | None:
    """The number in a cell; None unless it is finite and above 0."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _duplicates(rows: Sequence[ForeignRow]) -> list[int]:
    seen: set[tuple[str, float | None, Status, str]] = set()
    lines = []
    for row in rows:
        key = (row.commit, row.score, row.status, row.description)
        if key in seen:
            lines.append(row.line)
        seen.add(key)
    return lines


def _reruns(rows: Sequence[ForeignRow]) -> dict[int, int | None]:
    """The rows whose commit an earlier row with a score has, or whose description says that no idea is tried by itself."""
    first: dict[str, int] = {}
    found: dict[int, int | None] = {}
    described = set[str]()
    for row in rows:
        if row.score is None:
            continue
        commit = row.commit[:7].lower() if HASH.fullmatch(row.commit) else ""
        if commit in first or RERUN.match(row.description) or _is_merge(row.description, described):
            found[row.line] = first.get(commit)
        elif commit:
            first[commit] = row.line
        described.add(shortened(row.description, MERGED_WIDTH))
    return found


def _is_merge(description: str, described: Collection[str]) -> bool:
    """Whether a description says that ideas of earlier rows are put together, or that one of them is taken out."""
    parts = description.removeprefix(MERGE).split("; ")
    return description.startswith(MERGE) and any(part.removeprefix("without ") in described for part in parts)
