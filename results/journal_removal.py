"""Moves a tag's records from a journal into a file of their own. Nothing else may have the journal open meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path

from research.files import replacing
from results.journal import DamagedLine, JournalRecord, decoded, read_journal


def take_out(journal: Path, tag: str, file: Path) -> int:
    """Moves the lines of a tag to `file`, and returns how many there were. Both files are complete or as they were.

    Lines that can't be read stay, as do events that name neither a branch nor an experiment.
    """
    belongs = _membership(journal, tag)
    with replacing(file) as taken, replacing(journal) as rest:
        moved = 0
        with journal.open("rb") as lines, taken.open("wb") as out, rest.open("wb") as stays:
            for number, line in enumerate(lines, start=1):
                record = decoded(line, number) if line.endswith(b"\n") else None
                is_its = isinstance(record, JournalRecord) and belongs(record)
                (out if is_its else stays).write(line)
                moved += is_its
            for written in (out, stays):
                written.flush()
                os.fsync(written.fileno())
    return moved


def _membership(journal: Path, tag: str) -> Callable[[JournalRecord], bool]:
    """Whether a record is one of a tag: its branches, their experiments, runs and verdicts, and events about these."""
    branches, experiments = set[str](), set[str]()

    def ignore(_: DamagedLine) -> None:
        """Damaged lines stay where they are."""

    for record in read_journal(journal, on_damage=ignore):
        if record.kind == "branch" and record.body["tag"] == tag:
            branches.add(record.body["name"])
        elif record.kind == "experiment" and record.body["branch"] in branches:
            experiments.add(record.body["id"])

    def belongs(record: JournalRecord) -> bool:
        body = record.body
        if record.kind == "branch":
            return body["name"] in branches
        if record.kind == "experiment":
            return body["id"] in experiments
        if record.kind in ("run", "verdict"):
            return body["experiment_id"] in experiments
        told = body["details"]
        return bool({told.get("branch"), told.get("group")} & branches) or told.get("experiment") in experiments

    return belongs
