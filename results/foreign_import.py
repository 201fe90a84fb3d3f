"""Foreign results in the store: what other systems tried, for researchers to read. Nothing of the farm's own depends on it."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from research.errors import UserError
from results.autopsy import Autopsy, examine
from results.foreign_tsv import ForeignFile
from results.store import Store

FOREIGN = "foreign"
"""The kind of the event that records a foreign file."""

MOST_EXAMINED = 3000
"""Rows of a file up to which its gain is estimated: with 700 that takes 1 s of one CPU core, with 3000 it takes 6."""

REPEATED, RERUN = "repeats an earlier row", "ran a known program again: no idea"


@dataclass(frozen=True, kw_only=True)
class Import:
    """What an import did."""

    name: str
    """The name that the file is known by."""
    is_new: bool
    """Whether anything was recorded: not if the same file is there already."""
    replaces: bool = False
    """Whether another file of that name was there, whose rows are shown no more."""


def examined(file: ForeignFile, sigma: float | None) -> Autopsy:
    """The autopsy of a file, without an estimate if it has more than MOST_EXAMINED rows."""
    if len(file.rows) > MOST_EXAMINED:
        return Autopsy(file=file, sigma=sigma, sigma_is_given=sigma is not None)
    return examine(file, sigma)


def record_import(store: Store, event: Mapping[str, Any], *, replace: bool) -> Import:
    """Records a file's rows and its autopsy, as `event_of` gives them, unless the same file is there. Raises UserError if the
    name is taken, without `replace`.
    """
    name, digests = event["name"], imported(store)
    same = next((known for known, digest in digests.items() if digest == event["sha256"]), None)
    if same is not None:
        return Import(name=same, is_new=False)
    if name in digests and not replace:
        option = f"--name {shlex.quote(name)}"
        raise UserError(f"Another file was imported as {name}: choose another --name, or {option} to replace that one.")
    store.add_event(FOREIGN, event)
    return Import(name=name, is_new=True, replaces=name in digests)


def imported(store: Store) -> dict[str, str]:
    """The SHA-256 of the file that each name stands for now."""
    sql = f"SELECT record ->> '$.name', record ->> '$.sha256' FROM events WHERE kind = '{FOREIGN}' ORDER BY seq"
    return dict(store.query(sql, max_rows=1_000_000).rows)  # of one name the latest


def event_of(found: Autopsy, name: str) -> dict[str, Any]:
    """The details of the event that records a foreign file."""
    return {
        "name": name,
        "sha256": found.file.sha256,
        "lines": lines_of(found.file, helps(found)),
        "sigma": found.sigma,
        "reported_gain": found.reported_gain,
        "estimated_gain": found.estimated_gain,
        "low": found.low,
        "high": found.high,
    }


def helps(found: Autopsy) -> dict[int, float]:
    """For each keep after the baseline the probability that it helps, by its line."""
    return {row.line: p for row, p in zip(found.chain[1:], found.helps, strict=True)}


def lines_of(file: ForeignFile, helps: Mapping[int, float]) -> list[dict[str, Any]]:
    """A file's rows and the lines that can't be read, in order, as the view `foreign_results` shows them."""
    repeated = set(file.duplicates)
    rows = [
        {
            **{name: value for name, value in asdict(row).items() if name != "score"},
            "val_bpb": row.score,
            "helps": helps.get(row.line),
            "problem": REPEATED if row.line in repeated else RERUN if row.line in file.reruns else None,
        }
        for row in file.rows
    ]
    rows += [
        {"line": line.line, "status": "unreadable", "description": line.text, "problem": line.reason}
        for line in file.unreadable
    ]
    return sorted(rows, key=lambda row: row["line"])
