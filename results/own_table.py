"""What the rows of a results.tsv are, where experiments of this farm wrote them: its records know more than five columns."""

from collections.abc import Iterable
from dataclasses import replace

from results.experiment import ExperimentRecord, edit_of
from results.foreign_tsv import ForeignFile
from results.tsv import rows_so_far


def own_rows(file: ForeignFile, records: Iterable[ExperimentRecord]) -> dict[int, ExperimentRecord]:
    """The record that wrote each row, by the row's line. A row with another score is a person's own run, and is left out."""
    rows = {row: record for record in records for row in rows_so_far(record)}
    scored = ((row.line, rows.get((row.commit, row.score))) for row in file.rows)
    return {line: record for line, record in scored if record is not None}


def with_own_kinds(file: ForeignFile, own: dict[int, ExperimentRecord]) -> ForeignFile:
    """The file, in which rows of merges, waves, controls and confirmations are no ideas, nor are those that repeat an earlier
    one: they are further runs of a program that an earlier row has, or tell nothing by themselves.
    """
    of_program: dict[str, int] = {}
    edits, found = set[str](), dict(file.reruns)
    for line, record in sorted(own.items()):
        program, edit = record.experiment.program, edit_of(record.experiment)
        first = of_program.get(program) if program else None
        is_idea = record.is_idea and first is None and edit not in edits - {""}
        if not is_idea and record.experiment.kind != "baseline":
            found.setdefault(line, first)
        if program:
            of_program.setdefault(program, line)
        edits.add(edit if record.is_idea else "")
    return replace(file, reruns=dict(sorted(found.items())))
