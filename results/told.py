"""What a journal has told so far, record by record, and its file: whoever reads a long history need not decode all of it.

The file is a cache of the outlines of all experiments and of what else is looked at as a whole. It has the position in the
journal up to which it includes the records, and a checksum over all records up to there; it isn't used if the journal differs,
nor by another version of the code.
"""

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from research.files import write_atomically
from research.result import RunResult
from results.code_version import code_version
from results.collection import without_collection
from results.experiment import (
    Branch,
    Experiment,
    Usage,
    Verdict,
    branch_from,
    experiment_from,
    run_from,
    verdict_from,
)
from results.group_entries import (
    GAIN,
    HEAD,
    REQUEST,
    REQUEST_TAKEN,
    RULING,
    SUBMISSION,
    SUBMISSION_ENDED,
    Entry,
    Joined,
    Ran,
    Ruled,
    ruled_from,
)
from results.group_history import Decided
from results.journal import JournalReader, JournalRecord
from results.journal_index import FEWEST_TO_SAVE, SHARE_TO_SAVE
from results.outlines import Outline, outline_of
from results.researcher_costs import cost_in
from results.steering import SteeringEvents

log = logging.getLogger(__name__)

FILE = "history.outlines"

MOST_KEPT = 2**26
"""Bytes of a journal up to which its records are kept as they are read: they take five times as much in memory."""

MARK_BYTES = 4
"""The file begins with a checksum over the rest of it."""


@dataclass
class Told:
    """What the records so far have told."""

    branches: dict[str, Branch] = field(default_factory=dict)
    outlines: dict[str, Outline] = field(default_factory=dict)
    """All experiments, in the order of their records."""
    places: dict[str, list[int]] = field(default_factory=dict)
    """Where in the journal each group's entries stand; by group, as are the rulings, heads, gains and requests."""
    rulings: dict[str, list[Ruled]] = field(default_factory=dict)
    costs: dict[str, list[Usage]] = field(default_factory=dict)
    """By branch."""
    heads: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    gains: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The latest event of each group."""
    requests: dict[str, dict[int, str]] = field(default_factory=dict)
    """What people have asked for and no loop has taken up, by its number."""
    submissions: dict[str, dict[str, str]] = field(default_factory=dict)
    """The titles of what was submitted from outside and no loop has taken up, by its id."""
    steering: SteeringEvents = field(default_factory=SteeringEvents)

    def take(self, record: JournalRecord, at: int, kept: "Kept | None") -> None:
        """Takes the journal's record at a place into account; `kept` keeps it as well, if it is given."""
        body = record.body
        if record.kind == "branch":
            branch = branch_from(body)
            self.branches[branch.name] = branch
            self._take_entry(branch.head_branch, at, Joined(branch=branch), kept)
        elif record.kind == "experiment" and body["branch"] in self.branches:  # the branch's line may be damaged
            experiment = experiment_from(body)
            self.outlines[experiment.id] = outline_of(experiment, at)
            if kept is not None:
                kept.experiments[experiment.id] = experiment
        elif record.kind == "run" and body["experiment_id"] in self.outlines:
            self._take_run(body["experiment_id"], run_from(body), at, kept)
        elif record.kind == "verdict":
            self._take_verdict(body["experiment_id"], Decided(time=record.time, verdict=verdict_from(body)), at, kept)
        elif record.kind == "event":
            self._take_event(body["kind"], body["details"], at, kept)
            self.steering.take(body["kind"], body["details"], record.time)
        cost = cost_in(record)
        if cost is not None:
            self.costs.setdefault(cost.branch, []).append(cost.usage)

    def _take_run(self, id: str, run: RunResult, at: int, kept: "Kept | None") -> None:
        outline = self.outlines[id]
        self.outlines[id] = outline.with_run(run, at)
        entry = None
        if kept is not None:
            kept.runs.append((id, run))
            entry = Ran(experiment=kept.experiments[id], run=run)
        self._take_entry(self.branches[outline.experiment.branch].head_branch, at, entry, kept)

    def _take_verdict(self, id: str, decided: Decided, at: int, kept: "Kept | None") -> None:
        if id in self.outlines:
            self.outlines[id] = self.outlines[id].with_verdict(decided.verdict, at)
        if kept is not None:
            kept.verdicts.append((id, decided.verdict))
            kept.decisions.setdefault(id, []).append(decided)

    def _take_event(self, kind: str, details: Mapping[str, Any], at: int, kept: "Kept | None") -> None:
        if kind == RULING:
            ruled = ruled_from(details)
            self.rulings.setdefault(details["group"], []).append(ruled)
            self._take_entry(details["group"], at, ruled, kept)
        elif kind == HEAD:
            self.heads.setdefault(details["group"], []).append(dict(details))
        elif kind == GAIN:
            self.gains[details["group"]] = dict(details)
        elif kind == REQUEST:
            self.requests.setdefault(details["branch"], {})[details["number"]] = details["request"]
        elif kind == REQUEST_TAKEN:
            self.requests.get(details["branch"], {}).pop(details["number"], None)
        elif kind == SUBMISSION:
            self.submissions.setdefault(details["branch"], {})[details["id"]] = details["title"]
        elif kind == SUBMISSION_ENDED:
            self.submissions.get(details["branch"], {}).pop(details["id"], None)

    def _take_entry(self, group: str, at: int, entry: Entry | None, kept: "Kept | None") -> None:
        self.places.setdefault(group, []).append(at)
        if kept is not None and entry is not None:
            kept.entries.setdefault(group, []).append(entry)


@dataclass(frozen=True)
class Kept:
    """The records themselves, as they were decoded."""

    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: list[tuple[str, RunResult]] = field(default_factory=list)
    verdicts: list[tuple[str, Verdict]] = field(default_factory=list)
    decisions: dict[str, list[Decided]] = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    """By group."""


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What the file holds."""

    version: str
    position: int
    checksum: int
    outlines: Sequence[Outline]
    rest: Told
    """All else."""


def told_by(reader: JournalReader, *, fewest: int = FEWEST_TO_SAVE, most_kept: int = MOST_KEPT) -> tuple[Told, Kept | None]:
    """What the journal of a reader, which has read nothing yet, has told, and its records if all of them are in memory.

    What is not in the file is read, and the file is written again if that is much: of a journal with at least `fewest` records.
    """
    path = reader.path.with_name(FILE)
    saved, is_saved = None, path.exists()  # another process may write it meanwhile
    if is_saved:
        reader.pass_over()
        saved = _load(path, reader)
    told = Told() if saved is None else _told_in(saved)
    is_long = reader.path.exists() and reader.path.stat().st_size > most_kept
    kept = Kept() if saved is None and not is_long else None
    first = 0 if saved is None else saved.position
    with without_collection():
        if is_saved:
            for at, record in reader.records(after=first):
                told.take(record, at, kept)
        else:
            for record in reader.one_by_one():
                told.take(record, len(reader), kept)
    if len(reader) >= fewest and len(reader) - first > SHARE_TO_SAVE * first and not reader.damaged:
        _save(path, reader, told)
    return told, kept


def _told_in(saved: _Saved) -> Told:
    told = saved.rest
    told.outlines = {outline.experiment.id: outline for outline in saved.outlines}
    return told


def _load(path: Path, reader: JournalReader) -> _Saved | None:
    """What a file holds; None if it is damaged, of another version, or of records that the journal doesn't begin with."""
    try:
        data = path.read_bytes()
        if int.from_bytes(data[:MARK_BYTES], "little") != zlib.crc32(memoryview(data)[MARK_BYTES:]):
            raise ValueError("its checksum does not match")
        with without_collection():
            saved = msgspec.msgpack.decode(memoryview(data)[MARK_BYTES:], type=_Saved)
    except (FileNotFoundError, PermissionError):  # another user's home
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as problem:
        log.warning("%s can't be read and is left out: %s", path, problem)
        return None
    return saved if saved.version == code_version() and reader.checksum(saved.position) == saved.checksum else None


def _save(path: Path, reader: JournalReader, told: Told) -> None:
    """Replaces the file, and the journal's index. What can't be written is left, since nothing depends on it."""
    at, checksum = len(reader), reader.checksum(len(reader))
    assert checksum is not None, "it has read so far"
    outlines, told.outlines = told.outlines, {}
    try:
        saved = _Saved(version=code_version(), position=at, checksum=checksum, outlines=tuple(outlines.values()), rest=told)
        data = msgspec.msgpack.encode(saved)
        write_atomically(path, zlib.crc32(data).to_bytes(MARK_BYTES, "little") + data, private=True)
        reader.save_index()
    except (OSError, ValueError, OverflowError) as problem:  # a folder of somebody else's; a text that is no Unicode
        log.info("%s is not written: %s", path, problem)
    finally:
        told.outlines = outlines
